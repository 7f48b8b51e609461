"""Size of a model's files."""

from __future__ import annotations

from pathlib import Path

from spaceevo.graph.nodes import layers
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.subnet import Subnet, network_program

ABOUT = "Size of the model file, and of those that its weights lie in."


def measure(transport: Transport, target: TargetDescription, path: Path, latency_ms: float) -> float:
    """Size in MiB, of all files where a model consists of several.

    Raises:
        ArtifactError: The file is missing or no model.
    """
    opened = RUNTIMES.load(target.runtime).open_model(path)
    return opened.size_bytes / 2**20


def features(subnet: Subnet) -> tuple[float, ...]:
    """A constant, layers, parameters, and channels (scales and biases)."""
    outputs = [layer[-1].out_shape for layer in layers(network_program(subnet)[1:])]
    channels = sum(shape.channels for shape in outputs)
    return 1.0, float(len(outputs)), subnet.num_params / 2**20, channels / 2**20
