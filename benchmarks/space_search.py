"""The search over spaces on the published block tables, on one core: figures, errors, speed, and the proof.

    python benchmarks/space_search.py REFERENCE [figures] [errors] [speed] [seeds] [proof] [mobilew]

REFERENCE is a folder with block_lut_onnxw.parquet and block_lut_mobilew.parquet. Without more words: all parts but
`mobilew`, the proof for the larger hyperspace, which takes minutes. The latency of the stages that are not searched
is 0. The baseline of `speed` is the published procedure in the same run: per space and budget 100,000 random subnets
as lists of dicts, sorted by latency, then by loss.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import platform
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from spaceevo.records import BlockTable
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.qt_score import Evaluator, QTSettings
from spaceevo.search.sampled_score import SampledEvaluator
from spaceevo.search.space_search import search_spaces
from spaceevo.search.sweep import sweep_spaces
from spaceevo.search.tables import load_block_table
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice, load_hyperspace

FINEST = (1024, 512)
CASES = (
    ("onnxw", (10.0,), ("onnxw-151122-023231",)),
    ("onnxw", (15.0,), ("onnxw-121122-133333",)),
    ("mobilew", (15.0, 20.0), ("mobilew-122222-155400", "mobilew-112220-154410")),
)
NUM_SAMPLES, NUM_TOP, CHUNK = 100_000, 50, 500
NUM_SPACES, NUM_REPEATS = 50, 24
CONSTRAINTS = (9.0, 10.0, 15.0)


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"  {what}: {time.process_time() - cpu:.1f} s of one core, {time.perf_counter() - wall:.1f} s on the clock,"
          f" peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB", flush=True)  # fmt: skip


def published_score(evaluator: Evaluator, choice: SpaceChoice, budgets: tuple[float, ...]) -> float:
    """The published procedure: samples as Python lists, sorted."""
    cells = list(zip(range(len(choice.blocks)), choice.blocks, choice.windows, strict=True))
    total, rng = 0.0, np.random.default_rng(0)
    for budget in budgets:
        losses: list[float] = []
        latencies: list[float] = []
        for _ in range(NUM_SAMPLES // CHUNK):
            resolution = int(rng.choice(evaluator.resolutions))
            loss, latency = np.zeros((CHUNK, len(cells))), np.zeros((CHUNK, len(cells)))
            for column, cell in enumerate(cells):
                rows = evaluator.cells[*cell, resolution]
                index = rng.choice(len(rows.loss), CHUNK)
                loss[:, column], latency[:, column] = rows.loss[index], rows.latency_ms[index]
            losses.extend(loss.sum(axis=1))
            latencies.extend(latency.sum(axis=1) + evaluator.base_ms[resolution])
        subnets = [{"loss": one, "latency": two} for one, two in zip(losses, latencies, strict=True)]
        subnets = sorted(subnets, key=lambda subnet: subnet["latency"])
        num_within = sum(subnet["latency"] <= budget for subnet in subnets)
        best = sorted(subnets[:num_within], key=lambda subnet: subnet["loss"])[:NUM_TOP]
        if best:
            mean = sum(subnet["loss"] for subnet in best) / len(best)
            total += 1 / (max(1.0, (0.08 / (num_within / NUM_SAMPLES)) ** 0.01) * mean)
    return total


def figures(tables: dict[str, tuple[Hyperspace, BlockTable]]) -> None:
    print("Published spaces and the best found, exact, at the finest setting (1024 x 512 bins)")
    for name, budgets, published in CASES:
        hyperspace, table = tables[name]
        base = dict.fromkeys(hyperspace.resolutions, 0.0)
        exact = ExactEvaluator(table, hyperspace, budgets, base)
        finest = ExactEvaluator(table, hyperspace, budgets, base, QTSettings(), *FINEST)
        for encoding in published:
            score, fast = finest.score(hyperspace.decode(encoding)), exact.score(hyperspace.decode(encoding))
            print(f"  {encoding}, T = {budgets}: {score:.5f} (256 x 128 bins: {fast:.5f})")
        with timed("evolution of 5,000 spaces and local search"):
            result = search_spaces(hyperspace, exact, num_spaces=5000, tolerance=0.005)
        best = result.best.encoding
        print(f"  best found {best}: {finest.score(hyperspace.decode(best)):.5f}")


def errors(tables: dict[str, tuple[Hyperspace, BlockTable]]) -> None:
    print(f"Exact scores of {NUM_SPACES} random spaces of onnxw")
    hyperspace, table = tables["onnxw"]
    base = dict.fromkeys(hyperspace.resolutions, 0.0)
    rng = random.Random(0)
    choices = [hyperspace.sample(rng) for _ in range(NUM_SPACES)]
    for budget in CONSTRAINTS:
        exact = ExactEvaluator(table, hyperspace, [budget], base)
        finest = ExactEvaluator(table, hyperspace, [budget], base, QTSettings(), *FINEST)
        samples = [SampledEvaluator(table, hyperspace, [budget], base, seed=seed) for seed in range(NUM_REPEATS)]
        off, sigmas, fine_sigmas, shares = [], [], [], []
        for choice in choices:
            fine = finest.score(choice)
            share = finest.assess(choice)[0].share
            if share < 2 * QTSettings().top_share:
                continue  # 50 of 100,000 samples are then all or most of those within the budget: another quantity
            shares.append(share)
            scores = [sampled.score(choice) for sampled in samples]
            noise = float(np.std(scores, ddof=1)) / len(scores) ** 0.5
            off.append(exact.score(choice) / fine - 1)
            sigmas.append((float(np.mean(scores)) - exact.score(choice)) / noise)
            fine_sigmas.append((float(np.mean(scores)) - fine) / noise)
        print(f"  T = {budget:g}, {len(shares)} spaces: 256 x 128 bins against 1024 x 512: {100 * min(off):+.4f} to"
              f" {100 * max(off):+.4f} %; mean of {NUM_REPEATS} sampled scores minus exact, in standard errors: root"
              f" mean square {np.sqrt(np.mean(np.square(fine_sigmas))):.2f}, mean {np.mean(fine_sigmas):+.2f}, largest"
              f" {np.abs(fine_sigmas).max():.1f}, in a space with a share of"
              f" {100 * shares[int(np.abs(fine_sigmas).argmax())]:.2g} %"
              f" (256 x 128: {np.abs(sigmas).max():.1f})", flush=True)  # fmt: skip


def speed(tables: dict[str, tuple[Hyperspace, BlockTable]]) -> None:
    print("Scores per second, onnxw, T = 10")
    hyperspace, table = tables["onnxw"]
    base = dict.fromkeys(hyperspace.resolutions, 0.0)
    exact = ExactEvaluator(table, hyperspace, [10.0], base)
    rng = random.Random(1)
    choices = [hyperspace.sample(rng) for _ in range(2000)]
    for choice in choices[:500]:
        exact.score(choice)  # the spectra of all cells are made once
    start = time.process_time()
    for choice in choices:
        exact.score(choice)
    ours = len(choices) / (time.process_time() - start)
    start = time.process_time()
    for choice in choices[:8]:
        published_score(exact, choice, (10.0,))
    published = 8 / (time.process_time() - start)
    print(f"  published procedure {published:.2f}, exact {ours:.0f}: {ours / published:.0f} times as many")


def seeds(tables: dict[str, tuple[Hyperspace, BlockTable]]) -> None:
    print("10 seeds, onnxw, T = 10, spaces within 0.5 %")
    hyperspace, table = tables["onnxw"]
    exact = ExactEvaluator(table, hyperspace, [10.0], dict.fromkeys(hyperspace.resolutions, 0.0))
    found = []
    with timed("10 searches, each with its sweep"):
        for seed in range(10):
            found.append(
                search_spaces(hyperspace, exact, num_spaces=5000, tolerance=0.005, seed=seed,
                              sweep=partial(sweep_spaces, exact))
            )  # fmt: skip
    print(f"  different results: {len({result.within_tolerance for result in found})};"
          f" {len(found[0].within_tolerance)} spaces, best {found[0].best.encoding}")  # fmt: skip


def proof(tables: dict[str, tuple[Hyperspace, BlockTable]], name: str, budgets: tuple[float, ...]) -> None:
    hyperspace, table = tables[name]
    exact = ExactEvaluator(table, hyperspace, budgets, dict.fromkeys(hyperspace.resolutions, 0.0))
    result = search_spaces(hyperspace, exact, num_spaces=5000, tolerance=0.005)
    best = hyperspace.decode(result.best.encoding)
    with timed(f"sweep over {hyperspace.num_spaces:,} spaces of {name}, T = {budgets}"):
        swept = sweep_spaces(exact, best, 0.995 * result.best.qt_score)
    scores = {choice: exact.score(choice) for choice in swept.candidates}
    top = max([*scores, best], key=exact.score)
    print(f"  {swept.num_spaces:,} bounded, {len(scores)} of them scored; none of the others scores above"
          f" {swept.bound:.5f}; best of all {hyperspace.encode(top)}: {exact.score(top):.5f}, found by the evolution:"
          f" {result.best.encoding}; relative error of the bounds {swept.error:.1g}", flush=True)  # fmt: skip


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    folder, words = Path(sys.argv[1]), sys.argv[2:] or ["figures", "errors", "speed", "seeds", "proof"]
    tables = {}
    for name in ("onnxw", "mobilew"):
        hyperspace = load_hyperspace(name)
        table = load_block_table(folder / f"block_lut_{name}.parquet", hyperspace)
        tables[name] = hyperspace, replace(table, failed=frozenset())  # the whole hyperspace, failed cells included
    for word, part in {"figures": figures, "errors": errors, "speed": speed, "seeds": seeds}.items():
        if word in words:
            part(tables)
    if "proof" in words:
        print("Proof")
        proof(tables, "onnxw", (10.0,))
        proof(tables, "onnxw", (15.0,))
    if "mobilew" in words:
        proof(tables, "mobilew", (15.0, 20.0))


if __name__ == "__main__":
    main()
