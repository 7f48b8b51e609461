"""Do weight codes up to 127, and up to 63, stay exact without VNNI? Shown on any x86 machine that has valgrind.

Valgrind lends its programs a processor with AVX2 and nothing newer, so that runtimes take the kernels that they take
there. Every installed runtime runs the same files outside and inside of it, against the integer reference.

Run: python benchmarks/saturation.py
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from spaceevo import plugins
from spaceevo.errors import TargetError
from spaceevo.runtimes import RUNTIMES

NUM_IMAGES = 2
RESOLUTION = 32


def write(folder: Path) -> list[str]:
    """Files of every installed runtime, images, and what the reference makes of them; names of the runtimes."""
    import random
    from dataclasses import replace

    import torch
    from torch.nn import functional as F

    from spaceevo.measure.random_graphs import random_integer_graph
    from spaceevo.nets.executors import run_integer
    from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
    from spaceevo.spaces.operators import operators
    from spaceevo.spaces.subnet import network_layers

    space = load_hyperspace("micro").space(SpaceChoice((4, 2, 1), (0, 0, 0)), 10)
    program = operators(network_layers(replace(space.sample(random.Random(3)), resolution=RESOLUTION)))
    patterns = torch.randn(NUM_IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.5
    images = F.interpolate(patterns, size=(RESOLUTION, RESOLUTION), mode="bilinear")
    np.save(folder / "images.npy", images.numpy())
    names = []
    for name in plugins.names(RUNTIMES):
        runtime = plugins.load(RUNTIMES, name)
        try:
            runtime.version()
        except TargetError as error:
            print(f"left out: {error}")
            continue
        names.append(name)
        for w_qmax in (63, 127):
            graph = random_integer_graph(program, 3, w_qmax)
            runtime.export_int8(graph, folder / f"{name}-{w_qmax}{runtime.SUFFIX}", {})
            np.save(folder / f"{name}-{w_qmax}.npy", run_integer(graph, images, arithmetic=runtime.ARITHMETIC).numpy())
    return names


def run(folder: Path, name: str) -> dict[str, float]:
    """Largest difference of a logit by largest weight code, for one runtime."""
    runtime = plugins.load(RUNTIMES, name)
    images = np.load(folder / "images.npy")
    differences = {}
    for w_qmax in (63, 127):
        logits = runtime.Session(folder / f"{name}-{w_qmax}{runtime.SUFFIX}").run(images)
        differences[str(w_qmax)] = float(np.abs(logits - np.load(folder / f"{name}-{w_qmax}.npy")).max())
    return differences


def main() -> None:
    """Run outside and inside of valgrind; print."""
    if len(sys.argv) == 3:
        print(json.dumps(run(Path(sys.argv[1]), sys.argv[2])))
        return
    print(f"{platform.machine()}; largest difference of a logit from the integer reference, {NUM_IMAGES} images")
    valgrind = shutil.which("valgrind")
    with tempfile.TemporaryDirectory() as folder:
        for name in write(Path(folder)):
            version = plugins.load(RUNTIMES, name).version()
            command = [sys.executable, __file__, folder, name]
            places = {"here": command}
            if valgrind:
                places["with AVX2 only"] = [valgrind, "--tool=none", "--quiet", *command]
            for place, words in places.items():
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                    print(f"{name} {version}, {place}: cannot be run: {last}", flush=True)
                    continue
                found = json.loads(done.stdout.strip().splitlines()[-1])
                told = ", ".join(f"{value:.3g} with codes up to {w_qmax}" for w_qmax, value in found.items())
                print(f"{name} {version}, {place}: {told}", flush=True)
    if not valgrind:
        print("valgrind is not installed: nothing is known about AVX2 here.")


if __name__ == "__main__":
    main()
