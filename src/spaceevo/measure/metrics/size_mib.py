"""Size of the INT8 model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.operators import Operator

ABOUT = "Size of the INT8 model file."
DEVICE = True  # the runtime's format decides


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Size in MiB."""
    return path.stat().st_size / 2**20


def features(program: Sequence[Operator]) -> tuple[float, ...]:
    """A constant, operators, weights, and their channels (scales and biases)."""
    weighted = [operator for operator in program if operator.has_weights]
    return (
        1.0,
        float(len(program)),
        sum(operator.num_weights for operator in weighted) / 2**20,
        sum(operator.out_channels for operator in weighted) / 2**20,
    )
