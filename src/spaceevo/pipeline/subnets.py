"""Stage 6: search the best subnet under each latency budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from spaceevo import plugins
from spaceevo.artifacts import storage_errors, write_atomically
from spaceevo.errors import EncodingError
from spaceevo.measure.campaign import Precision, measure_metric, measure_programs
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.session import Plan
from spaceevo.nets.network import Network, program_of
from spaceevo.pipeline import predict, space, supernet
from spaceevo.pipeline.context import Context
from spaceevo.predict.metrics import computed_metric, fit_metric, metric_value
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part, silent
from spaceevo.records import FoundSubnet, MetricFit, Record, SubnetSearchResult, read_record
from spaceevo.search.pareto import pareto_front
from spaceevo.search.subnet_search import RatedSubnet, best_within, search_subnets
from spaceevo.seeding import python_random
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import split
from spaceevo.train.evaluation import calibrated_top1

NAME = "subnets"
TITLE = "Search the best subnets under each latency budget"
NEEDS = (predict.NAME, supernet.NAME)
NUM_MEASURED = 5
MAX_PREDICTION_ERROR = 0.08
LIMITS, NOTES = "limits.json", "evaluated.jsonl"
LIMITS_SHARE = 0.1  # of the time, for the progress only
NUM_LIMIT_SUBNETS = 24


class Limits(Record):
    """The metrics that the recipe limits.

    Attributes:
        fits: How each follows from a subnet.
    """

    fits: tuple[MetricFit, ...]


def inputs(context: Context) -> dict[str, object]:
    """Settings of the search."""
    return {"subnets": context.recipe.subnets.model_dump(), "seed": context.recipe.seed}


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Search; accuracies are noted as they come, so that nothing is evaluated twice."""
    settings = context.recipe.subnets
    best = space.load_space(context)
    predictor = predict.load_predictor(context)
    budgets = predict.load_budgets(context)
    limits = _fit_limits(context, best, predictor, folder, part(progress, 0, LIMITS_SHARE if settings.limits else 0))

    def excess(subnet: Subnet) -> dict[str, float]:
        return {fit.metric: metric_value(fit, subnet) / settings.limits[fit.metric] - 1 for fit in limits.fits}

    rated = search_supernet(
        context,
        best,
        supernet.load_supernet(context, "int8"),
        predictor.network_ms,
        budgets,
        folder / NOTES,
        context.recipe.seed,
        part(progress, LIMITS_SHARE if settings.limits else 0, 1),
        excess,
    )
    evaluated = [_record(one, next(budget for budget in budgets if one.latency_ms <= budget)) for one in rated]
    found = [_record(first_that_holds(context, best_within(rated, budget), budget), budget) for budget in budgets]
    front = [evaluated[index] for index in pareto_front([(one.predicted_ms, one.top1) for one in evaluated])]
    result = SubnetSearchResult(space=best.encoding, found=tuple(found), evaluated=tuple(evaluated), front=tuple(front))
    path = folder / "subnets.json"
    write_atomically(path, result.model_dump_json(indent=1))
    return [path, folder / LIMITS]


