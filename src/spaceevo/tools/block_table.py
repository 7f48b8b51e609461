"""A block table: the quality of cells joined with what a target takes for them."""

from __future__ import annotations

import io
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spaceevo.artifacts import write_atomically
from spaceevo.graph.tensors import square
from spaceevo.predict.features import kernel
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.records import BlockTable, QualityTable
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice
from spaceevo.spaces.subnet import Stage, network_program, stage_program
from spaceevo.train.distillation import Cell, decode_blocks


def with_latency(
    hyperspace: Hyperspace, table: QualityTable, failed: frozenset[Cell], predictor: LatencyPredictor
) -> BlockTable:
    """The block table of a target: quality joined with predicted latency.

    Raises:
        TargetError: The predictor knows nothing about an operator.
    """
    programs = []
    for index, block, text, in_width, in_size in zip(
        *(column.tolist() for column in (table.stage, table.block, table.blocks, table.in_width, table.in_size)),
        strict=True,
    ):
        hyper_stage = hyperspace.searched[index]
        block_type = hyper_stage.choices[block].block_type
        stage = Stage(hyper_stage.name, block_type, hyper_stage.stride, decode_blocks(text))
        programs.append(stage_program(stage, square(in_width, in_size)))
    predictor.prepare(chain.from_iterable(program[1:] for program in programs))
    latencies = np.array([predictor.stage_ms(program) for program in programs])
    columns = {name: values for name, values in vars(table).items() if name != "in_size"}
    return BlockTable(**columns, latency_ms=latencies, failed=failed)


def base_ms(hyperspace: Hyperspace, num_classes: int, predictor: LatencyPredictor) -> dict[int, float]:
    """By resolution, predicted latency of everything but the searched stages, at their smallest setting."""
    zeros = (0,) * len(hyperspace.searched)
    space = hyperspace.space(SpaceChoice(zeros, zeros), num_classes)
    searched = {stage.name for stage in hyperspace.searched}
    return {
        resolution: predictor.base_ms
        + sum(
            predictor.kernel_ms(kernel(node))
            for node in network_program(space.subnet(resolution, space.smallest().stages))
            if node.role.stage not in searched
        )
        for resolution in hyperspace.resolutions
    }


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns as parquet."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(path, buffer.getvalue())


def table_columns(table: BlockTable) -> dict[str, Any]:
    """A block table as columns, with one that tells which rows are of failed cells."""
    columns = {name: values for name, values in vars(table).items() if name != "failed" and values is not None}
    pairs = zip(table.stage.tolist(), table.block.tolist(), strict=True)
    return columns | {"failed": np.array([pair in table.failed for pair in pairs])}
