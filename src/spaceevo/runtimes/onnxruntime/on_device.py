"""ONNX Runtime on a device (see `Runtime.ON_DEVICE`): a stand-alone file."""

from __future__ import annotations

import json
import os
import tempfile
import time as clock
from collections.abc import Sequence
from typing import Any

import numpy as np

WARM_UP = 5
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: afterwards it is too late


def version() -> str:
    """Version of the package."""
    import onnxruntime

    return str(onnxruntime.__version__)


def load(model: Any, threads: int, attributes: Any = (), entries: Any = ()) -> Any:
    """A session.

    Args:
        model: Path or content of a model.
        threads: Threads within an operator; operators run one after another.
        attributes: (name, value) pairs set on the session's options.
        entries: (key, value) pairs of its configuration.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: errors come as exceptions
    for name, value in attributes:
        setattr(options, name, value)
    for key, value in entries:
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def values(kind: str, shape: Sequence[int]) -> np.ndarray:
    """What an input is filled with: normal or, of one byte, random; else ones, which are indices and masks too."""
    rng, dtype = np.random.default_rng(0), np.dtype(kind)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape, dtype=np.float64 if kind == "float64" else np.float32)).astype(
            dtype
        )
    if dtype.itemsize == 1 and dtype.kind in "iu":
        return np.asarray(rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, True))
    return np.ones(shape, dtype)


def time(session: Any, inputs: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, after a few that do not count.

    Args:
        session: Of `load`.
        inputs: (name, numpy's type, shape) of each.
        repeats: Runs that count.
    """
    binding = session.io_binding()
    for name, kind, shape in inputs:
        binding.bind_cpu_input(name, values(kind, shape))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    num_warm_up = min(WARM_UP, repeats)  # few runs are asked of slow models, whose caches one run fills
    samples = []
    for _ in range(num_warm_up + repeats):
        start = clock.perf_counter_ns()
        session.run_with_iobinding(binding)
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[num_warm_up:]


def profile(
    model: Any, inputs: Any, repeats: int, threads: int, attributes: Any = (), entries: Any = ()
) -> list[tuple[str, str, str, float]]:
    """(node, type, "", ms) of every node, from the profiler: of whole microseconds, the mean of the runs' middle half.

    Args:
        model: Path or content of a model.
        inputs: As of `time`.
        repeats: Runs that count.
        threads: As of `load`, like those that follow.
        attributes: See there.
        entries: See there.
    """
    ending = "_kernel_time"
    with tempfile.TemporaryDirectory() as folder:
        profiling = [("enable_profiling", True), ("profile_file_prefix", os.path.join(folder, "profile"))]
        session = load(model, threads, [*attributes, *profiling], entries)
        feeds = {name: values(kind, shape) for name, kind, shape in inputs}
        for _ in range(WARM_UP + repeats):
            session.run(None, feeds)
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    samples: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ending):
            node = event["name"][: -len(ending)], event["args"]["op_name"]
            samples.setdefault(node, []).append(event["dur"] / 1e3)
    return [(name, kind, "", _middle_mean(own[WARM_UP:])) for (name, kind), own in samples.items()]


def _middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: as robust as a median, finer than the microseconds that were counted."""
    quarter = len(values) // 4
    middle = sorted(values)[quarter : len(values) - quarter]
    return sum(middle) / len(middle)
