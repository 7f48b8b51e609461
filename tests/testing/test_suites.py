"""The laws that are shipped find what breaks them; that they hold of our own plug-ins, the rooms' tests show."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.measure.metrics import METRICS
from spaceevo.records import ImageData
from spaceevo.runtimes import onnxruntime
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.testing import BlockForm, BlockSuite, DatasetSuite, MetricSuite, RuntimeSuite, runtimes
from spaceevo.train.datasets import procedural


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
