"""This machine, in this process."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaceevo.errors import TargetError
from spaceevo.measure.transports import DeviceState, LoadedModel, Processor, Transport, _device, _linux
from spaceevo.measure.transports._program import Place, peak_memory_mib
from spaceevo.runtimes import RUNTIMES

WHERE = "this machine"


def connect(device: str) -> Transport:
    """This machine.

    Raises:
        TargetError: A device is named; there is only one here.
    """
    if device:
        raise TargetError(
            "The transport 'local' takes no device",
            found=f"{device!r} after the colon",
            remedy="Write runtime@local",
        )
    return _Local()


class _Local:
    def __init__(self) -> None:
        self._energy = _linux.EnergyCounter()

    def processor(self) -> Processor:
        files = _read(_linux.PROCESSOR)
        return _linux.processor(
            files,
            platform.machine(),
            "" if files.texts else _device.processor_name(),
            cores=_device.usable_cores(),
            num_cores=os.cpu_count() or 1,
        )

    def runtime_version(self, runtime: str) -> str:
        return str(RUNTIMES.load(runtime).version())

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        return _linux.state(_read(_linux.STATE), cores)

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> LoadedModel:
        return _Model(RUNTIMES.load(runtime).load, path, threads, cores)

    def peak_memory_mib(self, runtime: str, path: Path, threads: int) -> float:
        return peak_memory_mib(Place(WHERE, (), sys.executable, _not_started, quoted=False), runtime, path, threads)

    def profile(self, runtime: str, path: Path, threads: int, repeats: int) -> dict[str, float]:
        times: dict[str, float] = RUNTIMES.load(runtime).profile(path, repeats, threads)
        return times

    def energy_uj(self) -> float:
        return self._energy.read_uj(_read(_linux.ENERGY), WHERE)

    def close(self) -> None:
        """Nothing runs elsewhere."""


class _Model:
    """A loaded model, held to some cores: its threads start while this one is, and stay where they started."""

    def __init__(self, load: Any, path: Path, threads: int, cores: tuple[int, ...]) -> None:
        self._path, self._cores = path, cores
        self._loaded = self._pinned(lambda: load(path, threads=threads))

    def time(self, repeats: int) -> list[float]:
        """Latencies in ms."""
        if self._loaded is None:
            raise TargetError("A model is timed that was closed", found=str(self._path))
        samples: list[float] = self._pinned(lambda: self._loaded.time(repeats))
        return samples

    def close(self) -> None:
        """Free it."""
        self._loaded = None

    def _pinned(self, work: Any) -> Any:
        try:
            with _device.pinned(self._cores):
                return work()
        except _device.Refused as refusal:
            raise TargetError(
                f"A program on {WHERE} cannot be pinned to the cores {', '.join(map(str, self._cores))}",
                found=str(refusal),
                remedy="Name other cores, or none",
            ) from refusal


def _read(patterns: Sequence[str]) -> _linux.Texts:
    return _linux.Texts(**_device.read(patterns))


def _not_started(code: int, output: str) -> TargetError:
    return TargetError("A process that measures memory does not start", found=f"Exit code {code}: {output[-300:]}")
