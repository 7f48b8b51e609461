"""The released block look-up tables, and our counts of their rows (SpaceEvo, ICCV 2023, Section 4.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spaceevo.errors import DataError
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Linear
from spaceevo.graph.tensors import square
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.subnet import Stage, block_cost, stage_program, total_cost

COLUMNS = ("stage", "block", "window", "blocks", "cin", "hw", "mflops", "mparams")
#: Per convolution or linear layer the published counts include a weight scale, an activation scale and an offset.
QUANTIZER_PARAMS = 3
DECIMALS = 4
#: Columns of a file of the released folders, `stageS_B_W.csv`: without a header, the input written 1xCxHxW.
CSV_COLUMNS = ("blocks", "input", "nsr_loss", "mflops", "mparams", "latency_ms")
_CSV_NAME = re.compile(r"stage(\d+)_(\d+)_(\d+)\.csv")
RESOLUTIONS = (160, 192, 224)  # of the tables, Section 4.2


@dataclass(frozen=True, slots=True)
class Row:
    """A row that is not simply equal.

    Attributes:
        row: From 0.
        text: What the table says and what we count, or what is not in the hyperspace.
        explained: Whether the published sum in single precision reproduces the printed number.
    """

    row: int
    text: str
    explained: bool = False


def read_table(path: Path) -> dict[str, list[Any]]:
    """The columns of a released table.

    Raises:
        DataError: Not a parquet file, or a column is missing.
    """
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as a block look-up table",
            found=str(error).splitlines()[0],
            remedy=f"Give a parquet file with the columns {', '.join(COLUMNS)}",
        ) from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}",
            found=", ".join(table.column_names) or "no column that a look-up table has",
        )
    return {name: table.column(name).to_pylist() for name in COLUMNS}


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """All columns of a block look-up table, as its file or folder has them.

    Args:
        path: A parquet file, or a folder of `stageS_B_W.csv` as released: these become the columns of the released
            parquet files.

    Raises:
        DataError: Neither, or unreadable.
    """
    if not path.is_dir():
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path} cannot be read as a block look-up table",
                found=str(error).splitlines()[0],
                remedy="Give a parquet file, or a folder of files stageS_B_W.csv",
            ) from error
        return {name: table[name].to_numpy() for name in table.column_names}
    parts = [(match, file) for file in sorted(path.iterdir()) if (match := _CSV_NAME.fullmatch(file.name))]
    if not parts:
        raise DataError(
            f"{path} holds no block look-up table",
            found="No file stageS_B_W.csv, with the numbers of the stage, the block type and the width window",
        )
    columns: dict[str, list[NDArray[Any]]] = {}
    for match, file in parts:
        try:
            table = pc.read_csv(file, pc.ReadOptions(column_names=list(CSV_COLUMNS)))
            own = {name: table[name].to_numpy() for name in CSV_COLUMNS if name != "input"}
            sizes = np.array([text.split("x") for text in table["input"].to_pylist()]).astype(int)
            if sizes.shape[1] != 4:
                raise ValueError(f"an input with {sizes.shape[1]} numbers instead of 4")
        except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
            raise DataError(
                f"{file} cannot be read as a part of a block look-up table",
                found=str(error).splitlines()[0],
                remedy=f"Lines have {', '.join(CSV_COLUMNS)}",
            ) from error
        own |= {"cin": sizes[:, 1], "hw": sizes[:, 3]}
        for name, number in zip(("stage", "block", "window"), match.groups(), strict=True):
            own[name] = np.full(len(sizes), int(number))
        for name, values in own.items():
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}


def resolutions_of(hyperspace: Hyperspace, stage: NDArray[Any], size: NDArray[Any]) -> NDArray[np.int64]:
    """The input resolution of the network that each row of a released table was sampled at.

    Args:
        hyperspace: That of the table.
        stage: Number of each row's stage, as published: from 1.
        size: Height of its input.

    Raises:
        DataError: No resolution of the tables gives such a size.
    """
    sizes = _input_sizes(hyperspace)
    result = np.zeros(len(stage), dtype=np.int64)
    for number in np.unique(stage).tolist():
        by_size = sizes.get(f"stage{number}", {})
        for own in np.unique(size[stage == number]).tolist():
            if own not in by_size:
                raise DataError(
                    f"The block look-up table has inputs of size {own} in stage{number}",
                    found=f"In {hyperspace.name}, resolutions {', '.join(map(str, RESOLUTIONS))} give "
                    + (", ".join(map(str, by_size)) or "no such stage"),
                )
            result[(stage == number) & (size == own)] = by_size[own]
    return result


def check_rows(hyperspace: Hyperspace, table: dict[str, list[Any]]) -> Iterator[Row]:
    """Compare every row with our own counts, to the printed precision; yields those that differ.

    Args:
        hyperspace: That of the table.
        table: Of `read_table`.
    """
    stages = {stage.name: (index, stage) for index, stage in enumerate(hyperspace.stages)}
    sizes = _input_sizes(hyperspace)
    elastic = {
        (stage.name, block, window): stage.elastic(block, window)
        for stage in hyperspace.searched
        for block in range(len(stage.choices))
        for window in range(stage.num_windows)
    }
    parsed: dict[str, Block] = {}
    for row, values in enumerate(zip(*(table[name] for name in COLUMNS), strict=True)):
        number, block, window, text, width, size, mflops, mparams = values
        name = f"stage{number}"
        own = elastic.get((name, block, window))
        if own is None:
            yield Row(row, f"stage {number}, block {block}, window {window} is not in {hyperspace.name}")
            continue
        try:
            blocks = [parsed.get(one) or parsed.setdefault(one, _parse(one)) for one in str(text).split("_")]
        except ValueError:
            yield Row(row, f"{text!r} is not kernel#width#expand, joined by _")
            continue
        index, _ = stages[name]
        if not (own.contains_blocks(blocks) and width in hyperspace.stages[index - 1].widths and size in sizes[name]):
            yield Row(row, f"{text} after {width} channels at size {size} is not in {name} of {hyperspace.name}")
            continue
        costs, stride, shape = [], own.stride, square(width, size)
        for one in blocks:
            costs.append(block_cost(own.choice.block_type, stride, shape, one))
            stride, shape = 1, costs[-1].out_shape
        cost = total_cost(costs)
        macs = printed(cost.macs)
        params = printed(cost.num_params + QUANTIZER_PARAMS * cost.num_weighted)
        if (macs, params) != (mflops, mparams):
            stage = own.stage(tuple(blocks))
            single = single_precision_counts(stage_program(stage, square(int(width), int(size))), [stage])
            if single == (mflops, mparams):
                yield Row(row, f"{text}: {mflops} M MACs and {mparams} M parameters, exactly {macs} and {params}", True)
                continue
            yield Row(row, f"{text}: {mflops} M MACs and {mparams} M parameters, we count {macs} and {params}")


def printed(count: int) -> float:
    """A count in millions, as the tables print it."""
    return round(count / 1e6, DECIMALS)


def exact_counts(program: Sequence[Node]) -> tuple[float, float]:
    """MACs and parameters in millions, as printed: linear layers' MACs not counted, quantizers' parameters counted."""
    weighted = [node for node in program if node.has_weights]
    params = sum(node.num_params + QUANTIZER_PARAMS for node in weighted)
    return printed(sum(node.macs for node in weighted if not isinstance(node.op, Linear))), printed(params)


def single_precision_counts(program: Sequence[Node], stages: Sequence[Stage]) -> tuple[float, float]:
    """The same, summed as the published code did: module by module in float32, which is inexact above 2**24.

    Args:
        program: Of the stages, alone or within a network.
        stages: Tell the block types.
    """
    # The reference registers the SE of this block type after the block's other modules.
    se_last = {stage.name for stage in stages if stage.block_type.kind == "bottleneck-se"}
    blocks: dict[tuple[str, int | None, str], list[Node]] = {}
    for node in program:
        if node.has_weights:
            stage, block, layer = node.role
            blocks.setdefault((stage, block, "" if block is not None else layer), []).append(node)
    macs = params = np.float32(0)
    for (stage, _, _), nodes in blocks.items():
        if stage in se_last:
            nodes.sort(key=lambda node: node.role.layer in ("se/reduce", "se/expand"))
        for node in nodes:
            if not isinstance(node.op, Linear):
                macs += np.float32(node.macs)
            norm = 2 * node.out_shape.channels if node.has_batch_norm else 0
            module = np.float32(node.num_params - norm)
            for _ in range(QUANTIZER_PARAMS):
                module += np.float32(1)
            params = params + module + np.float32(norm)
    return printed(int(macs)), printed(int(params))


def _parse(text: str) -> Block:
    kernel_size, width, expand_ratio = text.split("#")
    return Block(int(width), int(kernel_size), 0.0 if expand_ratio == "None" else float(expand_ratio))


def _input_sizes(hyperspace: Hyperspace) -> dict[str, dict[int, int]]:
    """Per stage, the resolution of the tables that gives each size of its input."""

    def strided(stages: tuple[HyperStage, ...], size: int) -> int:
        for stage in stages:
            size = (size - 1) // stage.stride + 1
        return size

    return {
        stage.name: {strided(hyperspace.stages[:index], resolution): resolution for resolution in RESOLUTIONS}
        for index, stage in enumerate(hyperspace.stages)
    }
