"""What a Linux device tells of itself in /proc and /sys, wherever the texts were read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from spaceevo.errors import TargetError
from spaceevo.measure.transports import DeviceState, Processor
from spaceevo.processors import parse_cpuinfo

CPUINFO = "/proc/cpuinfo"
STATUS = "/proc/self/status"  # of the program that reads it
PROCESSOR = (CPUINFO, "/proc/device-tree/model")
_LOAD = "/proc/loadavg"
STATE = (
    _LOAD,
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone[0-9]*/temp",
    CPUINFO,
)
_POWER = "/sys/class/powercap"
ENERGY = tuple(f"{_POWER}/*/{name}" for name in ("name", "energy_uj", "max_energy_range_uj"))
_COLDEST, _HOTTEST = -50, 150  # what a thermal zone can tell; others tell that they are off


@dataclass(frozen=True, slots=True)
class Texts:
    """Files of a device.

    Attributes:
        texts: Stripped, by path.
        unreadable: Why others cannot be read, by path.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


Read = Callable[[Sequence[str]], Texts]  # the files that fit patterns


def processor(
    files: Texts, machine: str, board: str = "", *, cores: Collection[int] | None = None, num_cores: int = 1
) -> Processor:
    """The processor.

    Args:
        files: Those of `PROCESSOR`.
        machine: Architecture.
        board: Name of the whole device, where it is known otherwise.
        cores: That a program may be held to, as the system there says; without it, the files tell.
        num_cores: Where no file tells them.
    """
    told = parse_cpuinfo(files.texts.get(CPUINFO, ""))
    board = board or files.texts.get("/proc/device-tree/model", "")
    names = [name for name in (board if board not in told.model else "", told.model) if name]
    if cores is None:
        allowed = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)$", files.texts.get(STATUS, ""), flags=re.MULTILINE)
        cores = told.cores & _listed(allowed[1]) if allowed else told.cores
    model = ", ".join(names) or machine or "unknown"
    return Processor(model, machine, told.flags, len(told.cores) or num_cores, frozenset(cores))


def state(files: Texts, cores: Sequence[int] = ()) -> DeviceState:
    """The state that the files of `STATE` tell; the frequency of `cores`, or of all."""
    load = _number(files.texts.get(_LOAD, "").split(" ")[0])
    frequencies = {
        int(match[1]): khz / 1e3
        for path, text in files.texts.items()
        if (match := re.search(r"/cpu(\d+)/cpufreq/", path)) and (khz := _number(text))
    } or _cpuinfo_mhz(files.texts.get(CPUINFO, ""))
    wanted = [mhz for core, mhz in frequencies.items() if not cores or core in cores]
    temperatures = [
        celsius
        for path, text in files.texts.items()
        if "/thermal_zone" in path and (celsius := _celsius(text)) is not None
    ]
    return DeviceState(load, sum(wanted) / len(wanted) if wanted else None, max(temperatures, default=None))


class EnergyCounter:
    """The processor packages' counters, added up; they start again at 0 when they are full."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._full = 0.0

    def read_uj(self, files: Texts, where: str) -> float:
        """Microjoules; differences count.

        Args:
            files: Those of `ENERGY`.
            where: The device, for people.

        Raises:
            TargetError: There is no counter, or it may not be read.
        """
        zones = {
            path.removesuffix("/name"): text
            for path, text in files.texts.items()
            if path.endswith("/name") and text.startswith("package")
        }
        readings = {zone: _number(files.texts.get(f"{zone}/energy_uj", "")) for zone in zones}
        if not zones or None in readings.values():
            reasons = [f"{path}: {why}" for path, why in files.unreadable.items() if path.endswith("energy_uj")]
            raise TargetError(
                f"Energy is not available on {where}",
                found="; ".join(reasons[:3]) or f"No counter of a processor package at {_POWER}/*/energy_uj",
                remedy=f"Let its user read {_POWER}/*/energy_uj" if reasons else "Leave energy out for this target",
            )
        for zone, reading in readings.items():
            assert reading is not None
            if reading < self._last.get(zone, 0.0):
                self._full += _number(files.texts.get(f"{zone}/max_energy_range_uj", "")) or 0.0
            self._last[zone] = reading
        return sum(self._last.values()) + self._full


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _celsius(text: str) -> float | None:
    """A zone's temperature: thousandths of a degree, or, on some devices, degrees."""
    value = _number(text)
    if value is None or value == 0:
        return None
    celsius = value / 1e3 if abs(value) > _HOTTEST else value
    return celsius if _COLDEST < celsius < _HOTTEST else None


def _cpuinfo_mhz(text: str) -> dict[int, float]:
    found = re.findall(r"^processor\s*:\s*(\d+)$|^cpu MHz\s*:\s*([\d.]+)", text, flags=re.MULTILINE)
    frequencies, core = {}, 0
    for number, mhz in found:
        core = int(number) if number else core
        if mhz and float(mhz) > 0:
            frequencies[core] = float(mhz)
    return frequencies


def _listed(text: str) -> set[int]:
    """Numbers in Linux's form.

    >>> sorted(_listed("0-2,7"))
    [0, 1, 2, 7]
    """
    ends = [word.split("-") for word in text.split(",")]
    return {number for first, *last in ends for number in range(int(first), int(*last or (first,)) + 1)}
