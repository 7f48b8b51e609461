"""The contract of transports, over all of them."""

from pathlib import Path
from typing import Any

import pytest
from fake_adb import Phone

from spaceevo.errors import TargetError
from spaceevo.measure.target import connect
from spaceevo.measure.transports import TRANSPORTS, Transport
from spaceevo.testing.transports import TargetSuite, TransportSuite

#: transport -> targets; {device} is the loopback's, or the phone's serial.
TARGETS = {
    "local": ("onnxruntime@local", "litert@local", "openvino@local"),
    "ssh": ("onnxruntime@ssh:{device}", "litert@ssh:{device}", "openvino@ssh:{device}"),
    "adb": ("litert@adb:{device}", "litert@adb"),
    "fake": ("onnxruntime@fake", "onnxruntime@fake:phone,seed=3"),
}
#: Of every transport all but the first; every start of a runtime takes a while.
OTHERS = [name for _, *names in TARGETS.values() for name in names]


def test_every_transport_is_here() -> None:
    assert set(TARGETS) == set(TRANSPORTS.names())


def set_up(target: str, request: pytest.FixtureRequest) -> str:
    device = ""
    if "@ssh" in target:
        device = request.getfixturevalue("loopback").device
    if "@adb" in target:
        request.getfixturevalue("phone")
        device = "R5CT10ABCDE"
    return target.format(device=device)


def told_of_operators(target: str) -> str:
    if target.startswith(("litert@local", "litert@ssh")):
        return "refused"
    return "kinds" if "@adb" in target else "named"


class TestEveryTransport(TransportSuite):
    @pytest.fixture(params=TARGETS)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def target(self, name: str, request: pytest.FixtureRequest) -> str:
        return set_up(TARGETS[name][0], request)

    @pytest.fixture
    def operators(self, target: str) -> str:
        return told_of_operators(target)

    def test_energy_where_there_is_a_counter(self, name: str, device: Transport) -> None:
        if name == "fake":
            assert device.energy_uj() >= 0
        elif not list(Path("/sys/class/powercap").glob("*/energy_uj")):
            with pytest.raises(TargetError, match="powercap"):
                device.energy_uj()


class TestOtherTargets(TargetSuite):
    @pytest.fixture(params=OTHERS)
    def target(self, request: pytest.FixtureRequest) -> str:
        return set_up(request.param, request)

    @pytest.fixture
    def operators(self, target: str) -> str:
        return told_of_operators(target)


@pytest.mark.parametrize("target", TARGETS["adb"])
def test_a_phone_tells_kinds_of_kernels(target: str, phone: Phone, models: Any) -> None:
    device = connect(target.format(device="R5CT10ABCDE"))
    times = device.profile("litert", models("litert"), 1, 3)
    assert times.keys() == {"~Convolution (NHWC, QC8) IGEMM", "~Convolution (NHWC, QC8) GEMM"}
