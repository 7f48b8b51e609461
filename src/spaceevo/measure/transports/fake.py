"""A simulated device, to try the tool without one and to test what measures: `runtime@fake:PRESET,key=value,...`.

Its clock is simulated too, so nothing waits. What a model costs follows from the operators and shapes of its file
(`true_ms`); to that come cold starts, noise, busy spells, heat, and faults where they are asked for. Presets and keys
are all optional; "onnxruntime@fake" is a quiet device, "onnxruntime@fake:shared,seed=3" one with busy neighbours.

A simulated device lives as long as the process: a second connection to the same name finds it as the first one left
it. In another process it starts anew, and the same requests get the same answers.

More than 400 lines: one device, with its faults.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo import seeding
from spaceevo.errors import TargetError, nearest
from spaceevo.measure.transports import DeviceState, LoadedModel, Processor, Transport
from spaceevo.measure.transports._simulated_costs import MIB, Kernel, kernels
from spaceevo.runtimes import RUNTIMES
from spaceevo.runtimes._models import Model

#: Of the processor, by architecture.
FLAGS = {"aarch64": frozenset({"asimd", "asimddp", "fp"}), "x86_64": frozenset({"avx", "avx2", "fma"})}

_REQUEST_MS = 0.1  # on the way to the device
_TIMEOUT_MS = 30_000.0
_COLD_INFERENCES = 5.0
_DRIFT_MS = 5000.0
_MEGAHERTZ = 2000.0
_COOL_C, _HOT_C, _LIMIT_C, _FULL_C = 35.0, 85.0, 60.0, 72.0
_BUSY_UJ, _IDLE_UJ = 3000.0, 300.0  # per ms
_PROCESS_MIB = 20.0
_LOAD_MS = 60_000.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a simulated device is like. Times are in simulated ms; 0 switches a fault off.

    Attributes:
        seed: Of all that is random.
        speed: Of its processor; 2 halves every latency.
        cores: Logical cores.
        machine: Architecture of its processor: aarch64 with dot products, or x86_64 without VNNI.
        noise: What an inference typically takes too long, as a share (lognormal: sometimes it is much more).
        drift: By what the whole device gets faster and slower within seconds, as a share (standard deviation).
        cold: How much longer the first inference of a loaded model takes, as a share; the next ones less and less.
        busy_ms: Mean length of the spells in which other programs slow everything down.
        busy_every_ms: Mean time between two such spells.
        busy_slowdown: How many times slower everything is then.
        throttle_after_ms: Of work, until the processor is so hot that it slows down.
        throttled_speed: Share of its speed that it then falls to.
        space_mib: For model files.
        version: What every runtime there says that its version is.
        missing: A runtime that is not installed there.
        unplug_after: Requests, then the device is gone.
        replug_after: Requests that fail until it is back; 0 for never.
        timeout_at: Number of the request that gets no answer in time.
        garbage_at: Number of the timing whose answer is no latency.
    """

    seed: int = 0
    speed: float = 1.0
    cores: int = 4
    machine: str = "aarch64"
    noise: float = 0.01
    drift: float = 0.01
    cold: float = 0.5
    busy_ms: float = 0.0
    busy_every_ms: float = 300.0
    busy_slowdown: float = 1.6
    throttle_after_ms: float = 0.0
    throttled_speed: float = 0.6
    space_mib: float = 4096.0
    version: str = "1"
    missing: str = ""
    unplug_after: int = 0
    replug_after: int = 0
    timeout_at: int = 0
    garbage_at: int = 0


PRESETS: dict[str, dict[str, Any]] = {
    "quiet": {},
    "exact": {"noise": 0.0, "drift": 0.0, "cold": 0.0},
    "shared": {"noise": 0.02, "drift": 0.02, "busy_ms": 200.0},
    "phone": {"speed": 0.3, "cores": 8, "noise": 0.03, "throttle_after_ms": 20_000.0},
}


