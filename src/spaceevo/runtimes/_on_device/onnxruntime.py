"""ONNX Runtime on a device (see the folder)."""

from __future__ import annotations

import time as clock
from typing import Any

import numpy as np

WARM_UP = 5


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


def time(session: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, batch 1, after a few that do not count."""
    image, logits = session.get_inputs()[0], session.get_outputs()[0]
    binding = session.io_binding()
    binding.bind_cpu_input(image.name, np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32))
    binding.bind_output(logits.name)
    samples = []
    for _ in range(WARM_UP + repeats):
        start = clock.perf_counter_ns()
        session.run_with_iobinding(binding)
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[WARM_UP:]
