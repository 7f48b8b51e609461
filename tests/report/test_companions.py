"""What lies beside models for people without spaceevo."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_up_report import make_model, make_target
from PIL import Image

import spaceevo
from spaceevo.errors import ArtifactError, TargetError
from spaceevo.measure.campaign import measure_files
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.progress import silent
from spaceevo.records import ClassReport, ExportedModels, Preprocessing, Summary
from spaceevo.report.companions import CARD, LABELS, companions, labels_text, model_card, predict_text
from spaceevo.runtimes import RUNTIMES, onnxruntime
from spaceevo.tools.file_metadata import read_metadata
from spaceevo.train.batches import to_input
from spaceevo.train.datasets import decoded

PREPROCESSING = Preprocessing(resize=24, image_size=32, min_decoded_size=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def draw_pictures(folder: Path) -> list[Path]:
    """A large JPEG, one that is turned, one with transparent pixels, one in grey, a small one."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((240, 180), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    paths = [folder / name for name in ("large.jpg", "turned.jpg", "clear.png", "grey.png", "small.png")]
    smooth.convert("RGB").save(paths[0], quality=95)
    smooth.convert("RGB").save(paths[1], quality=95, exif=turned)
    smooth.save(paths[2])
    smooth.convert("L").save(paths[3])
    smooth.convert("RGB").resize((7, 11)).save(paths[4])
    return paths


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_the_program_does_what_the_model_does(name, tiny, tmp_path) -> None:
    network = next((tiny.folder / "export" / "models").glob("subnet-*.safetensors"))
    shutil.copy(network, tmp_path / "mine.safetensors")
    try:
        exports = spaceevo.export(tmp_path / "mine.safetensors", runtimes=[name], data="digits")
    except TargetError as error:
        pytest.skip(str(error))
    (out,) = exports.handed_out
    pictures = draw_pictures(tmp_path)
    found = spaceevo.load_model(out.int8).predict(pictures)
    program = tmp_path / f"predict_{name}.py"
    names = runpy.run_path(str(program))
    shape, run = names["load"](str(out.int8))
    for path, logits in zip(pictures, found.logits, strict=True):
        x = names["prepare"](path, max(shape[1:3]))[None]
        x = x if shape[1] == 3 else x.transpose(0, 2, 3, 1)
        step = np.ptp(found.logits) / 255
        assert np.abs(run(np.ascontiguousarray(x))[0] - logits).max() < 2 * step, path
    command = [sys.executable, "-I", str(program), str(out.int8), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split(": ")[1].split(" (")[0] for line in done.stdout.splitlines()] == list(found.classes)
    assert "spaceevo" not in program.read_text()
    assert (tmp_path / LABELS).read_text() == labels_text(found.class_names)


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_the_second_resize_is_ours(name, tmp_path) -> None:
    """Where the network reads another size than the pictures were brought to."""
    try:
        RUNTIMES.load(name).version()
    except TargetError as error:
        pytest.skip(str(error))
    text = predict_text(name, PREPROCESSING)
    assert text is not None
    (tmp_path / "program.py").write_text(text)
    names = runpy.run_path(str(tmp_path / "program.py"))
    for path in draw_pictures(tmp_path):
        pixels = next(decoded([(path.name, path)], 32))
        ours = to_input(torch.from_numpy(pixels), 24)[0].numpy() * 0.25 + 0.5  # pixels / 255
        theirs = names["prepare"](path, 24)
        mean, std = (np.array(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
        np.testing.assert_allclose(theirs * std + mean, ours, atol=2e-5)


def test_labels_have_one_line_each() -> None:
    assert labels_text(["a b", "é", "two\nlines"]) == "a b\né\ntwo lines\n"


def test_a_runtime_that_does_not_tell_has_no_program(monkeypatch) -> None:

    monkeypatch.setattr(onnxruntime, "SNIPPET", None)
    assert set(companions("onnxruntime", ["a", "b"], PREPROCESSING)) == {LABELS}


def card(**changes):
    models = [make_model(0.8, 0.812), make_model(1.2, 0.843)]
    names = tuple(f"class {number}" for number in range(30))
    values = {"title": "mine", "models": models, "target": make_target(), "class_names": names, "data": "flowers",
              "license_name": "apache-2.0", "num_train_images": 5000, "num_val_images": 400, "seed": 3,
              "versions": {"torch": "2.13.0"}}  # fmt: skip
    return model_card(**values | changes)


def test_the_card_has_what_hubs_read() -> None:
    text = card()
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "apache-2.0"
    assert front["pipeline_tag"] == "image-classification"
    (entry,) = front["model-index"]
    assert entry["name"] == "mine"
    assert [result["metrics"][0]["value"] for result in entry["results"]] == [
        pytest.approx(model.top1_int8, abs=1e-6) for model in (make_model(0.8, 0.812), make_model(1.2, 0.843))
    ]
    for words in ("class 0, class 1", "and 10 more", "400 validation images", "0.8 ms and 1.2 ms", "torch 2.13.0"):
        assert words in body
    assert yaml.safe_load(card(license_name="").split("---\n")[1])["license"] == "unknown"


def test_a_run_leaves_card_labels_and_program(tiny) -> None:
    models = tiny.folder / "export" / "models"
    files = tiny.files(tiny.folder, "export")
    for name in (CARD, LABELS, "predict_onnxruntime.py"):
        assert (models / name).exists()
        assert f"models/{name}" in files, "their digests are kept"
    assert "`subnet-" in (models / CARD).read_text()


def test_files_tell_of_themselves(tiny) -> None:

    result = ExportedModels.model_validate_json((tiny.folder / "export" / "models.json").read_bytes()).models[0]
    for precision, latency_ms in (("int8", result.int8_ms), ("fp32", result.fp32_ms)):
        _, told = read_metadata(tiny.folder / getattr(result, f"{precision}_file"))
        assert float(told["spaceevo.latency_ms"]) == pytest.approx(latency_ms, rel=1e-3)
        assert float(told["spaceevo.budget_ms"]) == result.budget_ms
        assert '"runtime": "onnxruntime"' in told["spaceevo.measured_on"]
        assert told["spaceevo.data"] == "digits"
        assert "spaceevo.license" not in told


def test_what_is_measured_under_its_last_bytes_is_not_measured_again(tiny, tmp_path, monkeypatch) -> None:

    exported = ExportedModels.model_validate_json((tiny.folder / "export" / "models.json").read_bytes())
    target = Summary.model_validate_json((tiny.folder / "summary.json").read_bytes()).target
    shutil.copy(tiny.folder / "measurements.sqlite", tmp_path / "m.sqlite")
    monkeypatch.setattr("spaceevo.measure.session.connect", lambda *_: pytest.fail("measured again"))
    paths = [tiny.folder / model.int8_file for model in (*exported.models, *exported.baselines)]
    with Store(tmp_path / "m.sqlite") as store:
        again = measure_files(target, paths, store, Plan(), silent)
    assert [one.latency_ms for one in again] == [model.int8_ms for model in (*exported.models, *exported.baselines)]


def test_labels_of_somebody_else_stay(tiny, tmp_path) -> None:
    network = next((tiny.folder / "export" / "models").glob("subnet-*.safetensors"))
    (tmp_path / LABELS).write_text("mine\n")
    with pytest.raises(ArtifactError, match=r"labels\.txt"):
        spaceevo.export(network, runtimes=["onnxruntime"], data="digits", folder=tmp_path)
    assert (tmp_path / LABELS).read_text() == "mine\n"
    spaceevo.export(network, runtimes=["onnxruntime"], data="digits", folder=tmp_path, force=True)
    assert (tmp_path / LABELS).read_text() != "mine\n"


def test_a_run_counts_class_by_class(tiny) -> None:
    folder = tiny.folder / "export"
    report = ClassReport.model_validate_json((folder / "classes.json").read_bytes())
    models = ExportedModels.model_validate_json((folder / "models.json").read_bytes()).models
    for scores, model in zip(report.models, models, strict=True):
        assert scores.int8_file == model.int8_file
        right = sum((one.recall_int8 or 0) * one.num_images for one in scores.classes)
        assert right / sum(one.num_images for one in scores.classes) == pytest.approx(model.top1_int8)
        assert scores.confusions
    assert 'id="classes"' in (tiny.folder / "report.html").read_text()
