"""Stage 4: join quality with predicted latency, and evolve the search space by its Q-T score.

What scores about equal can be told apart by trainings (`space.num_tried`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from spaceevo.pipeline import blocks, predict
from spaceevo.pipeline.alone import load_alone, settings_alone, train_alone
from spaceevo.pipeline.any_space import large_within, meets_budget
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
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
from spaceevo.search.budgets import rounded_up
from spaceevo.search.qt_score import ExactEvaluator, SampledEvaluator
from spaceevo.search.space_search import best_of_block_types, of_other_widths, search_spaces
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.search.tables import load_block_table
from spaceevo.spaces.hyperspace import SpaceChoice
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.train.batches import split
from spaceevo.train.evaluation import calibrated_top1

NAME = "space"
TITLE = "Evolve the search space by its Q-T score"
NEEDS = (predict.NAME, blocks.NAME)
# Of the time, for the progress only: where a sweep follows, and where trials follow
EVOLUTION_SHARE, SEARCH_SHARE = 0.5, 0.1
TRIALS = "trials"
# Above all that a recipe may have
MAX_BUDGET_MS = 1e6
FILES = ("search.json", "table.parquet", f"{TRIALS}/*/baseline*", f"{TRIALS}/*/tensorboard/*")


def inputs(context: Context) -> dict[str, object]:
    """Settings of the search; and what trials are made with, if there are any."""
    recipe = context.recipe
    own: dict[str, object] = {"space": recipe.space.model_dump(), "seed": recipe.seed}
    if recipe.space.num_tried == 1:
        return own
    return own | {
        "data": context.data_hash,
        "training": settings_alone(context, recipe.space.tried_share).model_dump(),
        "judged": (recipe.subnets.num_images, recipe.subnets.recalibration_batches),
        "weight_scales": recipe.supernet.weight_scales,
        "target": context.target.model_dump(),
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Predict latencies, search, and try the best."""
    predictor, quality = predict.load_predictor(context), blocks.load_table(context)
    least, excluded = _excluded(context, predictor, quality)
    table = blocks.with_latency(context.hyperspace, quality, excluded, predictor)
    searched = part(progress, 0, SEARCH_SHARE if context.recipe.space.num_tried > 1 else 1)
    result = _searched(context, table, predictor, least, searched)
    trials = _trials(context, folder, result, predictor, part(progress, SEARCH_SHARE, 1))
    result = result.model_copy(update={"trials": trials})
    table_path, result_path = folder / "table.parquet", folder / "search.json"
    blocks.write_table(table_path, blocks.table_columns(table))
    write_atomically(result_path, result.model_dump_json(indent=1))
    remove_own(folder / TRIALS, ("*/baseline*", "*/tensorboard/*"))  # weights that nothing needs any more
    return [table_path, result_path]


def notes(context: Context) -> list[str]:
    """What people should know of the search: budgets so tight that it had to do without what it takes otherwise."""
    budgets, found = predict.load_budgets(context), load(context)
    sentences = []
    if used := [name for name in _failed(context).values() if name not in found.excluded]:
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


def judged_cells(context: Context) -> tuple[DistilledCell, ...]:
    """The cells as the search took them: some that failed may be needed for a tight budget."""
    excluded, used = load(context).excluded, {"failure": "", "attempts": 1}
    cells = blocks.load_cells(context)
    return tuple(
        cell if f"{cell.stage}/{cell.block_type}" in excluded or not cell.failure else cell.model_copy(update=used)
        for cell in cells
    )


def _failed(context: Context) -> dict[blocks.Cell, str]:
    """The cells whose training failed, with names as of `SpaceSearchResult.excluded`."""
    searched = context.hyperspace.searched
    failed = blocks.failed_cells(context.hyperspace, blocks.load_cells(context))
    return {
        (index, block): f"{searched[index].name}/{searched[index].choices[block].block_type}"
        for index, block in sorted(failed)
    }