def search_supernet(
    context: Context,
    own: SearchSpace,
    network: Network,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    notes: Path,
    seed: int,
    progress: ProgressCallback,
    excess: Callable[[Subnet], dict[str, float]] = lambda subnet: {},
) -> list[RatedSubnet]:
    """Search the subnets of a trained supernet with the settings of the recipe.

    Args:
        context: Data and settings.
        own: The supernet's space.
        network: The supernet after its LSQ+ phase.
        latency_ms: Predicts.
        budgets_ms: Ascending.
        notes: Accuracies, one per line, as they come; those that are there are not asked for again.
        seed: Of the search.
        progress: Called with subnets evaluated and in all.
        excess: See `search_subnets`.
    """
    recipe, settings = context.recipe, context.recipe.subnets
    train_images, search_images, _ = split(context.data, recipe.data.search_share, recipe.seed)
    search_images = search_images.take(slice(0, settings.num_images))

    def accuracy(subnet: Subnet) -> float:
        num_batches = settings.recalibration_batches
        value = calibrated_top1(network, program_of(subnet), train_images, num_batches, search_images)
        with storage_errors(notes), notes.open("a") as file:
            file.write(json.dumps([encode(subnet), value]) + "\n")
        return value

    return search_subnets(
        own,
        budgets_ms=budgets_ms,
        latency_ms=latency_ms,
        top1=accuracy,
        method=settings.method,
        excess=excess,
        window=settings.latency_window,
        population_size=settings.population_size,
        num_generations=settings.num_generations,
        num_mutations=settings.num_mutations,
        num_crossovers=settings.num_crossovers,
        num_candidates=settings.num_candidates,
        seed=seed,
        progress=progress,
        known=_read_notes(notes, own),
    )


def load(context: Context) -> SubnetSearchResult:
    """The found subnets."""
    return read_record(SubnetSearchResult, context.path(NAME, "subnets.json"))


def load_limits(context: Context) -> Limits:
    """How the metrics that the recipe limits follow from a subnet."""
    return read_record(Limits, context.path(NAME, LIMITS))


def _fit_limits(
    context: Context, best: SearchSpace, predictor: LatencyPredictor, folder: Path, progress: ProgressCallback
) -> Limits:
    """Fit every limited metric to random subnets of the space, unless the architecture alone decides it."""
    rng = python_random(context.recipe.seed, NAME, "limits")
    subnets = [best.smallest(), best.largest(), *(best.sample(rng) for _ in range(NUM_LIMIT_SUBNETS - 2))]
    jobs = [(encode(subnet), program_of(subnet), predictor.network_ms(subnet)) for subnet in subnets]
    fits = []
    names = list(context.recipe.subnets.limits)
    for number, name in enumerate(names):
        if plugins.load(METRICS, name).DEVICE:
            own = part(progress, number / len(names), (number + 1) / len(names))
            fits.append(fit_metric(name, subnets, measure_metric(context.target, name, jobs, context.work_dir, own)))
        else:
            fits.append(computed_metric(name))
    limits = Limits(fits=tuple(fits))
    write_atomically(folder / LIMITS, limits.model_dump_json(indent=1))
    return limits


def first_that_holds(context: Context, ranked: Sequence[RatedSubnet], budget_ms: float) -> RatedSubnet:
    """The most accurate of the best few whose measured latency meets the budget and its prediction.

    A predictor is right on average; the model that is handed out has to be right itself.
    """
    candidates = ranked[:NUM_MEASURED]
    precision: Precision = "int8"
    jobs = [(encode(one.subnet), program_of(one.subnet), precision) for one in candidates]
    with context.store() as store:
        measured = measure_programs(context.target, jobs, store, context.work_dir, Plan(), silent)

    def excess(position: int) -> float:
        latency_ms, predicted_ms = measured[position].latency_ms, candidates[position].latency_ms
        error = abs(latency_ms - predicted_ms) / latency_ms
        return max(0.0, latency_ms / budget_ms - 1) + max(0.0, error - MAX_PREDICTION_ERROR)

    return candidates[min(range(len(candidates)), key=lambda position: (excess(position), position))]


def _record(one: RatedSubnet, budget_ms: float) -> FoundSubnet:
    return FoundSubnet(budget_ms=budget_ms, encoding=encode(one.subnet), predicted_ms=one.latency_ms, top1=one.top1)


def _read_notes(path: Path, best: SearchSpace) -> dict[Subnet, float]:
    known: dict[Subnet, float] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            encoding, value = json.loads(line)
            known[decode(encoding, best)] = float(value)
        except (ValueError, TypeError, EncodingError):  # the line that an interruption cut off
            continue
    return known
