"""Activation memory, computed."""

from __future__ import annotations

from collections.abc import Sequence

from spaceevo.spaces.operators import Operator, activation_bytes

ABOUT = "Largest total of the INT8 tensors that are alive at once, operators run in order; computed."
DEVICE = False


def features(program: Sequence[Operator]) -> tuple[float, ...]:
    """The value itself."""
    return (activation_bytes(program) / 2**20,)
