"""What handing out jobs costs: many short jobs through each engine, against the time that they take by themselves.

Run: python benchmarks/engines.py [--jobs 500] [--seconds 0.1] [--json FILE]

A job computes for a while on one core (it counts its own processor time, so a job that has to wait for a core takes
longer). Ideal is jobs x seconds / cores. Start-up is a first round of as many jobs as there are cores, told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spaceevo import engines
from spaceevo.config import EngineSettings
from spaceevo.errors import EngineError
from spaceevo.progress import ProgressCallback, silent


def work(seconds: float, job: int, progress: ProgressCallback) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        progress(0, 1)
    return job


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--jobs", type=int, default=500)
    arguments.add_argument("--seconds", type=float, default=0.1, help="of processor time per job")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    cores = len(os.sched_getaffinity(0))
    console, results = Console(), {}
    for name in engines.ENGINES.names():
        own = 1 if name == "serial" else cores
        start = time.perf_counter()
        try:
            engine = engines.start(EngineSettings(name=name, workers=0))
        except EngineError as error:
            console.print(f"{name}: {error}", highlight=False)
            continue
        list(engine.map(partial(work, given.seconds), range(own), silent))
        started = time.perf_counter()
        done = sorted(result for _, result in engine.map(partial(work, given.seconds), range(given.jobs), silent))
        seconds = time.perf_counter() - started
        engine.close()
        if done != list(range(given.jobs)):
            raise SystemExit(f"{name} lost jobs")
        ideal = given.jobs * given.seconds / own
        results[name] = {"start_s": started - start, "seconds": seconds, "ideal_s": ideal, "ratio": seconds / ideal}
    table = Table("engine", "start, s", "jobs, s", "ideal, s", "ratio",
                  title=f"{given.jobs} jobs of {given.seconds:g} s on {cores} cores")  # fmt: skip
    for name, row in results.items():
        table.add_row(name, f"{row['start_s']:.1f}", f"{row['seconds']:.1f}", f"{row['ideal_s']:.1f}",
                      f"{row['ratio']:.2f}")  # fmt: skip
    console.print(table)
    if given.json:
        machine = {"machine": platform.processor() or platform.machine(), "cores": cores}
        given.json.write_text(json.dumps(machine | {"engines": results}, indent=1))


if __name__ == "__main__":
    main()
