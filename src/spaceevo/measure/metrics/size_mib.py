"""Size of a model's files."""

from __future__ import annotations

from pathlib import Path

from spaceevo import plugins
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.runtimes import RUNTIMES
from spaceevo.runtimes._models import Model
from spaceevo.spaces.subnet import Subnet, network_layers

ABOUT = "Size of the model file, and of those that its weights lie in."
DEVICE = True  # the runtime's format decides


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Size in MiB, of all files where a model consists of several.

    Raises:
        ArtifactError: The file is missing or no model.
    """
    opened: Model = plugins.load(RUNTIMES, target.runtime).open_model(path)
    return opened.size_bytes / 2**20


def features(subnet: Subnet) -> tuple[float, ...]:
    """A constant, layers, parameters, and channels (scales and biases)."""
    layers = network_layers(subnet)
    channels = sum(layer.out_channels for layer in layers)
    return 1.0, float(len(layers)), subnet.num_params / 2**20, channels / 2**20
