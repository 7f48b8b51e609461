"""What every metric keeps (`spaceevo.measure.metrics.Metric`), on a simulated device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import ClassVar
from unittest.mock import patch

import pytest

from spaceevo.errors import TargetError
from spaceevo.measure.campaign import export_program, measure_metric, measure_metric_of_file
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.store import Store
from spaceevo.measure.target import connect, describe
from spaceevo.measure.transports import Transport, fake
from spaceevo.predict.metrics import fit_metric, metric_value
from spaceevo.spaces.named import named_space
from spaceevo.spaces.subnet import network_program

SPACE = named_space("micro-014-120", 10)


@contextmanager
def _unmeasurable(name: str) -> Iterator[None]:
    """As if the device could not tell the metric."""

    def fail(*words: object) -> float:
        raise AssertionError("measured again")

    with patch.object(METRICS.load(name), "measure", fail):
        yield


class MetricSuite:
    """Laws of a metric.

    Attributes:
        NAME: Of the plug-in.
        UNITS: One of which the name ends in.
        TARGET: On which a metric that a device tells is measured.
    """

    NAME: ClassVar[str]
    UNITS: ClassVar[tuple[str, ...]] = ("-mib", "-mj")
    TARGET: ClassVar[str] = "onnxruntime@fake"

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    @pytest.fixture
    def on_device(self, name: str) -> str:
        """The name, of a metric that a device tells."""
        if METRICS.load(name).measure is None:
            pytest.skip("the architecture alone decides it")
        return name

    @pytest.fixture(autouse=True)
    def new_devices(self) -> Iterator[None]:
        fake.reset()
        yield
        fake.reset()

    @pytest.fixture
    def device(self) -> Iterator[Transport]:
        transport = connect(self.TARGET)
        yield transport
        transport.close()

    def test_a_name_ends_in_its_unit_and_tells_what_it_is(self, name: str) -> None:
        room = METRICS.load(name)
        assert name.endswith(self.UNITS)
        assert room.ABOUT.endswith(".")

    def test_features_are_sums_of_work(self, name: str) -> None:
        room = METRICS.load(name)
        rng = Random(0)
        for subnet in (SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(5))):
            features = room.features(subnet)
            assert all(value >= 0 for value in features)
            assert sum(features) > 0
        smallest, largest = sum(room.features(SPACE.smallest())), sum(room.features(SPACE.largest()))
        assert smallest < largest

    def test_larger_networks_cost_more(self, on_device: str, device: Transport, tmp_path: Path) -> None:
        room, target, values = METRICS.load(on_device), describe(self.TARGET), []
        for number, subnet in enumerate((SPACE.smallest(), SPACE.largest())):
            path = export_program(target, ("net", network_program(subnet), "int8"), tmp_path / str(number))
            assert room.measure is not None
            values.append(room.measure(device, target, path, 1.0))
        assert 0 < values[0] < values[1]

    def test_a_file_is_known_by_what_it_holds(self, on_device: str, tmp_path: Path) -> None:
        target = describe(self.TARGET)
        path = export_program(target, ("net", network_program(SPACE.smallest()), "int8"), tmp_path / "net")
        with Store(tmp_path / "m.sqlite") as store:
            value = measure_metric_of_file(target, on_device, path, store, 1.0)
            moved = path.rename(path.with_name(f"moved{path.name}"))
            other = target.model_copy(update={"threads": 2})
            with _unmeasurable(on_device):
                assert measure_metric_of_file(target, on_device, moved, store, 1.0) == value
                with pytest.raises(AssertionError, match="measured again"):
                    measure_metric_of_file(other, on_device, moved, store, 1.0)

    def test_what_is_measured_can_be_predicted(self, on_device: str, tmp_path: Path) -> None:
        rng = Random(1)
        subnets = [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(14))]
        jobs = [("net", network_program(subnet), 1.0) for subnet in subnets]
        steps: list[tuple[int, int]] = []
        target = describe(self.TARGET)
        with Store(tmp_path / "m.sqlite") as store:
            values = measure_metric(target, on_device, jobs, store, tmp_path / "work", lambda *step: steps.append(step))
            assert steps[-1] == (16, 16)
            assert not (tmp_path / "work").exists() or list((tmp_path / "work").iterdir()) == []
            assert store.num_metrics() == len({job[1] for job in jobs})
            with _unmeasurable(on_device):
                again = measure_metric(target, on_device, jobs, store, tmp_path / "work", lambda *step: None)
            assert again == values, "what was measured is not measured again"
            with _unmeasurable(on_device), pytest.raises(AssertionError, match="measured again"):
                measure_metric(
                    target, on_device, jobs, store, tmp_path / "work", lambda *step: None, {"a": "longer file"}
                )
        fit = fit_metric(on_device, subnets, values)
        assert fit.mape < 0.1
        assert metric_value(fit, subnets[5]) == pytest.approx(values[5], rel=0.2)

    @pytest.mark.parametrize("values", [[1.0] * 3, [1.0] * 8 + [0.0]])
    def test_too_little_to_fit(self, on_device: str, values: list[float]) -> None:
        with pytest.raises(TargetError, match="cannot be predicted"):
            fit_metric(on_device, [SPACE.smallest()] * len(values), values)
