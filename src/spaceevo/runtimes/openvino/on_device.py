"""OpenVINO on a device (see `Runtime.ON_DEVICE`): a stand-alone file."""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Sequence
from typing import Any

import numpy as np

WARM_UP = 5
_cores: list[Any] = []  # one per process


def package() -> Any:
    """The package. On import it tells a server that it was imported, unless its telemetry is not installed."""
    known = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules["openvino_telemetry"]
        if known is not None:
            sys.modules["openvino_telemetry"] = known
    return openvino


def version() -> str:
    """Version of the package."""
    return str(package().__version__).split("-")[0]


def opened(model: Any) -> Any:
    """A model as OpenVINO reads it, from its path or content."""
    if not _cores:
        _cores.append(package().Core())
    return _cores[0].read_model(model)


def compiled(model: Any, threads: int, counters: bool = False) -> Any:
    """A compiled model.

    Args:
        model: Path or content of a model.
        threads: Threads within an operator; operators run one after another.
        counters: Count the time of every operator.
    """
    read = opened(model)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "ENABLE_CPU_PINNING": "NO",  # the caller's affinity holds
        "CACHE_DIR": "",
        "PERF_COUNT": "YES" if counters else "NO",
    }
    return _cores[0].compile_model(read, "CPU", settings)


def load(model: Any, threads: int) -> Any:
    """A request for inference; arguments as of `compiled`."""
    return compiled(model, threads).create_infer_request()


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


def fill(request: Any, inputs: Any) -> None:
    """Fill the inputs of a request.

    Args:
        request: Of `load`.
        inputs: (name, numpy's type, shape) of each; those without a name that OpenVINO knows in the order of the model.
    """
    by_name = {name: (kind, shape) for name, kind, shape in inputs}
    for number, port in enumerate(request.model_inputs):
        known = by_name.keys() & port.get_names()
        kind, shape = by_name[min(known)] if known else inputs[number][1:]
        tensor = request.get_input_tensor(number)
        if port.get_partial_shape().is_dynamic:
            tensor.shape = shape
        tensor.data[...] = values(kind, shape)


def time(request: Any, inputs: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, after a few that do not count; arguments as of `fill`."""
    fill(request, inputs)
    num_warm_up = min(WARM_UP, repeats)  # few runs are asked of slow models, whose caches one run fills
    samples = []
    for _ in range(num_warm_up + repeats):
        start = clock.perf_counter_ns()
        request.infer()
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[num_warm_up:]


def told(node: Any, key: str) -> str:
    """What the graph of execution tells of a node; "" if nothing."""
    info = node.get_rt_info()
    return str(info[key].value if hasattr(info[key], "value") else info[key]) if key in info else ""


def profile(model: Any, inputs: Any, repeats: int, threads: int) -> list[tuple[str, str, str, float]]:
    """(node, type, layers, ms) of every node that was executed, from the counters: the mean over the runs.

    Args:
        model: Path or content of a model.
        inputs: As of `fill`.
        repeats: Runs that count.
        threads: As of `compiled`.
    """
    ready = compiled(model, threads, counters=True)
    request = ready.create_infer_request()
    fill(request, inputs)
    # Of all runs until then: the counters give means since the start, the slow first runs included
    totals: list[list[tuple[Any, float]]] = []
    for runs in (WARM_UP, repeats):
        for _ in range(runs):
            request.infer()
        num_runs = WARM_UP + (runs if totals else 0)
        totals.append([(entry, entry.real_time.total_seconds() * 1e3 * num_runs) for entry in request.profiling_info])
    nodes = {node.get_friendly_name(): node for node in ready.get_runtime_model().get_ordered_ops()}
    found = []
    for (_, before), (entry, after) in zip(*totals):  # noqa: B905  `strict` came with Python 3.10
        if entry.status == entry.Status.EXECUTED:
            node, ms = nodes.get(entry.node_name), max(0.0, after - before) / repeats
            if node is None:
                found.append(("", entry.node_type, "", ms))
            else:
                found.append((entry.node_name, told(node, "layerType"), told(node, "originalLayersNames"), ms))
    return found