def _excluded(
    context: Context, predictor: LatencyPredictor, quality: QualityTable
) -> tuple[SpaceChoice, frozenset[blocks.Cell]]:
    """The space with the fastest subnet, and the cells that no space may use.

    These are the failed ones; but what a budget cannot be met without may be used, if it has losses at all.

    Raises:
        InfeasibleBudgetError: Only block types without any are fast enough for a budget.
    """
    hyperspace, num_classes, failed = context.hyperspace, context.data.num_classes, _failed(context)
    budget_ms = predict.load_budgets(context)[0]
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
    context: Context, table: BlockTable, predictor: LatencyPredictor, least: SpaceChoice, progress: ProgressCallback
) -> SpaceSearchResult:
    """The search; its best space has a subnet within every budget.

    The rows of the table are drawn, so the smallest sub-stages need not be among them: under budgets that no or hardly
    any rows meet, spaces are scored by the closest ones that the rows can tell about.
    """
    hyperspace, budgets = context.hyperspace, predict.load_budgets(context)
    base_ms = load_base_ms(context)
    with suppress(InfeasibleBudgetError):
        exact = ExactEvaluator(table, hyperspace, budgets, base_ms)

        def sweep(choice: SpaceChoice, threshold: float) -> Sweep:
            return sweep_spaces(exact, choice, threshold, part(progress, EVOLUTION_SHARE, 1))

        result = _search(context, table, exact, budgets, progress, sweep)
        if meets_budget(_space(context, result.best), budgets[0], predictor.network_ms, context.recipe.seed):
            return result
    told_ms = ExactEvaluator(table, hyperspace, [MAX_BUDGET_MS], base_ms).least_budget(least)
    raised = tuple(sorted({max(budget, told_ms) for budget in budgets}))
    smallest_ms = SmallestLatency(predictor, hyperspace, context.data.num_classes)
    within = _Within(ExactEvaluator(table, hyperspace, raised, base_ms), least, smallest_ms, budgets[0])
    return _search(context, table, within, raised, progress)


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
        cross_check=SampledEvaluator(table, hyperspace, budgets_ms, load_base_ms(context), seed=context.recipe.seed),
        sweep=sweep,
    )


def _trials(
    context: Context,
    folder: Path,
    result: SpaceSearchResult,
    predictor: LatencyPredictor,
    progress: ProgressCallback,
) -> tuple[SpaceTrial, ...]:
    """Trials of the best spaces of different block types, then of other widths for the most accurate of them."""
    hyperspace, num_tried = context.hyperspace, context.recipe.space.num_tried
    if num_tried == 1 or len(result.within_tolerance) == 1:
        return ()
    budget_ms, seed = predict.load_budgets(context)[0], context.recipe.seed

    def meeting(spaces: Sequence[ScoredSpace], count: int) -> list[ScoredSpace]:
        latency_ms = predictor.network_ms
        own = (one for one in spaces if meets_budget(_space(context, one), budget_ms, latency_ms, seed))
        return list(islice(own, count))

    spaces = meeting(best_of_block_types(result, hyperspace), num_tried)
    others_share = 1 - len(spaces) / most_trials(num_tried)
    trials = _tried(context, folder, spaces, part(progress, 0, 1 - others_share))
    best = result.model_copy(update={"trials": trials}).chosen
    others = meeting(of_other_widths(result, hyperspace, best), num_tried - 1)
    return trials + _tried(context, folder, others, part(progress, 1 - others_share, 1))


def most_trials(num_tried: int) -> int:
    """How many spaces are tried at most."""
    return 2 * num_tried - 1 if num_tried > 1 else 0


def _tried(
    context: Context, folder: Path, spaces: Sequence[ScoredSpace], progress: ProgressCallback
) -> tuple[SpaceTrial, ...]:
    """Train a large network for each budget of each space."""
    num_budgets, trials = len(predict.load_budgets(context)), folder.absolute() / TRIALS
    jobs = [_Trial(space, number, trials / space.encoding) for space in spaces for number in range(num_budgets)]
    train = partial(_train, context, predict.load_predictor(context))
    top1s = iter(in_order(context.engine.map(train, jobs, progress, needs=context.training), len(jobs)))
    return tuple(SpaceTrial(space=space, top1=tuple(islice(top1s, num_budgets))) for space in spaces)


@dataclass(frozen=True)
class _Trial:
    space: ScoredSpace
    number: int
    folder: Path


def _train(context: Context, predictor: LatencyPredictor, trial: _Trial, progress: ProgressCallback) -> float | None:
    """Top-1 of a large network of a space that meets a budget, on held-out images; None where none is found."""
    recipe, budget_ms = context.recipe, predict.load_budgets(context)[trial.number]
    try:
        subnet = large_within(context, _space(context, trial.space), predictor.network_ms, budget_ms)
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


def load(context: Context) -> SpaceSearchResult:
    """What the search found."""
    return read_record(SpaceSearchResult, context.path(NAME, "search.json"))


def load_space(context: Context) -> SearchSpace:
    """The space that the run has chosen."""
    return _space(context, load(context).chosen)


def _space(context: Context, scored: ScoredSpace) -> SearchSpace:
    return context.hyperspace.space(context.hyperspace.decode(scored.encoding), context.data.num_classes)


def load_table(context: Context) -> BlockTable:
    """The block table with latencies."""
    return load_block_table(context.path(NAME, "table.parquet"), context.hyperspace)


def load_base_ms(context: Context) -> dict[int, float]:
    """Predicted latency of the stages that are not searched, by resolution."""
    return blocks.base_ms(context.hyperspace, context.data.num_classes, predict.load_predictor(context))
