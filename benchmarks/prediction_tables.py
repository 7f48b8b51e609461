"""The published block tables, predicted: fitted on a share of the rows, judged on all others.

    python benchmarks/prediction_tables.py --tables ../shared/reference

A stage is a program (`graph/nodes.py`), fitted and predicted as networks are; one predictor per block type,
since a row has blocks of one type only.

With --floor, how well the rows could be predicted at all: every latency is taken apart into those of its blocks, which
tells how noisy these are; and the same regression is told every block of the fitted rows exactly, instead of sums.
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
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import lsmr

from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import square
from spaceevo.predict.fit import fit_measured
from spaceevo.records import TargetDescription
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import BlockType, Stage, stage_program
from spaceevo.train.distillation import decode_blocks

COLUMNS = ("stage", "block", "blocks", "cin", "hw", "latency_ms")
Part = tuple[int, int, int, Block]  # width and size that it reads, stride, block
DEVICES = {"mobilew": "Pixel 4, TFLite 2.7", "onnxw": "Intel VNNI, ONNX Runtime"}


def program(stage: Stage, width: int, size: int) -> Program:
    return stage_program(stage, square(width, size))[1:]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tables", type=Path, default=Path("../shared/reference"))
    arguments.add_argument("--share", type=float, default=0.2, help="of the rows to fit on")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--names", nargs="*", default=list(DEVICES))
    arguments.add_argument("--floor", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    console = Console()
    shown = Table(
        "table", "block type", "fitted on", "others", "within 10 %", "within 5 %", "p99 error", "settings", "s"
    )
    floors = Table("table", "block type", "blocks", "largest error of their sums", "told by the rows",
                   "slower by 10 % than a wider one", "unseen", "of these within 10 %", "rows judged", "within 10 %",
                   )  # fmt: skip
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
            if given.floor:
                rows = [
                    parts(stages[f"stage{table['stage'][row]}"].stride, decode_blocks(table["blocks"][row]),
                          table["cin"][row], table["hw"][row])
                    for row in own.tolist()
                ]  # fmt: skip
                found = floor(target, block_type, rows, latencies[own], fitted[own])
                floors.add_row(name, str(block_type), *found)
                console.print(name, block_type, *found)
                continue
            programs = {}
            for row in own.tolist():
                stage = stages[f"stage{table['stage'][row]}"]
                blocks = Stage(stage.name, block_type, stage.stride, decode_blocks(table["blocks"][row]))
                programs[row] = program(blocks, table["cin"][row], table["hw"][row])
            train, test = own[fitted[own]], own[~fitted[own]]
            predictor = fit_measured(target, [programs[row] for row in train], latencies[train], use_blocks=True)
            predictor.prepare(node for row in test for node in programs[row])
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
        if given.floor:
            continue
        errors = np.concatenate(everything)
        shown.add_row(name, "all", str(fitted.sum()), *figures(errors), "", "")
        result[name] = {
            "within_10_percent": float((errors < 0.1).mean()),
            "within_5_percent": float((errors < 0.05).mean()),
        }
    console.print(floors if given.floor else shown)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))


def parts(stride: int, blocks: tuple[Block, ...], width: int, size: int) -> list[Part]:
    """The blocks of a row, each with what it reads."""
    found = []
    for block in blocks:
        found.append((width, size, stride, block))
        width, size, stride = block.width, (size - 1) // stride + 1, 1
    return found


def floor(target: TargetDescription, block_type: BlockType, rows: list[list[Part]], latencies: np.ndarray,
          fitted: np.ndarray) -> list[str]:  # fmt: skip
    numbers: dict[Part, int] = {}
    indices = [numbers.setdefault(part, len(numbers)) for row in rows for part in row]
    ends = np.cumsum([0, *map(len, rows)])
    counts = csr_matrix((np.ones(len(indices)), indices, ends), shape=(len(rows), len(numbers)))
    block_ms, other = (
        start + lsmr(counts, latencies - counts @ start, atol=1e-12, btol=1e-12, maxiter=20_000)[0]
        for start in (np.zeros(len(numbers)), np.random.default_rng(0).random(len(numbers)))
    )
    told = np.abs(block_ms - other) < 1e-3  # the rows do not tell every block: some come with others only
    twins: dict[tuple[object, ...], list[tuple[int, float]]] = {}
    for number, (width, size, stride, block) in enumerate(numbers):
        if told[number] and (width != block.width or stride > 1):  # without an identity shortcut, which others lack
            key = (width, size, stride, block.kernel_size, block.expand_ratio)
            twins.setdefault(key, []).append((block.width, float(block_ms[number])))
    slower = [
        ms > 1.1 * min(other for _, other in own[number + 1 :])
        for own in map(sorted, twins.values())
        for number, (_, ms) in enumerate(own[:-1])
    ]
    seen = np.asarray(counts[fitted].sum(axis=0)).ravel() > 0
    programs = [
        program(Stage("stage", block_type, stride, (block,)), width, size) for width, size, stride, block in numbers
    ]
    known = np.flatnonzero(seen & told)
    predictor = fit_measured(target, [programs[number] for number in known], block_ms[known])
    predictor.prepare(node for own in programs for node in own)
    wrong_ms = np.where(seen, 0, np.array([predictor.program_ms(own) for own in programs]) - block_ms)
    unseen = ~seen & told
    judged = ~fitted & (counts @ (~seen & ~told).astype(float) == 0)
    rows_right = np.abs(counts[judged] @ wrong_ms) <= 0.1 * latencies[judged]
    return [f"{len(numbers)}", f"{np.abs(counts @ block_ms - latencies).max():.5f} ms", f"{told.mean():.1%}",
            f"{np.mean(slower):.1%}", f"{1 - seen.mean():.1%}",
            f"{(np.abs(wrong_ms[unseen]) <= 0.1 * block_ms[unseen]).mean():.1%}",
            f"{judged.sum()}", f"{rows_right.mean():.2%}"]  # fmt: skip


def figures(errors: np.ndarray) -> list[str]:
    return [str(len(errors)), f"{(errors <= 0.1).mean():.2%}", f"{(errors <= 0.05).mean():.2%}",
            f"{np.quantile(errors, 0.99):.3f}"]  # fmt: skip


if __name__ == "__main__":
    main()
