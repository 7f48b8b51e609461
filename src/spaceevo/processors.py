"""Kinds of processors: what INT8 needs to know of them, and what Linux tells of one."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SATURATION_FREE_CODE = 63  # 2 * 255 * 63 < 2**15


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of processor, as far as it matters for INT8.

    Attributes:
        name: Recorded in exported files.
        about: For people.
        machines: Architectures, in lower case; empty for any.
        flags: The processor has one of these; empty for any.
        pair_sums_saturate: Whether its fastest u8 x s8 instruction adds two products in saturating 16 bit: exact
            only while weight codes stay within `SATURATION_FREE_CODE`.
    """

    name: str
    about: str
    machines: frozenset[str]
    flags: frozenset[str]
    pair_sums_saturate: bool


_X86 = frozenset({"x86_64", "amd64", "x86", "i686"})
_ARM = frozenset({"aarch64", "arm64"})
#: The first that fits a processor is its profile.
PROFILES = (
    Profile("x86-vnni", "x86 with VNNI", _X86, frozenset({"avx512_vnni", "avx_vnni", "avx512vnni"}), False),
    Profile("x86-avx2", "x86 without VNNI", _X86, frozenset(), True),
    Profile("arm-dotprod", "ARM with dot products", _ARM, frozenset({"asimddp"}), False),
    Profile("arm", "ARM without dot products", _ARM, frozenset(), False),
    Profile("other", "another processor", frozenset(), frozenset(), False),
)


def profile_of(machine: str, flags: Collection[str]) -> Profile:
    """The profile of a processor.

    Args:
        machine: Architecture, for example "x86_64" or "aarch64".
        flags: What it names as its flags.

    >>> profile_of("x86_64", ["avx2"]).name, profile_of("aarch64", ["asimddp"]).name
    ('x86-avx2', 'arm-dotprod')
    """
    return next(
        profile
        for profile in PROFILES
        if (not profile.machines or machine.lower() in profile.machines)
        and (not profile.flags or not profile.flags.isdisjoint(flags))
    )


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """What Linux tells of a processor.

    Attributes:
        model: The first of its names, or its board's; "" where nothing is told.
        flags: Every flag of the first core.
        cores: Numbers of the logical cores that are on; gaps are usual. Empty where none is told.
    """

    model: str
    flags: frozenset[str]
    cores: frozenset[int]


#: Names of cores, as /proc/cpuinfo numbers implementers and parts.
_PARTS = {
    "0x41": {
        "0xc05": "Cortex-A5", "0xc07": "Cortex-A7", "0xc08": "Cortex-A8", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15",
        "0xd01": "Cortex-A32", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55",
        "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75",
        "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1",
        "0xd41": "Cortex-A78", "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710",
        "0xd48": "Cortex-X2", "0xd49": "Neoverse-N2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3",
        "0xd4f": "Neoverse-V2", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
    },
    "0x51": {
        "0x802": "Kryo-3xx-Gold", "0x803": "Kryo-3xx-Silver", "0x804": "Kryo-4xx-Gold", "0x805": "Kryo-4xx-Silver",
    },
}  # fmt: skip


def parse_cpuinfo(text: str) -> CpuInfo:
    """The processor that a text of the form of /proc/cpuinfo describes.

    >>> parse_cpuinfo("processor : 4\\nmodel name : Fast 1\\nflags : avx2\\n")
    CpuInfo(model='Fast 1', flags=frozenset({'avx2'}), cores=frozenset({4}))
    """
    fields: dict[str, str] = {}
    parts: Counter[str] = Counter()
    cores: set[int] = set()
    implementer = ""
    for line in text.splitlines():
        key, separator, value = (part.strip() for part in line.partition(":"))
        if not separator:
            continue
        fields.setdefault(key, value)  # of the first core
        if key == "processor" and value.isdecimal():
            cores.add(int(value))
        implementer = value if key == "CPU implementer" else implementer
        if key == "CPU part":
            parts[_PARTS.get(implementer.lower(), {}).get(value.lower(), f"{implementer} {value}".strip())] += 1
    flags = fields.get("flags") or fields.get("Features", "")  # x86, Arm
    names = [
        fields.get("model name") or fields.get("Hardware") or ("" if "flags" in fields else fields.get("Model", ""))
    ]
    names += [" + ".join(f"{number} x {name}" for name, number in parts.items())]
    return CpuInfo(", ".join(filter(None, names)), frozenset(flags.split()), frozenset(cores))


def this_cpuinfo() -> str:
    """The text that Linux describes this machine's processor with; "" elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def this_profile() -> Profile:
    """The profile of the processor that this process runs on; without Linux's list of flags the most careful one."""
    return profile_of(platform.machine(), parse_cpuinfo(this_cpuinfo()).flags)
