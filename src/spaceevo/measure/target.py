"""Names of targets, `runtime@transport` or `runtime@transport:device`, and what a target is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from spaceevo import plugins
from spaceevo.errors import TargetError
from spaceevo.measure.transports import Transport
from spaceevo.records import TargetDescription
from spaceevo.runtimes import RUNTIMES, profile_of

TRANSPORTS = "spaceevo.measure.transports"

#: Processor flags that decide which INT8 (and FP32) kernels a runtime takes.
INT8_FLAGS = frozenset(
    (
        *(
            "ssse3",
            "sse4_1",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avx_vnni",
            "avx_vnni_int8",
            "amx_int8",
            "amx_tile",
        ),
        *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
        *("neon", "asimd", "asimddp", "asimdhp", "i8mm", "sve", "sve2", "svei8mm"),
    )
)


@dataclass(frozen=True, slots=True)
class TargetName:
    """The parts of `runtime@transport:device`; `device` may be empty."""

    runtime: str
    transport: str
    device: str = ""

    def __str__(self) -> str:
        return f"{self.runtime}@{self.transport}" + (f":{self.device}" if self.device else "")


def parse(name: str) -> TargetName:
    """Take the name of a target apart.

    Raises:
        TargetError: Malformed.
        PluginError: There is no such runtime or transport; what exists is told.

    >>> parse("onnxruntime@local")
    TargetName(runtime='onnxruntime', transport='local', device='')
    """
    runtime, at, place = name.partition("@")
    transport, colon, device = place.partition(":")
    if not (runtime and at and transport) or (colon and not device):
        raise TargetError(
            f"{name!r} is not the name of a target",
            found=f"Runtimes: {', '.join(plugins.names(RUNTIMES))}; transports: {', '.join(plugins.names(TRANSPORTS))}",
            remedy="Write runtime@transport or runtime@transport:device, for example 'onnxruntime@local'",
        )
    plugins.load(RUNTIMES, runtime)
    plugins.load(TRANSPORTS, transport)
    return TargetName(runtime, transport, device)


def connect(name: str) -> Transport:
    """The machine behind the name of a target.

    Raises:
        TargetError: Malformed name, or the device cannot be reached.
        PluginError: There is no such runtime or transport.
    """
    parts = parse(name)
    transport: Transport = plugins.load(TRANSPORTS, parts.transport).connect(parts.device)
    return transport


def describe(name: str, threads: int = 1, cores: Sequence[int] = ()) -> TargetDescription:
    """What a target is; recorded beside every measurement.

    Args:
        name: For example "onnxruntime@local".
        threads: Threads that the runtime may use, at least 1.
        cores: Logical cores that it is pinned to, at least as many as threads; empty: any.

    Raises:
        TargetError: Malformed name, the device cannot be reached, fewer than one thread, or cores that are not there.
        PluginError: There is no such runtime or transport.
    """
    if threads < 1:
        raise TargetError("A runtime needs at least one thread", found=f"threads = {threads}")
    parts = parse(name)
    runtime = plugins.load(RUNTIMES, parts.runtime)
    device = connect(name)
    try:
        processor, version = device.processor(), device.runtime_version(parts.runtime)
    finally:
        device.close()
    _check_cores(cores, threads, processor.cores)
    flags = tuple(sorted(processor.flags & INT8_FLAGS))
    return TargetDescription(
        name=name,
        runtime=parts.runtime,
        runtime_version=version,
        device=processor.model,
        machine=processor.machine,
        flags=flags,
        threads=threads,
        w_qmax=runtime.w_qmax(profile_of(processor.machine, flags)),
        cores=tuple(cores),
    )


def _check_cores(cores: Sequence[int], threads: int, there: frozenset[int]) -> None:
    if not cores:
        return
    found = f"Cores {', '.join(map(str, cores))}; threads = {threads}; a program there may be held to "
    if not there:
        raise TargetError(
            "A target is pinned to cores, and its device holds no program to cores",
            found=f"{found}none, as on macOS, or does not tell which",
            remedy="Leave the cores out",
        )
    found += f"the cores {_ranges(there)}"
    if not there >= set(cores) or len(set(cores)) < len(cores):
        raise TargetError(
            "A target is pinned to cores that are not there, or to one twice",
            found=found,
            remedy=f"Name some of {_ranges(there)}",
        )
    if threads > len(cores):
        raise TargetError("A target has more threads than cores", found=found, remedy="Name as many cores as threads")


def _ranges(numbers: Collection[int]) -> str:
    """Numbers for people.

    >>> _ranges({0, 1, 2, 3, 5, 7, 8})
    '0 to 3, 5, 7, 8'
    """
    told: list[list[int]] = []
    for number in sorted(numbers):
        if told and number == told[-1][-1] + 1:
            told[-1].append(number)
        else:
            told.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in told)
