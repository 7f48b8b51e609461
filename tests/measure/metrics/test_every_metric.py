"""What holds for every metric, on a simulated device."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from spaceevo.errors import TargetError
from spaceevo.graph.nodes import peak_activation_bytes
from spaceevo.measure.campaign import export_program
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.target import connect, describe
from spaceevo.measure.transports import Transport, fake
from spaceevo.predict.metrics import computed_metric, metric_value
from spaceevo.spaces.subnet import network_program
from spaceevo.testing.metrics import SPACE, MetricSuite


class TestEveryMetric(MetricSuite):
    @pytest.fixture(params=METRICS.names())
    def name(self, request):
        return request.param


@pytest.fixture(autouse=True)
def new_devices() -> Iterator[None]:
    fake.reset()
    yield
    fake.reset()


@pytest.fixture
def device() -> Iterator[Transport]:
    transport = connect("onnxruntime@fake")
    yield transport
    transport.close()


def test_the_size_is_that_of_the_file(device: Transport, tmp_path: Path) -> None:
    target = describe("onnxruntime@fake")
    path = export_program(target, ("net", network_program(SPACE.smallest()), "int8"), tmp_path / "net")
    room = METRICS.load("size-mib")
    assert room.measure(device, target, path, 1.0) == path.stat().st_size / 2**20
    onnx.save_model(onnx.load(path), tmp_path / "parts.onnx", save_as_external_data=True, location="parts.bin")
    size_bytes = sum((tmp_path / name).stat().st_size for name in ("parts.onnx", "parts.bin"))
    assert room.measure(device, target, tmp_path / "parts.onnx", 1.0) == size_bytes / 2**20
    assert size_bytes == pytest.approx(path.stat().st_size, rel=0.2)


def test_activation_memory_is_computed() -> None:
    assert [name for name in METRICS.names() if METRICS.load(name).measure is None] == ["activation-memory-mib"]
    subnet = SPACE.largest()
    assert metric_value(computed_metric("activation-memory-mib"), subnet) == pytest.approx(
        peak_activation_bytes(network_program(subnet)) / 2**20
    )


class _Stuck:
    """A device whose energy counter stands still."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.load = transport.load

    def energy_uj(self) -> float:
        return 5.0


def test_a_counter_that_stands_still_is_no_energy(device: Transport, tmp_path: Path) -> None:
    target = describe("onnxruntime@fake")
    path = export_program(target, ("net", network_program(SPACE.smallest()), "int8"), tmp_path / "net")
    with pytest.raises(TargetError, match="does not advance"):
        METRICS.load("energy-mj").measure(_Stuck(device), target, path, 1.0)
