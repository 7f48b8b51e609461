"""This machine, in this process."""

from __future__ import annotations

import platform
from pathlib import Path

from spaceevo import plugins
from spaceevo.errors import TargetError
from spaceevo.measure.transports import LoadedModel, Processor, Transport

RUNTIMES = "spaceevo.runtimes"
_CPUINFO = Path("/proc/cpuinfo")


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
    def processor(self) -> Processor:
        try:
            text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        except OSError:  # not Linux
            text = ""
        return parse_cpuinfo(text)

    def load(self, runtime: str, path: Path, threads: int) -> LoadedModel:
        model: LoadedModel = plugins.load(RUNTIMES, runtime).Session(path, threads=threads)
        return model


def parse_cpuinfo(text: str) -> Processor:
    """The processor that a text of the form of /proc/cpuinfo describes; `platform` fills the gaps.

    >>> sorted(parse_cpuinfo("model name : Fast 1\\nflags : avx2 fma\\n").flags)
    ['avx2', 'fma']
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip().lower(), value.strip())  # of the first core
    flags = fields.get("flags") or fields.get("features", "")  # x86, Arm
    model = fields.get("model name") or fields.get("hardware") or platform.processor() or platform.machine()
    return Processor(model or "unknown", platform.machine(), frozenset(flags.split()))