def parse_settings(device: str) -> Settings:
    """The settings that the name of a simulated device stands for.

    Raises:
        TargetError: An unknown preset or key, or a value out of range.

    >>> parse_settings("phone,seed=3").seed
    3
    """
    values: dict[str, Any] = {}
    keys = {key: type(value) for key, value in dataclasses.asdict(Settings()).items()}
    for word in filter(None, device.split(",")):
        key, equals, text = word.partition("=")
        if not equals and word in PRESETS:
            values |= PRESETS[word]
            continue
        if not equals or key not in keys:
            close = nearest(key, (*keys, *PRESETS))
            raise TargetError(
                f"A simulated device has no {'key' if equals else 'preset'} {key!r}",
                found=f"Presets: {', '.join(PRESETS)}; keys: {', '.join(keys)}",
                remedy=f"Did you mean {close!r}?" if close else "Write runtime@fake:PRESET,key=value",
            )
        try:
            values[key] = keys[key](text)
        except ValueError as error:
            raise TargetError(f"{word!r} is no setting of a simulated device", found=str(error)) from error
        if keys[key] is not str and not (0 <= values[key] < math.inf):
            raise TargetError(f"{word!r} is no setting of a simulated device", found="It must not be negative")
    settings = Settings(**values)
    if settings.machine not in FLAGS:
        raise TargetError(
            f"'machine={settings.machine}' is no setting of a simulated device",
            found=f"There are {' and '.join(FLAGS)}",
        )
    for key in ("speed", "cores", "busy_every_ms", "busy_slowdown", "throttled_speed", "space_mib"):
        if getattr(settings, key) == 0:
            raise TargetError(f"'{key}=0' is no setting of a simulated device", found="It must be more than 0")
    return settings


def true_ms(path: Path, device: str = "", threads: int = 1, cores: tuple[int, ...] = ()) -> float:
    """What one inference takes on a simulated device that is quiet, cool and warmed up: the truth to measure.

    Args:
        path: A model file.
        device: What follows "fake:" in the target's name.
        threads: That the runtime may use.
        cores: Cores that it is pinned to; empty for any.

    Raises:
        ArtifactError: The file is no model.
        TargetError: The name is malformed.
    """
    return _true_ms(kernels(path), parse_settings(device), threads, cores)


def connect(device: str) -> Transport:
    """The simulated device of a name.

    Raises:
        TargetError: The name is malformed, or the device is unplugged.
    """
    if device not in _devices:
        _devices[device] = Device(device)
    return _devices[device].connect()


def reset() -> None:
    """Forget all simulated devices of this process: the next connection finds a new one."""
    _devices.clear()


