"""Stage 4: join quality with predicted latency, and evolve the search space by its Q-T score.

What scores about equal can be told apart by short trainings (`space.num_tried`).
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.engines import in_order
from spaceevo.pipeline import blocks, predict
from spaceevo.pipeline.any_space import best_of_space
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import BlockTable, ScoredSpace, SpaceSearchResult, SpaceTrial, read_record
from spaceevo.search.qt_score import ExactEvaluator, SampledEvaluator
from spaceevo.search.space_search import best_of_block_types, search_spaces
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.search.tables import load_block_table
from spaceevo.spaces.hyperspace import SpaceChoice
from spaceevo.spaces.search_space import SearchSpace

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
        "supernet": recipe.supernet.model_dump(),
        "subnets": recipe.subnets.model_dump(),
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
    shutil.rmtree(folder / TRIALS, ignore_errors=True)  # its supernets are large
    return [table_path, result_path]


def _trials(
    context: Context, folder: Path, result: SpaceSearchResult, progress: ProgressCallback
) -> tuple[SpaceTrial, ...]:
    """Train and search the best spaces of different block types, with a share of the epochs; none for a single one."""
    settings = context.recipe.space
    spaces = best_of_block_types(result, context.hyperspace)[: settings.num_tried]
    if len(spaces) == 1:
        return ()
    supernet = context.recipe.supernet
    shorter = supernet.model_copy(
        update={
            "epochs_fp32": settings.tried_share * supernet.epochs_fp32,
            "epochs_int8": settings.tried_share * supernet.epochs_int8,
        }
    )
    attempt = partial(
        _trial, context.with_training(shorter), folder.absolute() / TRIALS, predict.load_predictor(context)
    )
    top1s = in_order(context.engine.map(attempt, spaces, progress, needs=context.training), len(spaces))
    return tuple(SpaceTrial(space=space, top1=top1) for space, top1 in zip(spaces, top1s, strict=True))


def _trial(
    context: Context, folder: Path, predictor: LatencyPredictor, space: ScoredSpace, progress: ProgressCallback
) -> tuple[float, ...]:
    """Top-1 by budget of a space whose supernet is trained as the context says."""
    own = folder / space.encoding
    own.mkdir(parents=True, exist_ok=True)
    with one_core():
        found = best_of_space(context, _space(context, space), own, context.recipe.seed, predictor.network_ms, progress)
    return_free_memory()
    return tuple(found[budget_ms][0].top1 if budget_ms in found else 0.0 for budget_ms in predict.load_budgets(context))


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
