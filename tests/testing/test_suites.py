"""The laws that are shipped find what breaks them; that they hold of our own plug-ins, the rooms' tests show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from spaceevo import plugins
from spaceevo.config import EngineSettings
from spaceevo.engines import ENGINES
from spaceevo.engines.serial import SerialEngine
from spaceevo.graph.trace import Feature, Tracer
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.target import connect
from spaceevo.measure.transports import Transport
from spaceevo.records import ImageData
from spaceevo.runtimes import onnxruntime
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.testing import (
    BlockForm,
    BlockSuite,
    DatasetSuite,
    EngineSuite,
    MetricSuite,
    PresetSuite,
    RuntimeSuite,
    TransportSuite,
    presets,
    runtimes,
    transports,
)
from spaceevo.train.datasets import procedural

pytest_plugins = ["pytester"]


class Options(BaseModel):
    """Nothing is described, and unknown keys are taken."""

    model_config = ConfigDict(frozen=True)

    size: int = 3


def test_data_that_change_between_two_loads(tmp_path: Path) -> None:
    seeds = itertools.count()

    def load(settings: Any, image_size: int, cache: Path) -> ImageData:
        changed = settings.model_copy(update={"seed": next(seeds)})
        return procedural.load(changed, image_size, cache)

    settings = procedural.Settings(num_train=40, num_val=30)
    with pytest.raises(AssertionError):
        DatasetSuite().test_two_loads_agree_with_and_without_cache(SimpleNamespace(load=load), settings, tmp_path)


def test_labels_of_another_type(tmp_path: Path) -> None:
    def load(settings: Any, image_size: int, cache: Path) -> ImageData:
        images = np.random.default_rng(0).integers(0, 256, (4, 3, image_size, image_size), dtype=np.uint8)
        labels = np.array([0, 1, 0, 1], np.int32)
        return ImageData("wrong", ("a", "b"), images, labels, images, labels)

    with pytest.raises(AssertionError):
        DatasetSuite().test_shapes_and_labels(SimpleNamespace(load=load), Options(), tmp_path, 12)


def test_settings_that_say_nothing() -> None:
    with pytest.raises(AssertionError):
        DatasetSuite().test_every_field_is_described(SimpleNamespace(Settings=Options))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        DatasetSuite().test_unknown_key_is_rejected(SimpleNamespace(Settings=Options), {})


def wide(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """Twice as wide as it is told to be, and whatever its kernel size and activation are."""
    return net.conv("conv", x, 2 * spec.out_width, kernel_size=3, stride=spec.stride, activation="relu")


@pytest.mark.parametrize(
    "law",
    [
        lambda suite: suite.test_output("wide", BlockForm(), 8, 24, 1, runtimes.Shape(8, 7, 7)),
        lambda suite: suite.test_kernel_size_matters("wide", BlockForm()),
        lambda suite: suite.test_expand_ratio_matters("wide", BlockForm()),
        lambda suite: suite.test_activation_is_the_one_asked_for("wide", BlockForm(), "swish"),
    ],
)
def test_a_block_that_does_not_do_as_it_is_told(law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BLOCKS, "load", lambda name: SimpleNamespace(declare=wide))
    with pytest.raises(AssertionError):
        law(BlockSuite())


def test_a_metric_without_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    size = METRICS.load("size-mib")
    monkeypatch.setattr(METRICS, "load", lambda name: size)
    with pytest.raises(AssertionError):
        MetricSuite().test_a_name_ends_in_its_unit_and_tells_what_it_is("size")


def test_a_runtime_that_rounds_otherwise_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rough(onnxruntime.Session):
        def run(self, images: np.ndarray) -> np.ndarray:
            return np.roll(super().run(images), 1, axis=1)

    path = tmp_path / "net.onnx"
    onnxruntime.export_int8(runtimes.GRAPH, path, runtimes.METADATA)
    RuntimeSuite().test_file_computes_what_the_reference_does("onnxruntime", onnxruntime, path)
    monkeypatch.setattr(onnxruntime, "Session", Rough)
    with pytest.raises(AssertionError):
        RuntimeSuite().test_file_computes_what_the_reference_does("onnxruntime", onnxruntime, path)


class Careless(SerialEngine):
    """Gives every result to the first job, tells no progress, and takes any need."""

    def map(self, work: Any, jobs: Any, progress: Any, sizes: Any = (), needs: Any = None) -> Iterator[Any]:
        for _, result in super().map(work, jobs, lambda done, total: None):
            yield 0, result


@pytest.mark.parametrize(
    ("law", "error"),
    [
        (lambda suite: suite.test_results_of_each_job(Careless()), KeyError),
        (lambda suite: suite.test_progress_within_a_job(Careless()), AssertionError),
        (
            lambda suite: suite.test_a_device_that_no_machine_has_is_told(EngineSettings(name="careless"), Careless()),
            pytest.fail.Exception,
        ),
    ],
)
def test_an_engine_that_takes_no_care(law: Any, error: type[BaseException]) -> None:
    careless = SimpleNamespace(start=lambda settings: Careless())
    with patch.object(ENGINES, "load", lambda name: careless), pytest.raises(error):
        law(EngineSuite())


class Leaky:
    """A device that times models on cores that it does not have, and after they were closed."""

    def __init__(self, device: Transport) -> None:
        self._device = device
        self.profile = device.profile

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> Any:
        return SimpleNamespace(time=self._device.load(runtime, path, threads).time, close=lambda: None)

    def close(self) -> None:
        pass


def test_a_transport_that_does_not_say_what_goes_wrong(tmp_path: Path) -> None:
    device, target = Leaky(connect("onnxruntime@fake")), "onnxruntime@fake"
    models, suite = transports.Models(tmp_path), TransportSuite()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        suite.test_a_core_that_is_not_there(target, "onnxruntime", device, models)
    with patch.object(transports, "connect", lambda name: device), pytest.raises(pytest.fail.Exception):
        suite.test_a_closed_model_or_connection_is_told(target, "onnxruntime", models)
    with pytest.raises(AssertionError):
        suite.test_operators_are_timed_or_refused("kinds", "onnxruntime", device, models)


def test_a_hyperspace_whose_widths_do_not_ascend() -> None:
    micro = load_hyperspace("micro")
    stem, stage, *stages = micro.stages
    turned = replace(micro, stages=(stem, replace(stage, widths=stage.widths[::-1]), *stages))
    PresetSuite().test_presets_are_consistent("micro")
    with patch.object(presets, "load_hyperspace", lambda name: turned), pytest.raises(AssertionError):
        PresetSuite().test_presets_are_consistent("micro")


PACKAGE = """
from spaceevo.train.datasets.procedural import *
from spaceevo.train.datasets.procedural import Settings, check, load as right
import itertools
seeds = itertools.count()

