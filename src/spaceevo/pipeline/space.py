"""Stage 4: join quality with predicted latency, and evolve the search space by its Q-T score."""

from __future__ import annotations

from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.pipeline import blocks, predict
from spaceevo.pipeline.context import Context
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import BlockTable, SpaceSearchResult, read_record
from spaceevo.search.qt_score import ExactEvaluator, SampledEvaluator
from spaceevo.search.space_search import search_spaces
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.search.tables import load_block_table
from spaceevo.spaces.hyperspace import SpaceChoice
from spaceevo.spaces.search_space import SearchSpace

NAME = "space"
TITLE = "Evolve the search space by its Q-T score"
NEEDS = (predict.NAME, blocks.NAME)
EVOLUTION_SHARE = 0.5  # of the time where a sweep follows, for the progress only


def inputs(context: Context) -> dict[str, object]:
    """Settings of the search."""
    return {"space": context.recipe.space.model_dump(), "seed": context.recipe.seed}


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Predict latencies, then search."""
    settings, hyperspace = context.recipe.space, context.hyperspace
    failed = blocks.failed_cells(hyperspace, blocks.load_cells(context))
    table = blocks.with_latency(hyperspace, blocks.load_columns(context), failed, predict.load_predictor(context))
    budgets, base_ms = predict.load_budgets(context), load_base_ms(context)
    exact = ExactEvaluator(table, hyperspace, budgets, base_ms)
    sampled = SampledEvaluator(table, hyperspace, budgets, base_ms, seed=context.recipe.seed)
    evolution_share = EVOLUTION_SHARE if hyperspace.num_spaces > settings.num_spaces else 1

    def sweep(choice: SpaceChoice, threshold: float) -> Sweep:
        return sweep_spaces(exact, choice, threshold, part(progress, evolution_share, 1))

    result = search_spaces(
        hyperspace,
        exact,
        num_spaces=settings.num_spaces,
        population_size=settings.population_size,
        tournament_size=settings.tournament_size,
        tolerance=settings.tolerance,
        seed=context.recipe.seed,
        excluded=table.failed,
        progress=part(progress, 0, evolution_share),
        cross_check=sampled,
        sweep=sweep,
    )
    table_path, result_path = folder / "table.parquet", folder / "search.json"
    blocks.write_table(table_path, blocks.table_columns(table))
    write_atomically(result_path, result.model_dump_json(indent=1))
    return [table_path, result_path]


def load(context: Context) -> SpaceSearchResult:
    """What the search found."""
    return read_record(SpaceSearchResult, context.path(NAME, "search.json"))


def load_space(context: Context) -> SearchSpace:
    """The best space."""
    choice = context.hyperspace.decode(load(context).best.encoding)
    return context.hyperspace.space(choice, context.data.num_classes)


def load_table(context: Context) -> BlockTable:
    """The block table with latencies."""
    return load_block_table(context.path(NAME, "table.parquet"), context.hyperspace)


def load_base_ms(context: Context) -> dict[int, float]:
    """Predicted latency of the stages that are not searched, by resolution."""
    return blocks.base_ms(context.hyperspace, context.data.num_classes, predict.load_predictor(context))
