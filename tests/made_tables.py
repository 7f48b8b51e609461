"""Made-up block tables."""

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spaceevo.spaces.hyperspace import load_hyperspace

MICRO = load_hyperspace("micro")


def write_table(path: Path, num_rows: int = 40, seed: int = 0, **changed: float) -> Path:
    """A table for `micro`; in block 1 losses are lowest, in block 0 of stage 2 they tell of a failed training.

    Args:
        changed: Values of the first row.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, list[float]] = {name: [] for name in ("stage", "block", "window", "resolution", "nsr_loss",
                                                             "latency_ms", "macs", "num_params")}  # fmt: skip
    for index, stage in enumerate(MICRO.searched):
        for block, window, resolution in product(
            range(len(stage.choices)), range(stage.num_windows), MICRO.resolutions
        ):
            latency = rng.gamma(3, 0.2 + 0.02 * window, num_rows) + 0.1
            loss = 0.5 * np.exp(-latency) * rng.uniform(0.9, 1.1, num_rows) + 0.2 + 0.05 * abs(block - 1)
            if (index, block) == (1, 0):
                loss = rng.uniform(0.96, 0.99, num_rows)
            row = {"stage": index, "block": block, "window": window, "resolution": resolution, "nsr_loss": loss,
                   "latency_ms": latency, "macs": 1000, "num_params": 10}  # fmt: skip
            for name, values in row.items():
                columns[name] += np.broadcast_to(values, num_rows).tolist()
    for name, value in changed.items():
        columns[name][0] = value
    pq.write_table(pa.table(columns), path)
    return path
