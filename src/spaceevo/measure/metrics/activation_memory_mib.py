"""Activation memory, computed."""

from __future__ import annotations

from spaceevo.graph.nodes import peak_activation_bytes
from spaceevo.spaces.subnet import Subnet, network_program

ABOUT = "Largest total of the INT8 tensors that are alive at once, operators run in order; computed."
measure = None  # the architecture decides


def features(subnet: Subnet) -> tuple[float, ...]:
    """The value itself."""
    return (peak_activation_bytes(network_program(subnet)) / 2**20,)
