"""Size of the INT8 model file."""

from __future__ import annotations

from pathlib import Path

from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.spaces.subnet import Subnet, network_layers

ABOUT = "Size of the INT8 model file."
DEVICE = True  # the runtime's format decides


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Size in MiB."""
    return path.stat().st_size / 2**20


def features(subnet: Subnet) -> tuple[float, ...]:
    """A constant, layers, parameters, and channels (scales and biases)."""
    layers = network_layers(subnet)
    channels = sum(layer.out_channels for layer in layers)
    return 1.0, float(len(layers)), subnet.num_params / 2**20, channels / 2**20
