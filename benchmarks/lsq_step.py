"""One LSQ+ training step of a published space's supernet against an FP32 step of the same network: time and memory.

The step is that of `train/loop.py`: a sandwich of four programs (largest, smallest, two random), a forward and a
backward pass for each, clipping, SGD. Time: both steps by turns in one process, the median; beside it the processor
time, which says more where other programs run (with one thread: threads that wait for each other count too).
Memory: the peak of the bytes that tensors hold above what they hold before the step, by the allocator's events; and,
as a check that shares nothing with it, the growth of the peak resident set of a fresh process that takes one such step.

Run: python benchmarks/lsq_step.py [--threads 1]
"""

from __future__ import annotations

import argparse
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch

from spaceevo.config import TrainingSettings
from spaceevo.nets.network import Network, program_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.loop import _optimizer, _step

SPACE = "onnxw-151122-023231"
RESOLUTION = 160
BATCH_SIZE = 8
NUM_CLASSES = 1000
MODES = ("fp32", "lsq+")


def training_step(mode: str, batch_size: int) -> Callable[[], None]:
    """A network of the space in one phase, and what trains it by one step."""
    hyperspace = load_hyperspace(SPACE.split("-")[0])
    space = hyperspace.space(hyperspace.decode(SPACE), NUM_CLASSES)
    rng = random.Random(0)
    subnets = [space.largest(), space.smallest(), space.sample(rng), space.sample(rng)]
    programs = [program_of(replace(subnet, resolution=RESOLUTION)) for subnet in subnets]
    generator = torch.Generator().manual_seed(0)
    network = Network(space.largest_nodes(), 127, generator)
    shape = (batch_size, 3, RESOLUTION, RESOLUTION)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), generator=generator)
    network.train()
    if mode == "lsq+":
        x = torch.randn((2, *shape[1:]), generator=generator)
        network.start_quantization([(x, program) for program in programs])
    settings = TrainingSettings(lr=1e-3)
    optimizer = _optimizer(network, settings)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step() -> None:
        _step(network, optimizer, programs, pixels, labels, settings)

    return step


def peak_tensor_mib(step: Callable[[], None]) -> float:
    """Peak of allocated tensor bytes during a step, above those before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "this torch tells no allocations"
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))) / 2**20


def resident_growth_mib(mode: str, batch_size: int) -> float:
    """Growth of the peak resident set by one step; of this process, which should be fresh."""
    step = training_step(mode, batch_size)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--resident", choices=MODES, help="only print the growth of the resident set of one mode")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.resident:
        print(resident_growth_mib(options.resident, options.batch_size))
        return
    print(f"{SPACE}, {options.batch_size} images at {RESOLUTION}, {options.threads} thread(s), "
          f"torch {torch.__version__}, {platform.machine()}; medians of {options.rounds} rounds by turns")  # fmt: skip
    command = [sys.executable, __file__, "--threads", str(options.threads), "--batch-size", str(options.batch_size)]
    resident = {}
    for mode in MODES:
        output = subprocess.run([*command, "--resident", mode], check=True, capture_output=True, text=True).stdout
        resident[mode] = float(output)
    steps = {mode: training_step(mode, options.batch_size) for mode in MODES}
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    cpu_seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(options.rounds + 1):
        for mode, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step()
            if turn > 0:
                seconds[mode].append(time.perf_counter() - start)
                cpu_seconds[mode].append(time.process_time() - cpu_start)
    figures = {
        "time of a step, ms": {mode: 1000 * statistics.median(values) for mode, values in seconds.items()},
        "processor time, ms": {mode: 1000 * statistics.median(values) for mode, values in cpu_seconds.items()},
        "peak of tensors, MiB": {mode: peak_tensor_mib(step) for mode, step in steps.items()},
        "peak resident growth, MiB": resident,
    }
    for name, values in figures.items():
        fp32, int8 = (values[mode] for mode in MODES)
        print(f"{name:26s} FP32 {fp32:8.1f}   LSQ+ {int8:8.1f}   ratio {int8 / fp32:5.2f}")


if __name__ == "__main__":
    main()
