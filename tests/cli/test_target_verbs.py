"""`spaceevo target`, `measure` and `predict` on simulated devices."""

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from made_models import made_onnx
from spaceevo.measure.transports import fake
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.named import named_space

TARGET = "onnxruntime@fake"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    fake.reset()
    yield
    fake.reset()


def test_describe(cli: Any) -> None:
    done = cli("target", "describe", TARGET)
    assert done.returncode == 0, done.stderr
    for words in ("Simulated processor (aarch64)", "onnxruntime 1", "up to 127", "2000 MHz", "0 in targets/"):
        assert words in done.stdout
    about = json.loads(cli("target", "describe", TARGET, "--threads", 2, "--cores", "1,2", "--json").stdout)
    assert about["target"]["cores"] == [1, 2]
    assert about["profile"] == "arm-dotprod"


def test_measure_networks_and_files_once(cli: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = encode(named_space("micro-014-120", 10).smallest())
    words = ("measure", TARGET, "MobileNetV3-Small", encoding, "--space", "micro-014-120", "--num-classes", 10)
    done = cli(*words, "--precision", "int8", "--precision", "fp32", "--metric", "size-mib", "--json")
    assert done.returncode == 0, done.stderr
    found = {(one["name"], one["precision"]): one for one in json.loads(done.stdout)}
    assert len(found) == 4
    for name in ("MobileNetV3-Small", encoding):
        int8, fp32 = (found[name, precision] for precision in ("int8", "fp32"))
        assert int8["measurement"]["latency_ms"] < fp32["measurement"]["latency_ms"]
        assert int8["metrics"]["size-mib"] < fp32["metrics"]["size-mib"]
    loads = []
    monkeypatch.setattr("spaceevo.measure.session.connect", lambda *args: loads.append(args))
    again = cli(*words, "--json", "--export", "all.parquet")
    assert again.returncode == 0, again.stderr
    assert not loads, "nothing is measured twice"
    assert [one["measurement"] for one in json.loads(again.stdout)] == [
        found[name, "int8"]["measurement"] for name in ("MobileNetV3-Small", encoding)
    ]
    assert pq.read_table("all.parquet").num_rows >= 4


def test_a_batch_is_told_and_divided(cli: Any) -> None:
    for batch in (1, 8):
        made_onnx(Path(f"{batch}.onnx"), ("pixels", "uint8", (batch, 3, 32, 32)))
    done = cli("measure", f"{TARGET}:exact", "1.onnx", "8.onnx")
    assert done.returncode == 0, done.stderr
    for words in ("batch", "ms per image", "of so many images as its batch"):
        assert words in done.stdout
    found = json.loads(cli("measure", f"{TARGET}:exact", "1.onnx", "8.onnx", "--json").stdout)
    assert [one["batch"] for one in found] == [1, 8]
    for one in found:
        assert one["ms_per_image"] == one["measurement"]["latency_ms"] / one["batch"]
    assert "batch" not in cli("measure", f"{TARGET}:exact", "1.onnx").stdout


def test_a_metric_that_is_not_available_is_told(cli: Any, tiny: Any) -> None:
    file = next((tiny.folder / "export" / "models").glob("*-int8.onnx"))
    done = cli("measure", TARGET, file, "--metric", "activation-memory-mib", "--metric", "size-mib")
    assert done.returncode == 3
    assert "not of files" in done.stdout
    assert "–" in done.stdout


def test_study(cli: Any, tmp_path: Any) -> None:
    words = ("--widths", "16,32", "--sizes", "6", "--hyperspace", "onnxw")
    done = cli("target", "study", TARGET, *words)
    assert done.returncode == 0, done.stderr
    assert "Of the block types of onnxw, INT8 gains most in" in done.stdout
    page = tmp_path / "targets" / TARGET / "target.html"
    assert str(page) in done.stdout
    assert "What this target runs well" in page.read_text() or "what this target runs well" in page.read_text()
    assert json.loads(cli("target", "study", TARGET, *words, "--json").stdout)["rows"]


def test_profile(cli: Any, tiny: Any) -> None:
    file = next((tiny.folder / "export" / "models").glob("*-int8.onnx"))
    times = json.loads(cli("target", "profile", "onnxruntime@local", file, "--repeats", 3, "--json").stdout)
    assert "head/logits" in times
    assert all(ms >= 0 for ms in times.values())
    assert cli("target", "profile", "onnxruntime@local", file, "--repeats", 3).returncode == 0
    simulated = json.loads(cli("target", "profile", f"{TARGET}:exact", file, "--json").stdout)
    assert sum(simulated.values()) == pytest.approx(fake.true_ms(file, "exact"))
    assert "head/logits" in simulated


def test_a_profile_without_times(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_onnx(tmp_path / "mine.onnx", ("x", "float32", (1, 3)))
    monkeypatch.setattr(fake._Connection, "profile", lambda *_: {"~Add": 0.0})
    done = cli("target", "profile", TARGET, "mine.onnx")
    assert done.returncode == 1
    assert "counts no time in the operators of mine.onnx" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("target", "describe", "onnxruntime"), 1, "is not the name of a target"),
        (("target", "describe", TARGET, "--cores", "9"), 1, "cores that are not there"),
        (("target", "describe", TARGET, "--cores", "a"), 2, "is not a list of numbers"),
        (("measure", TARGET, "MobileNetV3-Smal"), 1, "Did you mean 'MobileNetV3-Small'"),
        (("measure", TARGET, "d1_k3_w16_e0_r32"), 1, "Name its space too"),
        (("measure", TARGET, "missing.onnx"), 1, "missing.onnx"),
        (("measure", TARGET, "missing.xml"), 1, "There is no model at missing.xml"),
        (("measure", TARGET, "no/such"), 1, "There is no model at no/such"),
        (("measure", TARGET, "x" * 300), 1, "There is no network named 'xxx"),
        (("measure", TARGET, "x" * 300 + ".onnx"), 1, "File name too long"),
        (("target", "describe", TARGET, "--folder", "x" * 300), 1, "File name too long"),
        (("measure", TARGET, "ResNet-18", "--precision", "int4"), 2, "is no precision"),
        (("measure", TARGET, "ResNet-18", "--metric", "size"), 1, "Did you mean 'size-mib'"),
        (("measure", f"{TARGET}:unplug_after=9", "ResNet-18"), 1, "again"),
        (("target", "profile", TARGET, "missing.onnx"), 1, "missing.onnx"),
        (("target", "profile", f"{TARGET}:unplug_after=4", "MobileNetV3-Small"), 1, "unplugged"),
        (("predict", TARGET, "ResNet-18"), 1, "spaceevo target fit"),
        (("predict", "recipe.yaml", "ResNet-18"), 2, "go with a target"),
        (("target", "assess", TARGET), 1, "spaceevo target fit"),
    ],
)
def test_bad_input(cli: Any, words: tuple[str, ...], code: int, said: str) -> None:
    done = cli(*words)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == code, told
    assert said in told
    assert "Traceback" not in told


