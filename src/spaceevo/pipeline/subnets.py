"""Stage 6: search the best subnet under each latency budget."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from spaceevo.artifacts import write_atomically
from spaceevo.graph.nodes import Program
from spaceevo.measure.campaign import measure_metric
from spaceevo.measure.metrics import METRICS
from spaceevo.nets.network import program_of
from spaceevo.pipeline import predict, space, supernet
from spaceevo.pipeline.any_space import NOTES, search_supernet
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.handout import metadata_in_run
from spaceevo.pipeline.jobs import measured_subnets
from spaceevo.predict.metrics import computed_metric, fit_metric, metric_value
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part, silent
from spaceevo.records import FoundSubnet, MetricFit, Record, SubnetSearchResult, read_record
from spaceevo.search.pareto import pareto_front
from spaceevo.search.subnet_search import PredictedSubnet, RatedSubnet, best_within
from spaceevo.seeding import python_random
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet

NAME = "subnets"
TITLE = "Search the best subnets under each latency budget"
NEEDS = (predict.NAME, supernet.NAME)
#: Reaches it through the supernet, whose files differ with the space.
READS = (space.NAME,)
NUM_MEASURED = 5
MAX_PREDICTION_ERROR = 0.08
LIMITS = "limits.json"
LIMITS_SHARE = 0.1  # of the time, for the progress only
NUM_LIMIT_SUBNETS = 24
FILES = ("subnets.json", LIMITS, NOTES)
Candidate = TypeVar("Candidate", RatedSubnet, PredictedSubnet)


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
    metadata = metadata_in_run(context, best.largest(), best.encoding)
    fits = []
    names = list(context.recipe.subnets.limits)
    for number, name in enumerate(names):
        if METRICS.load(name).measure:
            own = part(progress, number / len(names), (number + 1) / len(names))
            fits.append(fit_metric(name, subnets, context.at_device(partial(_metric, name, jobs, metadata), own)))
        else:
            fits.append(computed_metric(name))
    limits = Limits(fits=tuple(fits))
    write_atomically(folder / LIMITS, limits.model_dump_json(indent=1))
    return limits


def _metric(
    name: str,
    jobs: Sequence[tuple[str, Program, float]],
    metadata: dict[str, str],
    context: Context,
    progress: ProgressCallback,
) -> list[float]:
    return measure_metric(context.target, name, jobs, context.work_dir, progress, metadata)


def first_that_holds(context: Context, ranked: Sequence[Candidate], budget_ms: float) -> Candidate:
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


def _record(rated: RatedSubnet, budget_ms: float) -> FoundSubnet:
    return FoundSubnet(
        budget_ms=budget_ms, encoding=encode(rated.subnet), predicted_ms=rated.latency_ms, top1=rated.top1
    )
