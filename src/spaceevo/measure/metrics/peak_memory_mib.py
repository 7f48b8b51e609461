"""Peak memory of the process that runs a model."""

from __future__ import annotations

from pathlib import Path

from spaceevo.graph.nodes import peak_activation_bytes
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.subnet import Subnet, network_program

ABOUT = "Largest resident memory of a fresh process that loads the model and runs it a few times."


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Peak in MiB, the runtime itself included.

    Raises:
        TargetError: The device is lost, or does not tell.
    """
    return transport.peak_memory_mib(target.runtime, path, target.threads)


def features(subnet: Subnet) -> tuple[float, ...]:
    """A constant (the runtime), parameters, activations."""
    return 1.0, subnet.num_params / 2**20, peak_activation_bytes(network_program(subnet)) / 2**20