def test_a_command_that_is_told_works(cli: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = cli("predict", TARGET, "MobileNetV2", "--fp32", "--threads", "2", "--cores", "0,1", "--folder", "a b")
    fit = shlex.split(told.stderr.split("Fit one with: spaceevo ")[1].strip().removesuffix("."))
    assert fit == ["target", "fit", TARGET, "--fp32", "--threads", "2", "--cores", "0,1", "--folder", "a b"]
    told = cli(*fit, "--num-fit", "10")
    assess = shlex.split(told.stdout.split("Judge it with: spaceevo ")[1])
    assert cli(*assess, "--num-unseen", "5").returncode == 0
    assert cli("predict", TARGET, "MobileNetV2").stderr.strip().endswith(f"target fit {TARGET}.")


def test_fit_assess_and_predict(cli: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("target", "fit", TARGET, "--num-fit", 60, "--num-classes", 10)
    assert done.returncode == 0, done.stderr
    assert "spaceevo target assess" in done.stdout
    done = cli("target", "assess", TARGET, "--num-unseen", 12)
    assert done.returncode == 0, done.stderr
    assert "judged on 12 others" in done.stdout
    found = json.loads(cli("target", "assess", TARGET, "--num-unseen", 12, "--json").stdout)
    assert found["within_10_percent"] > 0.8
    space = named_space("micro-014-120", 10)
    rng = Random(0)
    encodings = [encode(space.sample(rng)) for _ in range(50)]
    (tmp_path / "list.txt").write_text("\n".join(f"micro-014-120 {encoding}" for encoding in encodings))
    words = ("predict", TARGET, "--file", "list.txt", "--num-classes", 10)
    done = cli(*words, "--out", "predictions.csv")
    assert done.returncode == 0, done.stderr
    assert "50 networks" in done.stdout
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    predicted = json.loads(cli(*words, "--json").stdout)
    assert [float(row["latency_ms"]) for row in rows] == [one["latency_ms"] for one in predicted]
    other = encode(named_space("micro-000-000", 10).smallest())
    lines = [f"micro-014-120 {encodings[0]}", "MobileNetV3-Small", *encodings, encodings[7], f"micro-000-000 {other}"]
    (tmp_path / "mixed.txt").write_text("\n\n".join(lines) + "\n")
    words_mixed = ("predict", TARGET, "--file", "mixed.txt", "--space", "micro-014-120", "--num-classes", 10, "--json")
    one_by_one = json.loads(cli(*words_mixed).stdout)
    monkeypatch.setattr("spaceevo.tools.target_predictors.LOOK_UP", 20)
    looked_up = json.loads(cli(*words_mixed).stdout)
    assert [one["name"] for one in looked_up] == lines
    for one, own in zip(looked_up, one_by_one, strict=True):
        assert (one["name"], one["num_outside"]) == (own["name"], own["num_outside"])
        assert one["latency_ms"] == pytest.approx(own["latency_ms"], rel=1e-12)
    assert sum(one["num_outside"] for one in looked_up) > 0
    (tmp_path / "mixed.txt").write_text("\n".join([*encodings, encodings[3].replace("_w16", "_w17", 1)]))
    done = cli(*words_mixed)
    assert done.returncode == 1
    assert "Line 51 of mixed.txt" in done.stderr
    assert "has width 17" in done.stderr
    measured = json.loads(
        cli("measure", TARGET, *encodings[:3], "--space", "micro-014-120", "--num-classes", 10, "--json").stdout
    )
    for one, other in zip(measured, predicted[:3], strict=True):
        assert other["latency_ms"] == pytest.approx(one["measurement"]["latency_ms"], rel=0.2)
    assert cli("predict", TARGET, "MobileNetV3-Small").returncode == 0
    done = cli("predict", TARGET, "ResNet-18")
    assert done.returncode == 1
    assert "knows nothing about operators 'max_pool'" in done.stderr
    done = cli("predict", TARGET, "--threads", 2, "ResNet-18")
    assert done.returncode == 1
    assert "There is no latency predictor" in done.stderr
    done = cli("predict", TARGET, "--threads", 2, "ResNet-18", "--folder", f"targets/{TARGET}")
    assert done.returncode == 1
    assert "hreads was 1, is 2" in done.stderr
