"""The contract of transports, over all of them."""

import math
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from spaceevo.errors import ArtifactError, PluginError, SpaceEvoError, TargetError
from spaceevo.measure import target
from spaceevo.measure.transports import TRANSPORTS, Processor, Transport
from spaceevo.runtimes import RUNTIMES

#: transport -> targets; {device} is the loopback's, or the phone's serial.
TARGETS = {
    "local": ("onnxruntime@local", "litert@local", "openvino@local"),
    "ssh": ("onnxruntime@ssh:{device}", "litert@ssh:{device}", "openvino@ssh:{device}"),
    "adb": ("litert@adb:{device}", "litert@adb"),
    "fake": ("onnxruntime@fake", "onnxruntime@fake:phone,seed=3"),
}
NAMES = [name for names in TARGETS.values() for name in names]
#: Of every transport the first; every start of a runtime takes a while.
FIRST = [names[0] for names in TARGETS.values()]


def test_every_transport_is_here() -> None:
    assert set(TARGETS) == set(TRANSPORTS.names())


def named(name: str, request: pytest.FixtureRequest) -> str:
    device = ""
    if "@ssh" in name:
        device = request.getfixturevalue("loopback").device
    if "@adb" in name:
        request.getfixturevalue("phone")
        device = "R5CT10ABCDE"
    return name.format(device=device)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return named(request.param, request)


@pytest.fixture
def device(name: str) -> Iterator[Transport]:
    connected = target.connect(name)
    yield connected
    connected.close()


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_models_are_timed_side_by_side(name: str, device: Transport, models: Any) -> None:
    runtime = target.parse(name).runtime
    small, large = (device.load(runtime, models(runtime, width), threads=1) for width in (8, 512))
    for repeats in (1, 2, 3, 7):
        for model in (small, large):
            samples = model.time(repeats)
            assert len(samples) == repeats
            assert all(isinstance(sample, float) and 0 < sample < 1e4 for sample in samples)
    assert min(large.time(20)) > min(small.time(20))
    small.close()
    assert len(large.time(2)) == 2
    large.close()
    large.close()


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_description(name: str) -> None:
    described = target.describe(name, cores=(0,))
    assert described.name == name
    assert described.device
    assert described.machine
    assert described.runtime_version
    assert described.w_qmax in (63, 127)
    assert described.cores == (0,)


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_processor_and_state(device: Transport) -> None:
    processor = device.processor()
    assert isinstance(processor, Processor)
    assert processor.num_cores >= 1
    assert device.processor() == processor
    for state in (device.state(), device.state((0,))):
        assert all(value is None or (isinstance(value, float) and math.isfinite(value)) for value in astuple(state))
        assert state.load is None or state.load >= 0
        assert state.frequency_mhz is None or state.frequency_mhz > 1


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_a_pinned_model_is_timed(name: str, device: Transport, models: Any) -> None:
    runtime = target.parse(name).runtime
    assert len(device.load(runtime, models(runtime), 1, (0,)).time(2)) == 2


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_a_core_that_is_not_there(name: str, device: Transport, models: Any) -> None:
    runtime = target.parse(name).runtime
    with pytest.raises(TargetError, match="core"):
        device.load(runtime, models(runtime), 1, (900,)).time(1)
    assert device.load(runtime, models(runtime), 1).time(1)
    with pytest.raises(TargetError, match="cores"):
        target.describe(name, cores=(900,))


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_a_file_that_is_no_model(name: str, device: Transport, models: Any, tmp_path: Path) -> None:
    runtime = target.parse(name).runtime
    bad = tmp_path / f"bad{RUNTIMES.load(runtime).SUFFIX}"
    for content in (b"", b"no model at all", models(runtime).read_bytes()[:100]):
        bad.write_bytes(content)
        with pytest.raises(ArtifactError):
            device.load(runtime, bad, 1).time(1)
    with pytest.raises(ArtifactError):
        device.load(runtime, tmp_path / "missing", 1)
    assert device.load(runtime, models(runtime), 1).time(1)


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_an_unknown_runtime(device: Transport, models: Any) -> None:
    with pytest.raises(PluginError, match="onnxrunntime"):
        device.runtime_version("onnxrunntime")
    with pytest.raises(PluginError, match="onnxrunntime"):
        device.load("onnxrunntime", models("onnxruntime"), 1)


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_memory_and_energy_are_told_or_refused(name: str, device: Transport, models: Any) -> None:
    runtime = target.parse(name).runtime
    assert 1 < device.peak_memory_mib(runtime, models(runtime), 1) < 1e4
    if "fake" in name:
        assert device.energy_uj() <= device.energy_uj()
        return
    if not list(Path("/sys/class/powercap").glob("*/energy_uj")):
        with pytest.raises(TargetError, match="powercap"):
            device.energy_uj()


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_operators_are_timed_or_refused(name: str, device: Transport, models: Any) -> None:
    runtime = target.parse(name).runtime
    if name.startswith(("litert@local", "litert@ssh")):
        with pytest.raises(TargetError, match="profile"):
            device.profile(runtime, models(runtime), 1, 3)
        return
    times = device.profile(runtime, models(runtime), 1, 3)
    assert all(isinstance(ms, float) and 0 <= ms < 1e4 for ms in times.values())
    assert sum(times.values()) > 0
    if "@adb" in name:  # tells kinds of kernels only
        assert times.keys() == {"~Convolution (NHWC, QC8) IGEMM", "~Convolution (NHWC, QC8) GEMM"}
        return
    assert {"a", "b", "classes"} <= times.keys()
    assert {one for one in times if not one.startswith("~")} <= {"input", "a", "b", "pool", "classes"}


@pytest.mark.parametrize("name", FIRST, indirect=True)
def test_a_closed_model_or_connection_is_told(name: str, models: Any) -> None:
    runtime = target.parse(name).runtime
    device = target.connect(name)
    model = device.load(runtime, models(runtime), 1)
    model.close()
    with pytest.raises(TargetError, match="closed"):
        model.time(1)
    device.load(runtime, models(runtime), 1)
    device.close()
    device.close()


@pytest.mark.parametrize("transport", TARGETS)
@pytest.mark.parametrize("device", ["-oProxyCommand=touch /tmp/x", "a b", "\n"])
def test_a_name_that_is_no_device_of_it(transport: str, device: str) -> None:
    with pytest.raises(SpaceEvoError):
        TRANSPORTS.load(transport).connect(device)
