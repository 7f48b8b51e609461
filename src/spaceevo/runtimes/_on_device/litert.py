"""LiteRT on a device (see the folder)."""

from __future__ import annotations

import time as clock
from typing import Any

import numpy as np

WARM_UP = 5


def version() -> str:
    """Version of the package."""
    import ai_edge_litert

    return str(ai_edge_litert.__version__)


def load(model: Any, threads: int) -> Any:
    """An interpreter with the XNNPACK delegate.

    Args:
        model: Path or content of a model.
        threads: Threads within an operator; operators run one after another.
    """
    from ai_edge_litert.interpreter import Interpreter

    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    interpreter = Interpreter(num_threads=threads, **source)
    interpreter.allocate_tensors()
    return interpreter


def time(interpreter: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, batch 1, after a few that do not count."""
    (image,) = interpreter.get_input_details()
    _, height, width, channels = image["shape"]
    values = np.random.default_rng(0).standard_normal((1, channels, height, width), dtype=np.float32)
    interpreter.set_tensor(image["index"], np.ascontiguousarray(values.transpose(0, 2, 3, 1)))
    num_warm_up = min(WARM_UP, repeats)  # few runs are asked of slow models, whose caches one run fills
    samples = []
    for _ in range(num_warm_up + repeats):
        start = clock.perf_counter_ns()
        interpreter.invoke()
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[num_warm_up:]
