"""Stage 4: join quality with predicted latency, and evolve the search space by its Q-T score."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spaceevo.artifacts import write_atomically
from spaceevo.pipeline import blocks, predict
from spaceevo.pipeline.context import Context
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import BlockTable, SpaceSearchResult, read_record
from spaceevo.search.qt_score import ExactEvaluator, SampledEvaluator
from spaceevo.search.space_search import search_spaces
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.spaces.hyperspace import SpaceChoice
from spaceevo.spaces.operators import operators
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Block, Stage, network_layers, stage_layers

NAME = "space"
TITLE = "Evolve the search space by its Q-T score"
NEEDS = (predict.NAME, blocks.NAME)
EVOLUTION_SHARE = 0.5  # of the time where a sweep follows, for the progress only
COLUMNS = ("stage", "block", "window", "resolution", "nsr_loss", "latency_ms", "macs", "num_params", "in_width",
           "blocks")  # fmt: skip


def inputs(context: Context) -> dict[str, object]:
    """Settings of the search."""
    return {"space": context.recipe.space.model_dump(), "seed": context.recipe.seed}


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Predict latencies, then search."""
    settings, hyperspace = context.recipe.space, context.hyperspace
    predictor = predict.load_predictor(context)
    table = _join(context, predictor)
    budgets = predict.load_budgets(context)
    base_ms = {r: _base_ms(context, predictor, r) for r in hyperspace.resolutions}
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
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: getattr(table, name) for name in COLUMNS}), buffer)
    write_atomically(table_path, buffer.getvalue())
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
    columns = pq.read_table(io.BytesIO(context.path(NAME, "table.parquet").read_bytes()))
    arrays = {name: columns[name].to_numpy(zero_copy_only=False) for name in COLUMNS}
    return BlockTable(**arrays, failed=_failed(context))


def _failed(context: Context) -> frozenset[tuple[int, int]]:
    names = [stage.name for stage in context.hyperspace.searched]
    return frozenset((names.index(cell.stage), cell.block) for cell in blocks.load_cells(context) if cell.failure)


def _join(context: Context, predictor: LatencyPredictor) -> BlockTable:
    columns = blocks.load_columns(context)
    searched = context.hyperspace.searched
    latencies = []
    for index, block, text, in_width, in_size in zip(
        *(columns[name] for name in ("stage", "block", "blocks", "in_width", "in_size")), strict=True
    ):
        stage = searched[index]
        own = Stage(stage.name, stage.choices[block].block_type, stage.stride, _decode_blocks(text))
        latencies.append(predictor.stage_ms(stage_layers(own, in_width, in_size)))
    arrays = {name: np.asarray(columns[name]) for name in COLUMNS if name != "latency_ms"}
    return BlockTable(**arrays, latency_ms=np.asarray(latencies), failed=_failed(context))


def _decode_blocks(text: str) -> tuple[Block, ...]:
    blocks_ = []
    for one in text.split("_"):
        kernel_size, width, expand_ratio = one.split("#")
        ratio = 0.0 if expand_ratio == "None" else float(expand_ratio)
        blocks_.append(Block(int(width), int(kernel_size), ratio))
    return tuple(blocks_)


def _base_ms(context: Context, predictor: LatencyPredictor, resolution: int) -> float:
    """Latency of everything but the searched stages, at their smallest setting."""
    hyperspace = context.hyperspace
    zeros = (0,) * len(hyperspace.searched)
    space = hyperspace.space(SpaceChoice(zeros, zeros), context.data.num_classes)
    subnet = space.subnet(resolution, space.smallest().stages)
    searched = {stage.name for stage in hyperspace.searched}
    return predictor.base_ms + sum(
        predictor.operator_ms(operator)
        for operator in operators(network_layers(subnet))
        if operator.name.split("/", 1)[0] not in searched
    )