def load(settings, image_size, cache):
    return right(settings{}, image_size, cache)
"""
TESTS = """
from spaceevo.testing import DatasetSuite

class TestRight(DatasetSuite):
    NAME = "right"
    OPTIONS = {"num_train": 40, "num_val": 30}

class TestUnsteady(TestRight):
    NAME = "unsteady"
"""


def test_a_package_of_a_third_party_runs_them(pytester: pytest.Pytester) -> None:
    """With nothing of these tests around: two data sets, one of which gives other images whenever it is loaded."""
    pytester.makepyfile(
        right=PACKAGE.format(""),
        unsteady=PACKAGE.format(".model_copy(update={'seed': next(seeds)})"),
        test_ours=TESTS,
    )
    about = pytester.mkdir("ours-0.dist-info")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[spaceevo.train.datasets]\nright = right\nunsteady = unsteady\n")
    pytester.syspathinsert()
    plugins._locations.cache_clear()
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    plugins._locations.cache_clear()
    failed = {report.nodeid.split("::", 1)[1].partition("[")[0] for report in result.reprec.getfailures()}
    laws = (
        "cache_of_another_size_under_this_name_is_rebuilt",
        "damaged_cache_is_rebuilt",
        "two_loads_agree_with_and_without_cache",
    )
    assert failed == {f"TestUnsteady::test_{law}" for law in laws}
    result.stdout.fnmatch_lines("*assert _same(*")
