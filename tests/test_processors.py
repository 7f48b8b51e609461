"""Which profile a processor has, and what Linux tells of one."""

import pytest

from spaceevo import processors
from spaceevo.processors import PROFILES, CpuInfo, parse_cpuinfo, profile_of, this_profile


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", (), "x86-avx2"),
        ("AMD64", ("avx2", "avx512f"), "x86-avx2"),
        ("x86_64", ("avx2", "avx_vnni"), "x86-vnni"),
        ("x86_64", ("avx512_vnni",), "x86-vnni"),
        ("aarch64", ("asimd",), "arm"),
        ("arm64", ("asimd", "asimddp"), "arm-dotprod"),
        ("riscv64", ("avx512_vnni",), "other"),
    ],
)
def test_profile(machine, flags, expected):
    assert profile_of(machine, flags).name == expected


def test_names_are_unique():
    assert len({profile.name for profile in PROFILES}) == len(PROFILES)


def test_the_largest_code_that_does_not_saturate():
    assert 2 * 255 * 63 < 2**15 <= 2 * 255 * 65


ARM = """processor\t: 0
BogoMIPS\t: 38.40
Features\t: fp asimd aes asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 1
Features\t: fp
CPU implementer\t: 0x41
CPU part\t: 0xd0c

processor\t: 2
CPU implementer\t: 0x7f
CPU part\t: 0x001

Hardware\t: Some Board
"""


def test_processors_as_linux_describes_them():
    arm = parse_cpuinfo(ARM)
    assert arm.flags == {"fp", "asimd", "aes", "asimddp", "i8mm"}
    assert arm.model == "Some Board, 1 x Cortex-A55 + 1 x Neoverse-N1 + 1 x 0x7f 0x001"
    assert arm.cores == {0, 1, 2}
    x86 = parse_cpuinfo(
        "processor : 0\nmodel : 2\nmodel name : Fast 1\nflags : avx2 fma\n\nprocessor : 1\nmodel name : Other\n"
    )
    assert (x86.model, x86.flags, x86.cores) == ("Fast 1", {"avx2", "fma"}, {0, 1})
    assert parse_cpuinfo("processor : 0\nmodel : 2\nflags : avx2\n").model == ""
    assert parse_cpuinfo("") == CpuInfo("", frozenset(), frozenset())


def test_profile_of_this_machine_follows_from_that_text(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(processors, "this_cpuinfo", lambda: ARM)
    this_profile.cache_clear()
    assert this_profile().name == "arm-dotprod"
    monkeypatch.setattr(processors, "this_cpuinfo", lambda: "")
    this_profile.cache_clear()
    assert this_profile().name == "arm"
    this_profile.cache_clear()
