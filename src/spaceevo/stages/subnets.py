"""Search the best subnets under each latency budget."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from spaceevo.artifacts import write_atomically
from spaceevo.config import num_held_out
from spaceevo.graph.nodes import Program
from spaceevo.measure.campaign import measure_metric, reference_program
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.store import Store
from spaceevo.nets.network import program_of
from spaceevo.predict.metrics import computed_metric, fit_metric, metric_value
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part, silent
from spaceevo.records import FoundSubnet, MetricFit, Record, SubnetSearchResult, read_record
from spaceevo.run.context import Context
from spaceevo.run.jobs import measured_subnets
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.preflight import all_of
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.search.pareto import pareto_front
from spaceevo.search.subnet_search import PredictedSubnet, RatedSubnet, best_within
from spaceevo.seeding import python_random
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.stages import predict, space, supernet
from spaceevo.stages._any_space import NOTES, has_old_lines, search_supernet, trained_subnets
from spaceevo.tools.file_metadata import latency_told, metadata_in_run

RESULT = "subnets.json"
NUM_MEASURED = 5
MAX_PREDICTION_ERROR = 0.08
LIMITS = "limits.json"
LIMITS_SHARE = 0.1  # of the time, for the progress only
NUM_LIMIT_SUBNETS = 24
Candidate = TypeVar("Candidate", RatedSubnet, PredictedSubnet)


class Limits(Record):
    """The metrics that the recipe limits.

    Attributes:
        fits: How each follows from a subnet.
    """

    fits: tuple[MetricFit, ...]


@dataclass(frozen=True)
class FoundSubnets:
    """What the search found.

    Attributes:
        result: The found subnets, and all that were evaluated.
        limits: How the metrics that the recipe limits follow from a subnet.
    """

    result: SubnetSearchResult
    limits: Limits


class _Files:
    def save(self, value: FoundSubnets, folder: Path) -> list[Path]:
        write_atomically(folder / LIMITS, value.limits.model_dump_json(indent=1))
        write_atomically(folder / RESULT, value.result.model_dump_json(indent=1))
        return [folder / RESULT, folder / LIMITS]

    def load(self, folder: Path, context: Context, given: Given) -> FoundSubnets:
        return FoundSubnets(read_record(SubnetSearchResult, folder / RESULT), read_record(Limits, folder / LIMITS))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Settings of the search."""
    return {"subnets": context.recipe.subnets.model_dump(), "seed": context.recipe.seed}


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> FoundSubnets:
    """Search; accuracies are noted as they come, so that nothing is evaluated twice."""
    settings, seed, best = context.recipe.subnets, context.recipe.seed, given[space.STAGE].space
    predictor, budgets = given[predict.STAGE].predictor, given[predict.STAGE].budgets_ms
    limits = _fit_limits(context, best, predictor, part(progress, 0, LIMITS_SHARE if settings.limits else 0))

    def excess(subnet: Subnet) -> dict[str, float]:
        return {fit.metric: metric_value(fit, subnet) / settings.limits[fit.metric] - 1 for fit in limits.fits}

    rated = search_supernet(
        context,
        best,
        given[supernet.STAGE].folder,
        predictor.network_ms,
        budgets,
        trained_subnets(context, best, predictor.network_ms, budgets, seed),
        folder / NOTES,
        seed,
        part(progress, LIMITS_SHARE if settings.limits else 0, 1),
        excess,
    )
    evaluated = [_record(one, next(budget for budget in budgets if one.latency_ms <= budget)) for one in rated]
    found = [_record(first_that_holds(context, best_within(rated, budget), budget), budget) for budget in budgets]
    front = [evaluated[index] for index in pareto_front([(one.predicted_ms, one.top1) for one in evaluated])]
    result = SubnetSearchResult(space=best.encoding, found=tuple(found), evaluated=tuple(evaluated), front=tuple(front))
    return FoundSubnets(result, limits)


def _fit_limits(context: Context, best: SearchSpace, predictor: LatencyPredictor, progress: ProgressCallback) -> Limits:
    """Fit every limited metric to random subnets of the space, unless the architecture alone decides it."""
    rng = python_random(context.recipe.seed, "subnets", "limits")
    subnets = [best.smallest(), best.largest(), *(best.sample(rng) for _ in range(NUM_LIMIT_SUBNETS - 2))]
    jobs = [(encode(subnet), program_of(subnet), predictor.network_ms(subnet)) for subnet in subnets]
    longest = metadata_in_run(context, best.largest(), best.encoding, budget_ms=12.3456)
    metadata = longest | latency_told(context.target, 12.3456)
    fits = []
    names = list(context.recipe.subnets.limits)
    for number, name in enumerate(names):
        if METRICS.load(name).measure:
            share = part(progress, number / len(names), (number + 1) / len(names))
            fits.append(fit_metric(name, subnets, context.at_device(partial(_metric, name, jobs, metadata), share)))
        else:
            fits.append(computed_metric(name))
    return Limits(fits=tuple(fits))


def _metric(
    name: str,
    jobs: Sequence[tuple[str, Program, float]],
    metadata: dict[str, str],
    context: Context,
    progress: ProgressCallback,
) -> list[float]:
    with context.store() as store:
        return measure_metric(context.target, name, jobs, store, context.work_dir, progress, metadata)


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


def _check_names(context: Context) -> None:
    for metric in context.recipe.subnets.limits:
        METRICS.load(metric)


def _check_target(context: Context) -> None:
    for metric in context.recipe.subnets.limits:
        if METRICS.load(metric).measure:
            context.at_device(partial(_try_metric, metric), silent)


def _try_metric(metric: str, context: Context, progress: ProgressCallback) -> None:
    """Measure it of a small network, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "measurements.sqlite") as store:
        jobs = [("small", reference_program(), 1.0)]
        measure_metric(context.target, metric, jobs, store, Path(folder), progress)


def _check_data(context: Context) -> list[str]:
    recipe = context.recipe
    held_out = num_held_out(len(context.data.train_labels), recipe.data.search_share)
    return all_of("subnets.num_images", recipe.subnets.num_images, held_out, "held-out images")


def _work(planning: Planning) -> StageWork:
    work = planning.work
    return StageWork(planning.evaluations(work.evaluation, work.generations), work.num_budgets * NUM_MEASURED)


STAGE: Stage[FoundSubnets] = Stage(
    name="subnets",
    title="Search the best subnets under each latency budget",
    needs=(predict.STAGE, supernet.STAGE),
    through=(space.STAGE,),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(RESULT, LIMITS, NOTES),
    own_digests={NOTES: has_old_lines},
    checks=Checks(names=_check_names, elsewhere=_check_target, data=_check_data),
    work=_work,
)
