"""Block tables from files, and which of their cells cannot be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import DataError, nearest
from spaceevo.records import FAILED_LOSS, BlockTable, QualityTable
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.published_tables import read_columns, resolutions_of

# A block type that is at most so large, in MACs and in parameters, should not be better.
MUCH_SMALLER = 1 / 3
MUCH_WORSE = 1.1
NEEDED = ("stage", "block", "window", "nsr_loss")


@dataclass(frozen=True, slots=True)
class Doubt:
    """A (stage, block type) whose losses look wrong.

    Attributes:
        stage: Index of the searched stage.
        block: Index of the block type.
        reason: What is wrong, as a clause.
        is_failed: Whether no space should use it.
    """

    stage: int
    block: int
    reason: str
    is_failed: bool


def load_block_table(path: Path, hyperspace: Hyperspace, metric: str = "latency_ms") -> BlockTable:
    """A block table for the Q-T score.

    Args:
        path: A released parquet file or folder of CSV files, or one of our own, which tells failed cells.
        hyperspace: That of the table.
        metric: The column that budgets limit; any cost that adds up over stages.

    Raises:
        DataError: It cannot be read, lacks a column, or has inputs of an unknown size.
    """
    columns = read_columns(path)
    is_released = "hw" in columns and "resolution" not in columns
    for name in (*NEEDED, "hw" if is_released else "resolution", metric):
        if name not in columns:
            close = nearest(name, columns)
            raise DataError(
                f"{path} has no column {name}",
                found=f"It has {', '.join(columns)}",
                remedy=f"Did you mean {close}?" if close and name == metric else "",
            )
    stage = _numbers(path, columns, "stage", np.int64)
    if is_released:
        resolution = resolutions_of(hyperspace, stage, _numbers(path, columns, "hw", np.int64))
        stage = _searched(path, hyperspace, stage)
        macs, num_params = (
            np.rint(_numbers(path, columns, name, np.float64) * 1e6).astype(np.int64) if name in columns else None
            for name in ("mflops", "mparams")
        )
    else:
        resolution = _numbers(path, columns, "resolution", np.int64)
        macs, num_params = (columns.get(name) for name in ("macs", "num_params"))
    block = _numbers(path, columns, "block", np.int64)
    failed = np.flatnonzero(columns.get("failed", np.zeros(len(stage), dtype=bool))).tolist()
    return BlockTable(
        stage=stage,
        block=block,
        window=_numbers(path, columns, "window", np.int64),
        resolution=resolution,
        nsr_loss=_numbers(path, columns, "nsr_loss", np.float64),
        latency_ms=_numbers(path, columns, metric, np.float64),
        macs=macs,
        num_params=num_params,
        in_width=columns.get("cin" if is_released else "in_width"),
        blocks=columns.get("blocks"),
        failed=frozenset((int(stage[row]), int(block[row])) for row in failed),
    )


def doubts(table: BlockTable | QualityTable) -> tuple[Doubt, ...]:
    """Block types of a stage whose losses look wrong.

    Failed: no loss is a finite number; the mean loss is above `FAILED_LOSS`; or every sub-stage is worse than
    every one of a block type with at most a third of the MACs and of the parameters (medians over the sub-stages).
    Only doubtful: every sub-stage is worse than every one of a block type that is smaller at all, or the median loss
    is a tenth above that of one with at most a third. A table that does not tell both MACs and parameters has no block
    type that is smaller.
    """
    found = []
    for stage in np.unique(table.stage).tolist():
        blocks = np.unique(table.block[table.stage == stage]).tolist()
        rows = {block: np.flatnonzero((table.stage == stage) & (table.block == block)) for block in blocks}
        loss = {block: table.nsr_loss[own] for block, own in rows.items()}
        size = _sizes(table, rows)
        for block in blocks:
            if not np.isfinite(loss[block]).any():
                found.append(Doubt(stage, block, "no loss is a finite number", True))
                continue
            if loss[block].mean() > FAILED_LOSS:
                reason = f"its mean NSR loss is {loss[block].mean():.3f}, above {FAILED_LOSS}"
                found.append(Doubt(stage, block, reason, True))
                continue
            ratios = {other: _size_ratio(size[other], size[block]) for other in size if other != block}
            found += _worse(stage, block, ratios, loss)
    return tuple(found)


def _worse(stage: int, block: int, ratios: Mapping[int, float], loss: Mapping[int, NDArray[np.float64]]) -> list[Doubt]:
    """That a block type is worse than a smaller one; nothing where it is not."""
    own = loss[block]
    for other in sorted(ratios, key=lambda one: ratios[one]):
        if ratios[other] < 1 and own.min() > loss[other].max():
            small = "at most a third its size" if ratios[other] <= MUCH_SMALLER else "smaller"
            reason = (
                f"its lowest NSR loss, {own.min():.3f}, is above the highest of block {other}, "
                f"{loss[other].max():.3f}, which is {small}"
            )
            return [Doubt(stage, block, reason, ratios[other] <= MUCH_SMALLER)]
    medians = {other: float(np.median(loss[other])) for other, ratio in ratios.items() if ratio <= MUCH_SMALLER}
    if medians and np.median(own) > MUCH_WORSE * min(medians.values()):
        other = min(medians, key=lambda one: medians[one])
        reason = (
            f"its median NSR loss, {np.median(own):.3f}, is above that of block {other}, {medians[other]:.3f}, "
            "which is at most a third its size"
        )
        return [Doubt(stage, block, reason, False)]
    return []


def without_failed(table: BlockTable, found: Sequence[Doubt]) -> BlockTable:
    """The table with the failed cells marked."""
    return replace(table, failed=table.failed | {(doubt.stage, doubt.block) for doubt in found if doubt.is_failed})


def _sizes(table: BlockTable | QualityTable, rows: Mapping[int, NDArray[np.int64]]) -> dict[int, tuple[float, float]]:
    """By block type its MACs and parameters, medians over its rows; empty where the table lacks either."""
    if table.macs is None or table.num_params is None:
        return {}
    macs, num_params = table.macs, table.num_params
    return {block: (float(np.median(macs[own])), float(np.median(num_params[own]))) for block, own in rows.items()}


def _size_ratio(size: tuple[float, float], other: tuple[float, float]) -> float:
    """The larger of the ratios of MACs and of parameters; infinite where the other one has none of either."""
    return max(one / two if two > 0 else np.inf for one, two in zip(size, other, strict=True))


def _numbers(
    path: Path, columns: Mapping[str, NDArray[Any]], name: str, dtype: type[np.int64 | np.float64]
) -> NDArray[Any]:
    try:
        return columns[name].astype(dtype)
    except (TypeError, ValueError) as error:
        raise DataError(f"Column {name} of {path} does not hold numbers", found=str(error)) from error


def _searched(path: Path, hyperspace: Hyperspace, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the searched stages with these numbers."""
    names = [stage.name for stage in hyperspace.searched]
    result = np.zeros_like(numbers)
    for number in np.unique(numbers).tolist():
        if f"stage{number}" not in names:
            raise DataError(
                f"{path} has rows for stage{number}", found=f"{hyperspace.name} searches {', '.join(names)}"
            )
        result[numbers == number] = names.index(f"stage{number}")
    return result