class Device:
    """A simulated device, with the time and the heat of its own.

    Args:
        name: Preset and settings, as after "fake:".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = parse_settings(name)
        self.now_ms = 0.0
        self.num_requests = 0
        self.num_timings = 0
        self.loaded_mib: dict[LoadedModel, float] = {}
        self._heat = 0.0  # 0 to 1
        self._energy_uj = 0.0
        self._noise = seeding.numpy_random(self.settings.seed, "fake device", "noise")
        self._drifting = seeding.numpy_random(self.settings.seed, "fake device", "drift")
        self._level = float(self._drifting.normal())
        self._spells = _spells(self.settings)
        self._busy: list[tuple[float, float]] = []  # spells up to now and one beyond

    def connect(self) -> Transport:
        """A connection.

        Raises:
            TargetError: The device is unplugged.
        """
        self.request()
        return _Connection(self)

    def request(self) -> None:
        """Every request to the device passes here, and meets the faults.

        Raises:
            TargetError: The device is unplugged or does not answer.
        """
        own = self.settings
        self.num_requests += 1
        self._advance(_REQUEST_MS, busy=False)
        beyond = self.num_requests - own.unplug_after
        if own.unplug_after and beyond > 0 and not (own.replug_after and beyond > own.replug_after):
            self.loaded_mib.clear()
            raise TargetError(
                f"The simulated device {self.name!r} is gone",
                found=f"It was unplugged after {own.unplug_after} requests",
                remedy="Plug it in again",
            )
        if own.timeout_at == self.num_requests:
            self._advance(_TIMEOUT_MS, busy=False)
            raise TargetError(
                f"The simulated device {self.name!r} did not answer in time",
                found=f"No answer to request {self.num_requests} in {_TIMEOUT_MS / 1000:.0f} s",
                remedy="Look whether it hangs",
            )

    def run(self, ms: float) -> float:
        """Let it compute what takes `ms` when nothing disturbs; what it took."""
        excess = self.settings.noise * float(self._noise.lognormal()) if self.settings.noise else 0.0
        level = math.exp(self.settings.drift * self._level)
        took_ms = ms * (1 + excess) * level * self._slowdown() / self.share_of_speed
        self._advance(took_ms, busy=True)
        return took_ms

    def state(self) -> DeviceState:
        """Load, frequency and temperature now."""
        self._slowdown()  # draws the spells up to now
        since_ms = max(0.0, self.now_ms - _LOAD_MS)
        busy_ms = sum(max(0.0, min(end, self.now_ms) - max(start, since_ms)) for start, end in self._busy)
        load = busy_ms / (self.now_ms - since_ms) if self.now_ms else 0.0
        return DeviceState(load, _MEGAHERTZ * self.settings.speed * self.share_of_speed, self._temperature_c)

    @property
    def energy_uj(self) -> float:
        """Energy used so far."""
        return self._energy_uj

    @property
    def share_of_speed(self) -> float:
        """1 while it is cool."""
        excess = (self._temperature_c - _LIMIT_C) / (_FULL_C - _LIMIT_C)
        return 1 - (1 - self.settings.throttled_speed) * min(1.0, max(0.0, excess))

    @property
    def _temperature_c(self) -> float:
        return _COOL_C + (_HOT_C - _COOL_C) * self._heat

    def _advance(self, ms: float, *, busy: bool) -> None:
        self.now_ms += ms
        self._energy_uj += ms * (_BUSY_UJ if busy else _IDLE_UJ)
        stays = math.exp(-ms / _DRIFT_MS)
        self._level = self._level * stays + math.sqrt(1 - stays**2) * float(self._drifting.normal())
        if self.settings.throttle_after_ms:
            limit = (_LIMIT_C - _COOL_C) / (_HOT_C - _COOL_C)
            constant_ms = self.settings.throttle_after_ms / -math.log1p(-limit)
            end = 1.0 if busy else 0.0
            self._heat = end + (self._heat - end) * math.exp(-ms / constant_ms)

    def _slowdown(self) -> float:
        """1, or more while other programs are busy."""
        while not self._busy or self._busy[-1][0] <= self.now_ms:
            self._busy.append(next(self._spells))
        position = bisect_right(self._busy, (self.now_ms, math.inf)) - 1
        return self.settings.busy_slowdown if position >= 0 and self.now_ms < self._busy[position][1] else 1.0


_devices: dict[str, Device] = {}


class _Connection:
    def __init__(self, device: Device) -> None:
        self._device = device
        self._models: list[_Model] = []

    def processor(self) -> Processor:
        self._device.request()
        settings = self._device.settings
        machine, count = settings.machine, settings.cores
        return Processor("Simulated processor", machine, FLAGS[machine], count, frozenset(range(count)))

    def runtime_version(self, runtime: str) -> str:
        self._device.request()
        self._check_runtime(runtime)
        return self._device.settings.version

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        self._device.request()
        self._check_cores(cores)
        return self._device.state()

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> LoadedModel:
        self._device.request()
        self._check_runtime(runtime)
        self._check_cores(cores)
        size_mib = self._opened(runtime, path).size_bytes / MIB
        ms = _true_ms(kernels(path), self._device.settings, threads, cores)
        free_mib = self._device.settings.space_mib - sum(self._device.loaded_mib.values())
        if size_mib > free_mib:
            raise TargetError(
                f"The simulated device {self._device.name!r} has no space for {path.name}",
                found=f"It needs {size_mib:.2f} MiB, and {free_mib:.2f} MiB are free",
                remedy="Free space there",
            )
        model = _Model(self._device, ms)
        self._device.loaded_mib[model] = size_mib
        self._models.append(model)
        return model

    def peak_memory_mib(self, runtime: str, path: Path, threads: int) -> float:
        self._device.request()
        self._check_runtime(runtime)
        size_bytes = self._opened(runtime, path).size_bytes
        largest = max((kernel.num_bytes for kernel in kernels(path)), default=0)
        return _PROCESS_MIB + (2 * size_bytes + largest) / MIB

    def profile(self, runtime: str, path: Path, threads: int, repeats: int) -> dict[str, float]:
        self._device.request()
        self._check_runtime(runtime)
        self._opened(runtime, path)
        times: dict[str, float] = {}
        for kernel in kernels(path):
            ms = _true_ms((kernel,), self._device.settings, threads, ())
            took_ms = sum(self._device.run(ms) for _ in range(repeats)) / repeats
            times[kernel.name] = times.get(kernel.name, 0.0) + took_ms
        return times

    def energy_uj(self) -> float:
        self._device.request()
        return self._device.energy_uj

    def close(self) -> None:
        for model in self._models:
            model.close()

    def _check_runtime(self, runtime: str) -> None:
        RUNTIMES.load(runtime)
        if runtime == self._device.settings.missing:
            raise TargetError(
                f"{runtime} is not installed on the simulated device {self._device.name!r}", remedy="Install it there"
            )

    @staticmethod
    def _opened(runtime: str, path: Path) -> Model:
        """A model that is refused here if it is elsewhere."""
        opened = RUNTIMES.load(runtime).open_model(path)
        return opened

    def _check_cores(self, cores: tuple[int, ...]) -> None:
        wrong = [core for core in cores if not 0 <= core < self._device.settings.cores]
        if wrong:
            raise TargetError(
                f"The simulated device {self._device.name!r} has no core {wrong[0]}",
                found=f"It has {self._device.settings.cores}, from 0",
            )


class _Model:
    def __init__(self, device: Device, ms: float) -> None:
        self._device = device
        self._ms = ms
        self._num_inferences = 0

    def time(self, repeats: int) -> list[float]:
        device = self._device
        device.request()
        if self not in device.loaded_mib:
            raise TargetError(
                f"A model is no longer loaded on the simulated device {device.name!r}",
                found="It was closed, or the device was unplugged meanwhile",
            )
        device.num_timings += 1
        samples = []
        for _ in range(repeats):
            cold = device.settings.cold * math.exp(-self._num_inferences / _COLD_INFERENCES)
            samples.append(device.run(self._ms * (1 + cold)))
            self._num_inferences += 1
        if device.num_timings == device.settings.garbage_at:
            return [math.nan, -1.0, 0.0]  # what a careless transport would hand on
        return samples

    def close(self) -> None:
        self._device.loaded_mib.pop(self, None)


def _true_ms(found: tuple[Kernel, ...], settings: Settings, threads: int, cores: tuple[int, ...]) -> float:
    used = min(threads, len(cores) or settings.cores)
    return sum(kernel.ms for kernel in found) * (0.2 + 0.8 / used) / settings.speed


def _spells(settings: Settings) -> Iterator[tuple[float, float]]:
    """Start and end of the spells in which other programs are busy."""
    rng = seeding.numpy_random(settings.seed, "fake device", "spells")
    end = 0.0
    while settings.busy_ms:
        start = end + float(rng.exponential(settings.busy_every_ms))
        end = start + float(rng.exponential(settings.busy_ms))
        yield start, end
    yield math.inf, math.inf
