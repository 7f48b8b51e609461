"""Block-wise distillation: cells, and the tables that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spaceevo.records.base import Record

#: The NSR loss of predicting nothing is 1. A block whose sub-stages are above this has not learnt.
FAILED_LOSS = 0.95


class DistilledCell(Record):
    """Block-wise distillation of one (stage, block type).

    Attributes:
        stage: Name of the stage.
        block: Index of the block type in the hyperspace's stage.
        block_type: Name of the block type.
        nsr_fp32: NSR loss of the largest sub-stage after the FP32 phase, on held-out images.
        nsr_int8: The same after the LSQ+ phase.
        curve: Training loss of the largest sub-stage, per recorded step.
        attempts: Trainings done; a failed one is done again with another seed.
        failure: Why the cell is excluded; empty where it is not.
    """

    stage: str
    block: int
    block_type: str
    nsr_fp32: float
    nsr_int8: float
    curve: tuple[float, ...]
    attempts: int
    failure: str = ""


@dataclass(frozen=True, eq=False)
class QualityTable:
    """Quality and size of sampled sub-stages, before a target is known: columns as of `BlockTable`.

    Attributes:
        in_size: int, height = width of the sub-stage's input.
    """

    stage: np.ndarray
    block: np.ndarray
    window: np.ndarray
    resolution: np.ndarray
    in_width: np.ndarray
    in_size: np.ndarray
    blocks: np.ndarray
    nsr_loss: np.ndarray
    macs: np.ndarray
    num_params: np.ndarray


@dataclass(frozen=True, eq=False)
class BlockTable:
    """Quality and cost of sampled sub-stages of every (stage, block type, width window) of a hyperspace.

    All columns have one entry per row.

    Attributes:
        stage: int, index of the searched stage, from 0.
        block: int, index of the block type.
        window: int, index of the width window.
        resolution: int, input resolution of the network.
        nsr_loss: float, NSR loss against the teacher after LSQ+, lower is better.
        latency_ms: float, predicted INT8 latency of the sub-stage.
        macs: int, for one image; None where the table does not tell. Likewise what follows.
        num_params: int.
        in_width: int, channels of the sub-stage's input.
        blocks: str, `kernel_size#width#expand_ratio` per block, joined by `_`.
        failed: (stage, block) pairs whose training failed; no space may use them.
    """

    stage: np.ndarray
    block: np.ndarray
    window: np.ndarray
    resolution: np.ndarray
    nsr_loss: np.ndarray
    latency_ms: np.ndarray
    macs: np.ndarray | None
    num_params: np.ndarray | None
    in_width: np.ndarray | None
    blocks: np.ndarray | None
    failed: frozenset[tuple[int, int]] = frozenset()
