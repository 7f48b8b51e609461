"""Peak memory of the process that runs a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.operators import Operator, activation_bytes

ABOUT = "Largest resident memory of a fresh process that loads the model and runs it a few times."
DEVICE = True


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Peak in MiB, the runtime itself included.

    Raises:
        TargetError: The device is lost, or does not tell.
    """
    return transport.peak_memory_mib(target.runtime, path, target.threads)


def features(program: Sequence[Operator]) -> tuple[float, ...]:
    """A constant (the runtime), weights, activations."""
    weights = sum(operator.num_weights for operator in program if operator.has_weights)
    return 1.0, weights / 2**20, activation_bytes(program) / 2**20
