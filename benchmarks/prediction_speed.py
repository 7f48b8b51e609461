"""Subnets predicted per second: looked up many at once, against one by one, in the same run.

    python benchmarks/prediction_speed.py

The predictor is fitted on made-up latencies: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from spaceevo.predict.batch import BatchPredictor
from spaceevo.predict.fit import fit_measured, fit_subnets
from spaceevo.predict.regression import START
from spaceevo.records import TargetDescription
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import network_program

TARGET = TargetDescription(name="made up", runtime="", runtime_version="", device="", machine="", flags=(), threads=1,
                           w_qmax=127)  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--count", type=int, default=200_000)
    arguments.add_argument("--converted", type=int, default=20_000)
    arguments.add_argument("--one-by-one", type=int, default=200)
    given = arguments.parse_args()
    shown = Table("space", "table ready in s", "rows per s", "subnets to rows per s", "encodings to rows per s",
                  "one by one per s", "ratio", "largest difference")  # fmt: skip
    for name in ("micro", "onnxw", "mobilew"):
        hyperspace = load_hyperspace(name)
        programs = [network_program(subnet) for subnet in fit_subnets(hyperspace, 60, 0, 10)]
        latencies = [sum(node.macs + 1e4 for node in program) * 1e-8 for program in programs]
        predictor = fit_measured(TARGET, programs, latencies, settings=START)
        assert predictor.solution.groups  # solved before the clock starts
        rng = random.Random(0)
        space = hyperspace.space(hyperspace.sample(rng), 10)
        start = time.perf_counter()
        batch = BatchPredictor(predictor, space)
        ready = time.perf_counter() - start
        rows = batch.sample(given.count, np.random.default_rng(0))
        start = time.perf_counter()
        batch.latencies_ms(rows)
        per_second = given.count / (time.perf_counter() - start)
        subnets = [space.sample(rng) for _ in range(given.converted)]
        start = time.perf_counter()
        own_rows = batch.rows(subnets)
        conversions = given.converted / (time.perf_counter() - start)
        encodings = [encode(subnet) for subnet in subnets]
        start = time.perf_counter()
        assert (batch.decode(encodings) == own_rows).all()
        readings = given.converted / (time.perf_counter() - start)
        start = time.perf_counter()
        single = np.array([predictor.network_ms(subnet) for subnet in subnets[: given.one_by_one]])
        one_by_one = given.one_by_one / (time.perf_counter() - start)
        difference = np.abs(batch.latencies_ms(own_rows[: given.one_by_one]) / single - 1).max()
        speeds = (f"{speed:,.0f}" for speed in (per_second, conversions, readings, one_by_one, per_second / one_by_one))
        shown.add_row(space.encoding, f"{ready:.1f}", *speeds, f"{difference:.1e}")
    Console().print(shown)


if __name__ == "__main__":
    main()
