"""One file per transport: how to reach the machine that is measured.

A transport is a module with one function

    connect(device: str) -> Transport

where `device` is what follows the colon in `runtime@transport:device` ("" where there is none). It raises
TargetError when the device cannot be reached. The transport runs things there; what to run and how to read
it, the runtime knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as it describes itself.

    Attributes:
        model: For example "AMD EPYC".
        machine: Architecture, for example "x86_64".
        flags: Every flag that it names.
    """

    model: str
    machine: str
    flags: frozenset[str]


class LoadedModel(Protocol):
    """A model that is ready to run on the device, on one image at a time."""

    def time(self, repeats: int) -> list[float]:
        """Latencies of `repeats` inferences in a row, each in ms."""
        ...


class Transport(Protocol):
    """A reachable machine."""

    def processor(self) -> Processor:
        """The processor there."""
        ...

    def load(self, runtime: str, path: Path, threads: int) -> LoadedModel:
        """Load a model file of this machine into the runtime (a plug-in name) of the device.

        Raises:
            ArtifactError: The runtime refuses the file.
        """
        ...
