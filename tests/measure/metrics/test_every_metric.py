"""What holds for every metric, on a simulated device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import patch

import onnx
import pytest

from spaceevo.errors import TargetError
from spaceevo.graph.nodes import peak_activation_bytes
from spaceevo.measure.campaign import export_program, measure_metric, measure_metric_of_file
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.store import Store
from spaceevo.measure.target import connect, describe
from spaceevo.measure.transports import Transport, fake
from spaceevo.predict.metrics import computed_metric, fit_metric, metric_value
from spaceevo.spaces.named import named_space
from spaceevo.spaces.subnet import Subnet, network_program

SPACE = named_space("micro-014-120", 10)
NAMES = METRICS.names()
DEVICE_NAMES = [name for name in NAMES if METRICS.load(name).measure]
UNITS = ("-mib", "-mj")


def program(subnet: Subnet) -> tuple:
    return network_program(subnet)


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


@pytest.mark.parametrize("name", NAMES)
def test_a_name_ends_in_its_unit_and_tells_what_it_is(name: str) -> None:
    room = METRICS.load(name)
    assert name.endswith(UNITS)
    assert room.ABOUT.endswith(".")
    assert (room.measure is None) == (name == "activation-memory-mib")


@pytest.mark.parametrize("name", NAMES)
def test_features_are_sums_of_work(name: str) -> None:
    room = METRICS.load(name)
    rng = Random(0)
    for subnet in (SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(5))):
        features = room.features(subnet)
        assert all(value >= 0 for value in features)
        assert sum(features) > 0
    smallest, largest = sum(room.features(SPACE.smallest())), sum(room.features(SPACE.largest()))
    assert smallest < largest


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_larger_networks_cost_more(name: str, device: Transport, tmp_path: Path) -> None:
    room, target, values = METRICS.load(name), describe("onnxruntime@fake"), []
    for number, subnet in enumerate((SPACE.smallest(), SPACE.largest())):
        path = export_program(target, ("net", program(subnet), "int8"), tmp_path / str(number))
        values.append(room.measure(device, target, path, 1.0))
    assert 0 < values[0] < values[1]


@contextmanager
def unmeasurable(name: str) -> Iterator[None]:
    """As if the device could not tell the metric."""

    def fail(*words: object) -> float:
        raise AssertionError("measured again")

    with patch.object(METRICS.load(name), "measure", fail):
        yield


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_a_file_is_known_by_what_it_holds(name: str, tmp_path: Path) -> None:
    target = describe("onnxruntime@fake")
    path = export_program(target, ("net", program(SPACE.smallest()), "int8"), tmp_path / "net")
    with Store(tmp_path / "m.sqlite") as store:
        value = measure_metric_of_file(target, name, path, store, 1.0)
        moved = path.rename(path.with_name(f"moved{path.name}"))
        other = target.model_copy(update={"threads": 2})
        with unmeasurable(name):
            assert measure_metric_of_file(target, name, moved, store, 1.0) == value
            with pytest.raises(AssertionError, match="measured again"):
                measure_metric_of_file(other, name, moved, store, 1.0)


@pytest.mark.parametrize("name", DEVICE_NAMES)
def test_what_is_measured_can_be_predicted(name: str, tmp_path: Path) -> None:
    rng = Random(1)
    subnets = [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(14))]
    jobs = [("net", program(subnet), 1.0) for subnet in subnets]
    steps: list[tuple[int, int]] = []
    target = describe("onnxruntime@fake")
    with Store(tmp_path / "m.sqlite") as store:
        values = measure_metric(target, name, jobs, store, tmp_path / "work", lambda *step: steps.append(step))
        assert steps[-1] == (16, 16)
        assert not (tmp_path / "work").exists() or list((tmp_path / "work").iterdir()) == []
        assert store.num_metrics() == len({job[1] for job in jobs})
        with unmeasurable(name):
            again = measure_metric(target, name, jobs, store, tmp_path / "work", lambda *step: None)
        assert again == values, "what was measured is not measured again"
        with unmeasurable(name), pytest.raises(AssertionError, match="measured again"):
            measure_metric(target, name, jobs, store, tmp_path / "work", lambda *step: None, {"a": "longer file"})
    fit = fit_metric(name, subnets, values)
    assert fit.mape < 0.1
    assert metric_value(fit, subnets[5]) == pytest.approx(values[5], rel=0.2)


@pytest.mark.parametrize("name", DEVICE_NAMES)
@pytest.mark.parametrize("values", [[1.0] * 3, [1.0] * 8 + [0.0]])
def test_too_little_to_fit(name: str, values: list[float]) -> None:
    with pytest.raises(TargetError, match="cannot be predicted"):
        fit_metric(name, [SPACE.smallest()] * len(values), values)


def test_the_size_is_that_of_the_file(device: Transport, tmp_path: Path) -> None:
    target = describe("onnxruntime@fake")
    path = export_program(target, ("net", program(SPACE.smallest()), "int8"), tmp_path / "net")
    room = METRICS.load("size-mib")
    assert room.measure(device, target, path, 1.0) == path.stat().st_size / 2**20
    onnx.save_model(onnx.load(path), tmp_path / "parts.onnx", save_as_external_data=True, location="parts.bin")
    size_bytes = sum((tmp_path / name).stat().st_size for name in ("parts.onnx", "parts.bin"))
    assert room.measure(device, target, tmp_path / "parts.onnx", 1.0) == size_bytes / 2**20
    assert size_bytes == pytest.approx(path.stat().st_size, rel=0.2)


def test_activation_memory_is_computed() -> None:
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
    path = export_program(target, ("net", program(SPACE.smallest()), "int8"), tmp_path / "net")
    with pytest.raises(TargetError, match="does not advance"):
        METRICS.load("energy-mj").measure(_Stuck(device), target, path, 1.0)
