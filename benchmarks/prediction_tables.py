"""The published block tables, predicted: fitted on a share of the rows, judged on all others.

    python benchmarks/prediction_tables.py --tables ../shared/reference

A stage is a program (`spaces/operators.py`), fitted and predicted as networks are; one predictor per block type,
since a row has blocks of one type only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from spaceevo.predict.fit import fit_measured
from spaceevo.records import TargetDescription
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.operators import Operator, operators
from spaceevo.spaces.subnet import Block, Stage, stage_layers

COLUMNS = ("stage", "block", "blocks", "cin", "hw", "latency_ms")
DEVICES = {"mobilew": "Pixel 4, TFLite 2.7", "onnxw": "Intel VNNI, ONNX Runtime"}


def program(stage: Stage, width: int, size: int) -> tuple[Operator, ...]:
    return operators(stage_layers(stage, width, size))[1:]


def parse(text: str) -> tuple[Block, ...]:
    blocks = []
    for one in text.split("_"):
        kernel_size, width, ratio = one.split("#")
        blocks.append(Block(int(width), int(kernel_size), 0.0 if ratio == "None" else float(ratio)))
    return tuple(blocks)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tables", type=Path, default=Path("../shared/reference"))
    arguments.add_argument("--share", type=float, default=0.2, help="of the rows to fit on")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--names", nargs="*", default=list(DEVICES))
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    console = Console()
    shown = Table(
        "table", "block type", "fitted on", "others", "within 10 %", "within 5 %", "p99 error", "settings", "s"
    )
    result: dict[str, dict[str, float]] = {}
    for name in given.names:
        target = TargetDescription(name=name, runtime="", runtime_version="", device=DEVICES[name], machine="",
                                   flags=(), threads=1, w_qmax=127)  # fmt: skip
        stages = {stage.name: stage for stage in load_hyperspace(name).stages}
        table = pq.read_table(given.tables / f"block_lut_{name}.parquet", columns=list(COLUMNS)).to_pydict()
        latencies = np.array(table["latency_ms"])
        fitted = np.random.default_rng(given.seed).random(len(latencies)) < given.share
        everything = []
        for block in sorted(set(table["block"])):
            start = time.monotonic()
            own = np.flatnonzero(np.array(table["block"]) == block)
            block_type = stages["stage1"].choices[block].block_type
            programs = {}
            for row in own.tolist():
                stage = stages[f"stage{table['stage'][row]}"]
                blocks = Stage(stage.name, block_type, stage.stride, parse(table["blocks"][row]))
                programs[row] = program(blocks, table["cin"][row], table["hw"][row])
            train, test = own[fitted[own]], own[~fitted[own]]
            predictor = fit_measured(target, [programs[row] for row in train], latencies[train], use_blocks=True)
            predictor.prepare(operator for row in test for operator in programs[row])
            errors = np.array([predictor.program_ms(programs[row]) for row in test]) / latencies[test] - 1
            everything.append(np.abs(errors))
            seconds = time.monotonic() - start
            shown.add_row(
                name,
                str(block_type),
                str(len(train)),
                *figures(everything[-1]),
                " ".join(f"{k} {v:g}" for k, v in predictor.settings.model_dump().items()),
                f"{seconds:.0f}",
            )
            console.print(name, block_type, len(train), *figures(everything[-1]), f"{seconds:.0f} s")
        errors = np.concatenate(everything)
        shown.add_row(name, "all", str(fitted.sum()), *figures(errors), "", "")
        result[name] = {
            "within_10_percent": float((errors < 0.1).mean()),
            "within_5_percent": float((errors < 0.05).mean()),
        }
    console.print(shown)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


def figures(errors: np.ndarray) -> list[str]:
    return [str(len(errors)), f"{(errors <= 0.1).mean():.2%}", f"{(errors <= 0.05).mean():.2%}",
            f"{np.quantile(errors, 0.99):.3f}"]  # fmt: skip


if __name__ == "__main__":
    main()
