"""OpenVINO on a device (see the folder)."""

from __future__ import annotations

import sys
import time as clock
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


def compiled(model: Any, threads: int, counters: bool = False) -> Any:
    """A compiled model.

    Args:
        model: Path or content of a model.
        threads: Threads within an operator; operators run one after another.
        counters: Count the time of every operator.
    """
    if not _cores:
        _cores.append(package().Core())
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
    return _cores[0].compile_model(_cores[0].read_model(model), "CPU", settings)


def load(model: Any, threads: int) -> Any:
    """A request for inference; arguments as of `compiled`."""
    return compiled(model, threads).create_infer_request()


def time(request: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, batch 1, after a few that do not count."""
    image = request.get_input_tensor()
    image.data[:] = np.random.default_rng(0).standard_normal(tuple(image.shape), dtype=np.float32)
    samples = []
    for _ in range(WARM_UP + repeats):
        start = clock.perf_counter_ns()
        request.infer()
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[WARM_UP:]
