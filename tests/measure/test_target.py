"""Names and descriptions of targets."""

import os

import pytest

from spaceevo.errors import PluginError, TargetError
from spaceevo.measure import target
from spaceevo.measure.transports import Processor, local
from spaceevo.processors import parse_cpuinfo


@pytest.mark.parametrize("name", ["onnxruntime@local", "onnxruntime@local:serial-1"])
def test_a_name_survives_parsing(name: str) -> None:
    assert str(target.parse(name)) == name


@pytest.mark.parametrize("name", ["", "onnxruntime", "@local", "onnxruntime@", "onnxruntime@local:"])
def test_a_malformed_name_is_told_with_what_exists(name: str) -> None:
    with pytest.raises(TargetError, match=r"onnxruntime.*local"):
        target.parse(name)


def test_unknown_runtime_and_transport_list_what_exists() -> None:
    with pytest.raises(PluginError, match="onnxruntime"):
        target.parse("onnxrunttime@local")
    with pytest.raises(PluginError, match="local"):
        target.parse("onnxruntime@locale")


def test_local_takes_no_device() -> None:
    with pytest.raises(TargetError, match="serial-1"):
        target.connect("onnxruntime@local:serial-1")


def test_description_of_this_machine() -> None:
    described = target.describe("onnxruntime@local", threads=2)
    assert described.runtime == "onnxruntime"
    assert described.runtime_version.count(".") >= 1
    assert described.threads == 2
    assert described.device
    assert described.w_qmax in (63, 127)
    assert list(described.flags) == sorted(described.flags)
    assert set(described.flags) <= target.INT8_FLAGS


def test_no_threads() -> None:
    with pytest.raises(TargetError, match="0"):
        target.describe("onnxruntime@local", threads=0)


@pytest.mark.parametrize(("cores", "threads"), [((0, 0), 1), ((-1,), 1), ((10_000,), 1), ((0,), 2)])
def test_cores_that_cannot_be(cores: tuple[int, ...], threads: int) -> None:
    with pytest.raises(TargetError, match=r"cores.*threads"):
        target.describe("onnxruntime@local", threads, cores)


@pytest.mark.parametrize(
    ("there", "ranges"), [({4, 5, 6, 7}, "4 to 7"), ({0, 1, 2, 3, 7}, "0 to 3, 7"), ({0, 2, 4, 6}, "0, 2, 4, 6")]
)
def test_cores_are_a_set_of_numbers(there: set[int], ranges: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: there)
    for core in range(9):
        if core in there:
            assert target.describe("onnxruntime@local", 1, (core,)).cores == (core,)
            continue
        with pytest.raises(TargetError, match=f"not there.*Cores {core};.* to the cores {ranges}\\.") as told:
            target.describe("onnxruntime@local", 1, (core,))
        assert told.value.remedy == f"Name some of {ranges}"


def test_a_system_that_holds_nothing_to_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name)
    assert target.describe("onnxruntime@local").cores == ()
    with pytest.raises(TargetError, match=r"holds no program to cores.*Leave the cores out"):
        target.describe("onnxruntime@local", 1, (0,))


def test_version_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local._Local, "runtime_version", lambda self, runtime: f"{runtime} of long ago")
    assert target.describe("onnxruntime@local").runtime_version == "onnxruntime of long ago"


def test_flags_decide_the_weight_range(monkeypatch: pytest.MonkeyPatch) -> None:
    def w_qmax(flags: str) -> int:
        told = parse_cpuinfo(f"model name\t: Some CPU\nflags\t\t: fpu avx2 fma {flags}\n")
        processor = Processor(told.model, "x86_64", told.flags)
        monkeypatch.setattr(local._Local, "processor", lambda self: processor)
        described = target.describe("onnxruntime@local")
        assert "fpu" not in described.flags
        assert "avx2" in described.flags
        return described.w_qmax

    assert w_qmax("") == 63
    assert w_qmax("avx_vnni") == 127
