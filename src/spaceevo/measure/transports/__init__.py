"""One file per transport: how to reach the machine that is measured. A file is a `TransportPlugin`.

The transport runs things there; what to run and how to read it, the runtime knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spaceevo.plugins import Registry


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as it describes itself.

    Attributes:
        model: For example "AMD EPYC".
        machine: Architecture, for example "x86_64".
        flags: Every flag that it names.
        num_cores: Logical cores.
        cores: Numbers of those that a program may be held to, often with gaps: cores are switched off, or kept for
            others. Empty where the device does not tell, or its system cannot hold programs to cores.
    """

    model: str
    machine: str
    flags: frozenset[str]
    num_cores: int = 1
    cores: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DeviceState:
    """How busy, fast and hot a device is at a moment; None for what it does not tell.

    Attributes:
        load: Processes that run or want to, mean over the last minute.
        frequency_mhz: Of the cores that the runtime may use, mean.
        temperature_c: Of the hottest thermal zone.
    """

    load: float | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None


class LoadedModel(Protocol):
    """A model that is ready to run on the device, on one image at a time."""

    def time(self, repeats: int) -> list[float]:
        """Latencies of `repeats` inferences in a row, each in ms.

        Raises:
            TargetError: The device was lost, answered too late, or with what is no latency.
        """
        ...

    def close(self) -> None:
        """Free it on the device. Nothing happens where it is gone already."""
        ...


class Transport(Protocol):
    """A reachable machine. Every method raises TargetError where the device is lost or answers too late."""

    def processor(self) -> Processor:
        """The processor there."""
        ...

    def runtime_version(self, runtime: str) -> str:
        """Version of a runtime (a plug-in name) on the device.

        Raises:
            TargetError: It is not installed there.
        """
        ...

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        """The state now; the frequency is that of `cores`, or of all."""
        ...

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> LoadedModel:
        """Load a model file of this machine into the runtime (a plug-in name) of the device.

        Args:
            runtime: A plug-in name.
            path: The file here.
            threads: Threads that the runtime may use.
            cores: Logical cores that it is pinned to; empty for any.

        Raises:
            ArtifactError: The runtime refuses the file.
            TargetError: The device is lost, has no space, or no such runtime or core.
        """
        ...

    def peak_memory_mib(self, runtime: str, path: Path, threads: int) -> float:
        """Largest resident memory of a fresh process on the device that loads a model and runs it a few times, in MiB.

        Raises:
            TargetError: As `load`; or the device does not tell.
        """
        ...

    def profile(self, runtime: str, path: Path, threads: int, repeats: int) -> dict[str, float]:
        """Milliseconds per operator of a model, in the context of the whole, as the runtime on the device counts.

        Args:
            runtime: A plug-in name.
            path: The file here.
            threads: Threads that the runtime may use.
            repeats: Inferences that are counted, after a few that are not.

        Returns:
            By operator name; what belongs to no operator is summed under "~" and its type.

        Raises:
            ArtifactError: As `load`.
            TargetError: As `load`; or the runtime does not tell there.
        """
        ...

    def energy_uj(self) -> float:
        """Reading of the device's energy counter, in microjoules; differences count.

        Raises:
            TargetError: The device exposes no such counter; what was looked for is told.
        """
        ...

    def close(self) -> None:
        """End whatever runs there for this connection."""
        ...


class TransportPlugin(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.measure.transports`."""

    def connect(self, device: str) -> Transport:
        """Reach a machine.

        Args:
            device: What follows the colon in `runtime@transport:device`; "" where there is none.

        Raises:
            TargetError: It cannot be reached.
        """
        ...


TRANSPORTS = Registry("spaceevo.measure.transports", TransportPlugin)
