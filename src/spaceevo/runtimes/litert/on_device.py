"""LiteRT on a device (see `Runtime.ON_DEVICE`): a stand-alone file."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
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


def time(interpreter: Any, inputs: Any, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, after a few that do not count.

    Args:
        interpreter: Of `load`.
        inputs: (name, numpy's type, shape) of each, in the order of the model.
        repeats: Runs that count.
    """
    for own, (_, kind, shape) in zip(interpreter.get_input_details(), inputs):  # noqa: B905  `strict` came with 3.10
        interpreter.set_tensor(own["index"], values(kind, shape))
    num_warm_up = min(WARM_UP, repeats)  # few runs are asked of slow models, whose caches one run fills
    samples = []
    for _ in range(num_warm_up + repeats):
        start = clock.perf_counter_ns()
        interpreter.invoke()
        samples.append((clock.perf_counter_ns() - start) / 1e6)
    return samples[num_warm_up:]
