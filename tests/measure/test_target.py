"""Names and descriptions of targets."""

import pytest

from spaceevo.errors import PluginError, TargetError
from spaceevo.measure import target
from spaceevo.measure.transports import local

ARM = """processor\t: 0
BogoMIPS\t: 38.40
Features\t: fp asimd aes asimddp i8mm
CPU part\t: 0xd0c

processor\t: 1
Features\t: fp
Hardware\t: Some Board
"""


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


def test_flags_decide_the_weight_range(monkeypatch: pytest.MonkeyPatch) -> None:
    def w_qmax(flags: str) -> int:
        processor = local.parse_cpuinfo(f"model name\t: Some CPU\nflags\t\t: fpu avx2 fma {flags}\n")
        monkeypatch.setattr(local._Local, "processor", lambda self: processor)
        described = target.describe("onnxruntime@local")
        assert "fpu" not in described.flags
        assert "avx2" in described.flags
        return described.w_qmax

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert w_qmax("") == 63
    assert w_qmax("avx_vnni") == 127


def test_arm_and_unreadable_cpuinfo() -> None:
    arm = local.parse_cpuinfo(ARM)
    assert {"asimddp", "i8mm"} <= arm.flags
    assert arm.model == "Some Board"
    empty = local.parse_cpuinfo("")
    assert empty.model
    assert empty.flags == frozenset()
