"""A target from Python, on simulated devices."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

import spaceevo
from spaceevo.errors import TargetError
from spaceevo.measure.transports import fake
from spaceevo.spaces.encoding import encode

SPACE = "micro-014-120"


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.reset()
    yield spaceevo.Target("onnxruntime@fake:exact")
    fake.reset()


@pytest.fixture
def space():
    hyperspace = spaceevo.load_hyperspace("micro")
    return hyperspace.space(hyperspace.decode(SPACE), 10)


def test_describe(target) -> None:
    about = target.describe()
    assert about.target == target.description
    assert target.folder == Path("targets/onnxruntime@fake:exact")
    assert repr(target) == "Target('onnxruntime@fake:exact')"
    assert "has not been studied yet" in target._repr_html_()


def test_fit_assess_and_predict(target, space) -> None:
    with pytest.raises(TargetError, match="no latency predictor"):
        target.predict(["ResNet-18"])
    calls = []
    predictor = target.fit(num_fit=12, num_classes=10, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]
    assert predictor.target == target.description
    assert target.assess(num_unseen=5).within_10_percent > 0.5
    assert target._repr_html_().startswith("<iframe")
    rng = Random(0)
    subnets = [space.sample(rng) for _ in range(4)]
    found = target.predict([subnets[0], encode(subnets[1]), f"{SPACE} {encode(subnets[2])}", subnets[3]], space=SPACE,
                           num_classes=10)  # fmt: skip
    assert [one.name for one in found] == [
        encode(subnets[0]), encode(subnets[1]), f"{SPACE} {encode(subnets[2])}", encode(subnets[3])
    ]  # fmt: skip
    assert found.latencies_ms == pytest.approx([predictor.network_ms(subnet) for subnet in subnets])
    assert found[1].latency_ms == found.latencies_ms[1]
    assert [one.name for one in found[2:]] == [one.name for one in found.networks[2:]]
    assert "4 networks" in found._repr_html_()
    assert "No networks" in target.predict([])._repr_html_()


def test_measure_once(target, space, tmp_path, monkeypatch) -> None:
    word = encode(space.smallest())
    (measured,) = target.measure(word, space=SPACE, num_classes=10, metrics=["size-mib"])
    assert measured.metrics["size-mib"] > 0
    monkeypatch.setattr("spaceevo.measure.session.connect", lambda *_: pytest.fail("measured twice"))
    (again,) = target.measure([word], space=SPACE, num_classes=10)
    assert again.measurement == measured.measurement
    target.export_measurements(tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").stat().st_size
    assert np.isfinite(again.ms_per_image)


def test_study(target) -> None:
    study = target.study(widths=[16], sizes=[6])
    assert study.advice
    assert "&lt;html" in target._repr_html_()
    assert sum(target.profile("MobileNetV3-Small", repeats=3).values()) > 0
