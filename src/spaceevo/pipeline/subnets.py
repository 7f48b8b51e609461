"""Stage 6: search the best subnet under each latency budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from spaceevo import interrupts, plugins
from spaceevo.artifacts import storage_errors, write_atomically
from spaceevo.errors import EncodingError
from spaceevo.measure.campaign import measure_metric
from spaceevo.measure.metrics import METRICS
from spaceevo.nets.network import Network, Program, program_of
from spaceevo.pipeline import predict, space, supernet
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import measured_subnets, one_core
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
from spaceevo.train.batches import Images, split
from spaceevo.train.evaluation import BATCH_SIZE, calibrated_top1

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
        context.run.stage(supernet.NAME).path,
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
    trained: Path,
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
        trained: Folder of `train_supernet`.
        latency_ms: Predicts.
        budgets_ms: Ascending.
        notes: Accuracies, one per line, as they come; those that are there are not asked for again.
        seed: Of the search.
        progress: Called with subnets evaluated and in all.
        excess: See `search_subnets`.
    """
    settings = context.recipe.subnets

    def each(top1: Callable[[Subnet], float], subnets: Sequence[Subnet]) -> list[float]:
        values = dict.fromkeys(range(len(subnets)), 0.0)
        for number, value in context.engine.map(partial(_evaluate, top1), subnets, lambda *_: interrupts.check()):
            with storage_errors(notes), notes.open("a") as file:
                file.write(json.dumps([encode(subnets[number]), value]) + "\n")
            values[number] = value
        return list(values.values())

    return search_subnets(
        own,
        budgets_ms=budgets_ms,
        latency_ms=latency_ms,
        top1=partial(_accuracy, context, own, trained.absolute()),
        each=each,
        method=settings.method,
        excess=excess,
        trained=supernet.trained_subnets(context, own, latency_ms).extremes(context.recipe.seed),
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


def _accuracy(context: Context, own: SearchSpace, trained: Path, subnet: Subnet) -> float:
    network, images, held_out = _judge(
        context, own, trained, (trained / supernet.weights_name("int8")).stat().st_mtime_ns
    )
    num_batches = context.recipe.subnets.recalibration_batches
    return calibrated_top1(network, program_of(subnet), images, num_batches, held_out)


@lru_cache(maxsize=1)
def _judge(context: Context, own: SearchSpace, trained: Path, written_ns: int) -> tuple[Network, Images, Images]:
    """What an evaluation needs, kept for the next one: the supernet, and images to recalibrate and to judge on."""
    recipe = context.recipe
    images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return (
        supernet.load_network(context, own, trained, "int8"),
        images.take(slice(recipe.subnets.recalibration_batches * BATCH_SIZE)),
        held_out.take(slice(recipe.subnets.num_images)),
    )


def _evaluate(top1: Callable[[Subnet], float], subnet: Subnet, progress: ProgressCallback) -> float:
    with one_core():
        return top1(subnet)


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
            fits.append(fit_metric(name, subnets, context.at_device(partial(_metric, name, jobs), own)))
        else:
            fits.append(computed_metric(name))
    limits = Limits(fits=tuple(fits))
    write_atomically(folder / LIMITS, limits.model_dump_json(indent=1))
    return limits


def _metric(
    name: str, jobs: Sequence[tuple[str, Program, float]], context: Context, progress: ProgressCallback
) -> list[float]:
    return measure_metric(context.target, name, jobs, context.work_dir, progress)


def first_that_holds(context: Context, ranked: Sequence[RatedSubnet], budget_ms: float) -> RatedSubnet:
    """The most accurate of the best few whose measured latency meets the budget and its prediction.

    A predictor is right on average; the model that is handed out has to be right itself.
    """
    candidates = ranked[:NUM_MEASURED]
    measured = measured_subnets(context, [one.subnet for one in candidates], ("int8",), silent)

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
