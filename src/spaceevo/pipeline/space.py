"""Stage 4: join quality with predicted latency, and evolve the search space by its Q-T score.

What scores about equal can be told apart by trainings (`space.num_tried`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.engines import in_order
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.nets.network import program_of
from spaceevo.pipeline import blocks, predict
from spaceevo.pipeline.alone import load_alone, settings_alone, train_alone
from spaceevo.pipeline.any_space import large_within
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import BlockTable, ScoredSpace, SpaceSearchResult, SpaceTrial, read_record
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
    settings, hyperspace = context.recipe.space, context.hyperspace
    failed = blocks.failed_cells(hyperspace, blocks.load_cells(context))
    table = blocks.with_latency(hyperspace, blocks.load_columns(context), failed, predict.load_predictor(context))
    budgets, base_ms = predict.load_budgets(context), load_base_ms(context)
    exact = ExactEvaluator(table, hyperspace, budgets, base_ms)
    sampled = SampledEvaluator(table, hyperspace, budgets, base_ms, seed=context.recipe.seed)
    searched = part(progress, 0, SEARCH_SHARE if settings.num_tried > 1 else 1)
    evolution_share = EVOLUTION_SHARE if hyperspace.num_spaces > settings.num_spaces else 1

    def sweep(choice: SpaceChoice, threshold: float) -> Sweep:
        return sweep_spaces(exact, choice, threshold, part(searched, evolution_share, 1))

    result = search_spaces(
        hyperspace,
        exact,
        num_spaces=settings.num_spaces,
        population_size=settings.population_size,
        tournament_size=settings.tournament_size,
        tolerance=settings.tolerance,
        seed=context.recipe.seed,
        excluded=table.failed,
        progress=part(searched, 0, evolution_share),
        cross_check=sampled,
        sweep=sweep,
    )
    result = result.model_copy(update={"trials": _trials(context, folder, result, part(progress, SEARCH_SHARE, 1))})
    table_path, result_path = folder / "table.parquet", folder / "search.json"
    blocks.write_table(table_path, blocks.table_columns(table))
    write_atomically(result_path, result.model_dump_json(indent=1))
    shutil.rmtree(folder / TRIALS, ignore_errors=True)  # weights that nothing needs any more
    return [table_path, result_path]


def _trials(
    context: Context, folder: Path, result: SpaceSearchResult, progress: ProgressCallback
) -> tuple[SpaceTrial, ...]:
    """Trials of the best spaces of different block types, then of other widths for the most accurate of them."""
    hyperspace, num_tried = context.hyperspace, context.recipe.space.num_tried
    if num_tried == 1 or len(result.within_tolerance) == 1:
        return ()
    spaces = best_of_block_types(result, hyperspace)[:num_tried]
    others_share = 1 - len(spaces) / most_trials(num_tried)
    trials = _tried(context, folder, spaces, part(progress, 0, 1 - others_share))
    best = result.model_copy(update={"trials": trials}).chosen
    others = of_other_widths(result, hyperspace, best)[: num_tried - 1]
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


def _train(context: Context, predictor: LatencyPredictor, trial: _Trial, progress: ProgressCallback) -> float:
    """Top-1 of a large network of a space that meets a budget, on held-out images; 0 where none meets it."""
    recipe, budget_ms = context.recipe, predict.load_budgets(context)[trial.number]
    try:
        subnet = large_within(context, _space(context, trial.space), predictor.network_ms, budget_ms)
    except InfeasibleBudgetError:
        return 0.0
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


def _space(context: Context, one: ScoredSpace) -> SearchSpace:
    return context.hyperspace.space(context.hyperspace.decode(one.encoding), context.data.num_classes)


def load_table(context: Context) -> BlockTable:
    """The block table with latencies."""
    return load_block_table(context.path(NAME, "table.parquet"), context.hyperspace)


def load_base_ms(context: Context) -> dict[int, float]:
    """Predicted latency of the stages that are not searched, by resolution."""
    return blocks.base_ms(context.hyperspace, context.data.num_classes, predict.load_predictor(context))
