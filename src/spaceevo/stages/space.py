"""Evolve the search space by its Q-T score.

Quality is joined with predicted latency first. What scores about equal can be told apart by trainings
(`space.num_tried`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from spaceevo.artifacts import remove_own, write_atomically
from spaceevo.engines import in_order
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.nets.network import program_of
from spaceevo.predict.extremes import SmallestLatency, fastest
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import (
    BlockTable,
    DistilledCell,
    QualityTable,
    ScoredSpace,
    SpaceSearchResult,
    SpaceTrial,
    read_record,
)
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.run.memory import return_free_memory
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.search.budgets import rounded_up
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.sampled_score import SampledEvaluator
from spaceevo.search.space_search import best_of_block_types, most_trials, of_other_widths, search_spaces
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.search.tables import load_block_table
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.stages import blocks, predict
from spaceevo.stages._alone import load_alone, settings_alone, train_alone
from spaceevo.stages._any_space import large_within, meets_budget
from spaceevo.stages.predict import Predicted
from spaceevo.tools.block_table import base_ms, table_columns, with_latency, write_table
from spaceevo.tools.cells import failed_cells
from spaceevo.train.batches import split
from spaceevo.train.distillation import Cell
from spaceevo.train.evaluation import calibrated_top1

RESULT, TABLE = "search.json", "table.parquet"
# Of the time, for the progress only: where a sweep follows, and where trials follow
EVOLUTION_SHARE, SEARCH_SHARE = 0.5, 0.1
TRIALS = "trials"
# Above all that a recipe may have
MAX_BUDGET_MS = 1e6
TRIAL_FILES = ("*/baseline*", "*/tensorboard/*")


@dataclass(frozen=True)
class SearchedSpaces:
    """What the search over spaces found.

    Attributes:
        result: The best spaces, and how they were found.
        table: Quality and latency of sampled sub-stages.
        space: That the run has chosen.
    """

    result: SpaceSearchResult
    table: BlockTable
    space: SearchSpace


class _Files:
    def save(self, value: SearchedSpaces, folder: Path) -> list[Path]:
        write_table(folder / TABLE, table_columns(value.table))
        write_atomically(folder / RESULT, value.result.model_dump_json(indent=1))
        remove_own(folder / TRIALS, TRIAL_FILES)  # weights that nothing needs any more
        return [folder / TABLE, folder / RESULT]

    def load(self, folder: Path, context: Context, given: Given) -> SearchedSpaces:
        result = read_record(SpaceSearchResult, folder / RESULT)
        table = load_block_table(folder / TABLE, context.hyperspace)
        return SearchedSpaces(result, table, _space(context, result.chosen))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Settings of the search; and what trials are made with, if there are any."""
    recipe = context.recipe
    of_search: dict[str, object] = {"space": recipe.space.model_dump(), "seed": recipe.seed}
    if recipe.space.num_tried == 1:
        return of_search
    return of_search | {
        "data": context.data_hash,
        "training": settings_alone(context, recipe.space.tried_share).model_dump(),
        "judged": (recipe.subnets.num_images, recipe.subnets.recalibration_batches),
        "weight_scales": recipe.supernet.weight_scales,
        "target": context.target.model_dump(),
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> SearchedSpaces:
    """Predict latencies, search, and try the best."""
    predicted, quality, cells = given[predict.STAGE], given[blocks.STAGE].table, given[blocks.STAGE].cells
    least, excluded = _excluded(context, predicted, quality, cells)
    table = with_latency(context.hyperspace, quality, excluded, predicted.predictor)
    searched = part(progress, 0, SEARCH_SHARE if context.recipe.space.num_tried > 1 else 1)
    result = _searched(context, table, predicted, least, searched)
    trials = _trials(context, folder, result, predicted, part(progress, SEARCH_SHARE, 1))
    result = result.model_copy(update={"trials": trials})
    return SearchedSpaces(result, table, _space(context, result.chosen))


def _notes(context: Context, given: Given) -> list[str]:
    """What people should know of the search: budgets so tight that it had to do without what it takes otherwise."""
    budgets, found = given[predict.STAGE].budgets_ms, given[STAGE].result
    failed = _failed(context.hyperspace, given[blocks.STAGE].cells)
    sentences = []
    if used := [name for name in failed.values() if name not in found.excluded]:
        sentences.append(
            f"Without {', '.join(used)} no subnet meets {budgets[0]:g} ms, so spaces may have them although their "
            "distillation failed. A larger budget does without, and longer distillation may help."
        )
    if budgets != found.budgets_ms:
        sentences.append(
            f"Too few rows of the block table are fast enough for {budgets[0]:g} ms: spaces that can meet it were "
            f"compared by what they reach within {', '.join(f'{budget:g}' for budget in found.budgets_ms)} ms."
        )
    return sentences


def judged_cells(result: SpaceSearchResult, cells: Sequence[DistilledCell]) -> tuple[DistilledCell, ...]:
    """The cells as the search took them: some that failed may be needed for a tight budget."""
    excluded, used = result.excluded, {"failure": "", "attempts": 1}
    return tuple(
        cell if f"{cell.stage}/{cell.block_type}" in excluded or not cell.failure else cell.model_copy(update=used)
        for cell in cells
    )


def _failed(hyperspace: Hyperspace, cells: Sequence[DistilledCell]) -> dict[Cell, str]:
    """The cells whose training failed, with names as of `SpaceSearchResult.excluded`."""
    searched = hyperspace.searched
    return {
        (index, block): f"{searched[index].name}/{searched[index].choices[block].block_type}"
        for index, block in sorted(failed_cells(hyperspace, cells))
    }


def _excluded(
    context: Context, predicted: Predicted, quality: QualityTable, cells: Sequence[DistilledCell]
) -> tuple[SpaceChoice, frozenset[Cell]]:
    """The space with the fastest subnet, and the cells that no space may use.

    These are the failed ones; but what a budget cannot be met without may be used, if it has losses at all.

    Raises:
        InfeasibleBudgetError: Only block types without any are fast enough for a budget.
    """
    hyperspace, num_classes = context.hyperspace, context.data.num_classes
    failed, predictor, budget_ms = _failed(hyperspace, cells), predicted.predictor, predicted.budgets_ms[0]
    choice, smallest_ms = fastest(predictor, hyperspace, num_classes, failed)
    if smallest_ms <= budget_ms:
        return choice, frozenset(failed)
    is_lost = ~(np.isfinite(quality.nsr_loss) & (quality.nsr_loss > 0))
    lost = set(zip(quality.stage[is_lost].tolist(), quality.block[is_lost].tolist(), strict=True))
    choice, smallest_ms = fastest(predictor, hyperspace, num_classes, lost)
    if smallest_ms > budget_ms:
        names = ", ".join(failed[cell] for cell in sorted(lost & failed.keys()))
        raise InfeasibleBudgetError(
            f"No subnet meets the budget of {budget_ms:g} ms without {names}, whose distillation diverged",
            found=f"The fastest one is predicted to take {smallest_ms:.3g} ms",
            remedy=f"Choose budgets_ms of at least {rounded_up(smallest_ms, 2):g}, or lower blocks.lr",
        )
    return choice, frozenset(failed.keys() - enumerate(choice.blocks))


def _searched(
    context: Context, table: BlockTable, predicted: Predicted, least: SpaceChoice, progress: ProgressCallback
) -> SpaceSearchResult:
    """The search; its best space has a subnet within every budget.

    The rows of the table are drawn, so the smallest sub-stages need not be among them: under budgets that no or hardly
    any rows meet, spaces are scored by the closest ones that the rows can tell about.
    """
    hyperspace, budgets, predictor = context.hyperspace, predicted.budgets_ms, predicted.predictor
    base = base_ms(hyperspace, context.data.num_classes, predictor)
    with suppress(InfeasibleBudgetError):
        exact = ExactEvaluator(table, hyperspace, budgets, base)

        def sweep(choice: SpaceChoice, threshold: float) -> Sweep:
            return sweep_spaces(exact, choice, threshold, part(progress, EVOLUTION_SHARE, 1))

        result = _search(context, table, exact, budgets, base, progress, sweep)
        if meets_budget(_space(context, result.best), budgets[0], predictor.network_ms, context.recipe.seed):
            return result
    told_ms = ExactEvaluator(table, hyperspace, [MAX_BUDGET_MS], base).least_budget(least)
    raised = tuple(sorted({max(budget, told_ms) for budget in budgets}))
    smallest_ms = SmallestLatency(predictor, hyperspace, context.data.num_classes)
    within = _Within(ExactEvaluator(table, hyperspace, raised, base), least, smallest_ms, budgets[0])
    return _search(context, table, within, raised, base, progress)


@dataclass(frozen=True)
class _Within:
    """Scores spaces whose smallest subnet meets a budget; the others score nothing."""

    exact: ExactEvaluator
    fastest: SpaceChoice
    smallest_ms: SmallestLatency
    budget_ms: float

    @property
    def budgets_ms(self) -> tuple[float, ...]:
        return self.exact.budgets_ms

    def least_budget(self, choice: SpaceChoice) -> float:
        return self.exact.least_budget(choice)

    def score(self, choice: SpaceChoice) -> float:
        # With room for rounding: what is chosen has to meet the budget itself
        meets = choice == self.fastest or (1 + 1e-9) * self.smallest_ms(choice) <= self.budget_ms
        return self.exact.score(choice) if meets else 0.0


def _search(
    context: Context,
    table: BlockTable,
    evaluator: ExactEvaluator | _Within,
    budgets_ms: Sequence[float],
    base: Mapping[int, float],
    progress: ProgressCallback,
    sweep: Callable[[SpaceChoice, float], Sweep] | None = None,
) -> SpaceSearchResult:
    settings, hyperspace = context.recipe.space, context.hyperspace
    is_swept = sweep is not None and hyperspace.num_spaces > settings.num_spaces
    return search_spaces(
        hyperspace,
        evaluator,
        num_spaces=settings.num_spaces,
        population_size=settings.population_size,
        tournament_size=settings.tournament_size,
        tolerance=settings.tolerance,
        seed=context.recipe.seed,
        excluded=table.failed,
        progress=part(progress, 0, EVOLUTION_SHARE if is_swept else 1),
        cross_check=SampledEvaluator(table, hyperspace, budgets_ms, base, seed=context.recipe.seed),
        sweep=sweep,
    )


def _trials(
    context: Context,
    folder: Path,
    result: SpaceSearchResult,
    predicted: Predicted,
    progress: ProgressCallback,
) -> tuple[SpaceTrial, ...]:
    """Trials of the best spaces of different block types, then of other widths for the most accurate of them."""
    hyperspace, num_tried = context.hyperspace, context.recipe.space.num_tried
    if num_tried == 1 or len(result.within_tolerance) == 1:
        return ()
    budget_ms, seed = predicted.budgets_ms[0], context.recipe.seed

    def meeting(spaces: Sequence[ScoredSpace], count: int) -> list[ScoredSpace]:
        latency_ms = predicted.predictor.network_ms
        met = (one for one in spaces if meets_budget(_space(context, one), budget_ms, latency_ms, seed))
        return list(islice(met, count))

    spaces = meeting(best_of_block_types(result, hyperspace), num_tried)
    others_share = 1 - len(spaces) / most_trials(num_tried)
    trials = _tried(context, folder, spaces, predicted, part(progress, 0, 1 - others_share))
    best = result.model_copy(update={"trials": trials}).chosen
    others = meeting(of_other_widths(result, hyperspace, best), num_tried - 1)
    return trials + _tried(context, folder, others, predicted, part(progress, 1 - others_share, 1))


def _tried(
    context: Context,
    folder: Path,
    spaces: Sequence[ScoredSpace],
    predicted: Predicted,
    progress: ProgressCallback,
) -> tuple[SpaceTrial, ...]:
    """Train a large network for each budget of each space."""
    budgets, trials = predicted.budgets_ms, folder.absolute() / TRIALS
    num_budgets = len(budgets)
    jobs = [
        _Trial(space, number, budgets[number], trials / space.encoding)
        for space in spaces
        for number in range(num_budgets)
    ]
    train = partial(_train, context, predicted.predictor)
    top1s = iter(in_order(context.engine.map(train, jobs, progress, needs=context.training), len(jobs)))
    return tuple(SpaceTrial(space=space, top1=tuple(islice(top1s, num_budgets))) for space in spaces)


@dataclass(frozen=True)
class _Trial:
    space: ScoredSpace
    number: int
    budget_ms: float
    folder: Path


def _train(context: Context, predictor: LatencyPredictor, trial: _Trial, progress: ProgressCallback) -> float | None:
    """Top-1 of a large network of a space that meets a budget, on held-out images; None where none is found."""
    recipe = context.recipe
    try:
        subnet = large_within(context, _space(context, trial.space), predictor.network_ms, trial.budget_ms)
    except InfeasibleBudgetError:
        return None
    trial.folder.mkdir(parents=True, exist_ok=True)
    settings = settings_alone(context, recipe.space.tried_share)
    images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)
    with one_core():
        train_alone(context, subnet, trial.number, trial.folder, recipe.seed, settings, progress)
        network = load_alone(context, subnet, trial.number, trial.folder, "int8")
        judged, num_batches = held_out.take(slice(recipe.subnets.num_images)), recipe.subnets.recalibration_batches
        top1 = calibrated_top1(network, program_of(subnet), images, num_batches, judged)
    return_free_memory()
    return top1


def _space(context: Context, scored: ScoredSpace) -> SearchSpace:
    return context.hyperspace.space(context.hyperspace.decode(scored.encoding), context.data.num_classes)


def _work(planning: Planning) -> StageWork | None:
    trials = planning.work.trials
    return StageWork(planning.networks(trials)) if trials else None


STAGE: Stage[SearchedSpaces] = Stage(
    name="space",
    title="Evolve the search space by its Q-T score",
    needs=(predict.STAGE, blocks.STAGE),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(RESULT, TABLE, *(f"{TRIALS}/{pattern}" for pattern in TRIAL_FILES)),
    notes=_notes,
    checks=Checks(trains=lambda context: context.recipe.space.num_tried > 1),
    work=_work,
)
