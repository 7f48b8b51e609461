"""Whether two sessions agree: the same files, measured twice, each time by a process of its own.

    python benchmarks/repeatability.py [TARGET] [HYPERSPACE] [NUM_NETWORKS] [NUM_SESSIONS]

Random INT8 networks of a hyperspace ("onnxruntime@local", "micro", 8 of them, 2 sessions). For each network: latency
and interval in every session, how far the latencies are apart, and whether all intervals overlap. The last lines tell
how it would be without scaling by the reference model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from spaceevo import plugins
from spaceevo.measure.campaign import reference_program
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.measure.session import Plan, Reference, measure
from spaceevo.measure.target import describe
from spaceevo.nets.network import program_of
from spaceevo.predict.fit import random_subnets
from spaceevo.progress import silent
from spaceevo.records import Measurement
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.hyperspace import load_hyperspace


def session(target: str, folder: str, latency_ms: str = "") -> None:
    """One session; prints what the reference model took, and the measurements."""
    *paths, reference = sorted(Path(folder).iterdir())
    anchors = [float(latency_ms)] if latency_ms else []

    def anchored(measurement: Measurement) -> float:
        anchors.append(measurement.latency_ms)
        return measurement.latency_ms

    start = Reference(reference, *anchors)
    measured = measure(describe(target), paths, Plan(), silent, reference=start, anchored=anchored)
    print(*anchors, *(measurement.model_dump_json() for measurement in measured), sep="\n")


def main(
    target: str = "onnxruntime@local", hyperspace: str = "micro", networks: str = "8", sessions: str = "2"
) -> None:
    description = describe(target)
    runtime = plugins.load(RUNTIMES, description.runtime)
    print(f"{target} {description.runtime_version}, {description.device}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for number, subnet in enumerate(random_subnets(load_hyperspace(hyperspace), int(networks), 0, "repeat", 1000)):
            graph = random_integer_graph(program_of(subnet), 0, description.w_qmax)
            runtime.export_int8(graph, Path(folder) / f"{number:03}{runtime.SUFFIX}", {})
        reference = random_integer_graph(reference_program(), 0, description.w_qmax)
        runtime.export_int8(reference, Path(folder) / f"reference{runtime.SUFFIX}", {})
        found: list[list[Measurement]] = []
        anchor: list[str] = []
        for _ in range(int(sessions)):
            start = time.perf_counter()
            words = [sys.executable, __file__, "--session", target, folder, *anchor]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            anchor, lines = done.stdout.splitlines()[:1], done.stdout.splitlines()[1:]
            found.append([Measurement.model_validate(json.loads(line)) for line in lines])
            scale = f"{min(m.scale for m in found[-1]):.3f} to {max(m.scale for m in found[-1]):.3f}"
            seconds, load = time.perf_counter() - start, os.getloadavg()[0]
            print(f"session of {seconds:.1f} s, load {load:.1f}, scaled by {scale}")
    for number, own in enumerate(zip(*found, strict=True)):
        columns = "   ".join(f"{m.latency_ms:8.4f} [{m.low_ms:8.4f}, {m.high_ms:8.4f}]" for m in own)
        print(f"{number:3}   {columns} ms   {_apart(own):6.1%} apart   {'overlap' if _overlap(own) else 'DISJOINT'}")
    summarize("as measured", found)
    summarize("without scaling", [[_unscaled(m) for m in own] for own in found])


def summarize(what: str, found: list[list[Measurement]]) -> None:
    pairs = list(zip(*found, strict=True))
    apart = sorted(map(_apart, pairs))
    print(
        f"{what}: the intervals of {sum(map(_overlap, pairs))} of {len(pairs)} networks overlap; "
        f"latencies {apart[len(apart) // 2]:.1%} apart in the median, {apart[-1]:.1%} at most"
    )


def _apart(own: Sequence[Measurement]) -> float:
    return max(m.latency_ms for m in own) / min(m.latency_ms for m in own) - 1


def _overlap(own: Sequence[Measurement]) -> bool:
    return max(m.low_ms for m in own) <= min(m.high_ms for m in own)


def _unscaled(m: Measurement) -> Measurement:
    fields = ("latency_ms", "low_ms", "high_ms")
    return m.model_copy(update={field: getattr(m, field) / m.scale for field in fields})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--session"]:
        session(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
