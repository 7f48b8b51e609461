"""How fast spaces are, on one core: sampling with costs, building a supernet, counting the released tables, starting.

    python benchmarks/spaces.py [REFERENCE]

REFERENCE is a folder with block_lut_mobilew.parquet and block_lut_onnxw.parquet; without it that part is left out.
Sampling stands beside a baseline in the same run: the same networks, each traced whole.
"""

from __future__ import annotations

import platform
import random
import subprocess
import sys
import time
from pathlib import Path

import torch

from spaceevo.nets.network import Network
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.published_tables import check_rows, read_table
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import network_program

NUM_SUBNETS = 100_000
NUM_TRACED = 1000


def space_of(encoding: str) -> SearchSpace:
    hyperspace = load_hyperspace(encoding.split("-")[0])
    return hyperspace.space(hyperspace.decode(encoding), 1000)


def main() -> None:
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )

    space, rng = space_of("mobilew-122222-155400"), random.Random(0)
    start = time.perf_counter()
    for _ in range(NUM_SUBNETS):
        _ = space.sample(rng).cost
    seconds = time.perf_counter() - start
    subnets = [space.sample(rng) for _ in range(NUM_TRACED)]
    start = time.perf_counter()
    for subnet in subnets:
        _ = sum(node.macs for node in network_program(subnet))
    traced = (time.perf_counter() - start) * NUM_SUBNETS / NUM_TRACED
    print(f"sample {NUM_SUBNETS:,} subnets of mobilew with costs: {seconds:.2f} s (bar 5 s);"
          f" {traced / seconds:.0f} times as fast as tracing every network")  # fmt: skip

    space = space_of("onnxw-151122-023231")
    start = time.perf_counter()
    largest = space.largest_nodes()
    declared = time.perf_counter() - start
    Network(largest, 127, torch.Generator())
    built = time.perf_counter() - start
    print(f"build the supernet of onnxw: {built:.2f} s (bar 3 s), of which {declared:.2f} s for its nodes")

    help_code = "import sys; sys.argv = ['spaceevo', '--help']; from spaceevo.cli import main; main()"
    commands = {"python -c pass": "pass", "import spaceevo": "import spaceevo", "spaceevo --help": help_code}
    for name, code in commands.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"{name}: {min(times):.2f} s (bar 0.5 s)")

    if len(sys.argv) < 2:
        print("Counting the released tables: left out; name the folder that holds them.")
        return
    num_rows, start = 0, time.perf_counter()
    for name in ("mobilew", "onnxw"):
        table = read_table(Path(sys.argv[1]) / f"block_lut_{name}.parquet")
        num_rows += len(table["stage"])
        for _ in check_rows(load_hyperspace(name), table):
            pass
    print(f"count {num_rows:,} rows of the released tables: {time.perf_counter() - start:.2f} s (bar 20 s)")


if __name__ == "__main__":
    main()
