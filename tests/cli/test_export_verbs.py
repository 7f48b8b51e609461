"""`spaceevo export` and `spaceevo verify` on the files of a whole run."""

import copy
import json
import shutil
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from spaceevo.processors import profile_of
from spaceevo.report.companions import CARD
from spaceevo.runtimes import onnxruntime as runtime
from spaceevo.tools import handout


@pytest.fixture
def models(tiny: Any, tmp_path: Any) -> Any:
    """The models of the run, in a folder that belongs to no run."""
    shutil.copytree(tiny.folder / "export" / "models", tmp_path / "models")
    return tmp_path / "models"


def int8_files(folder: Any) -> list[Any]:
    return sorted(folder.glob("*-int8.onnx"))


def test_verify_a_run(tiny: Any, cli: Any) -> None:
    done = cli("verify", tiny.folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["models"]
    assert [one["file"] for one in found] == [path.name for path in int8_files(tiny.folder / "export" / "models")]
    for one in found:
        assert one["problems"] == []
        assert one["integer"]["max_steps"] == 0
        assert one["fake_quantized"]["top1"] >= 0.99
        assert one["num_images"] == 180


def test_verify_says_it_in_a_table(tiny: Any, cli: Any) -> None:
    done = cli("verify", tiny.folder)
    assert done.returncode == 0
    assert "Exported files on 180 images" in done.stdout
    assert f"onnxruntime {runtime.version()}" in " ".join(done.stdout.split())


def test_verify_one_file_elsewhere(tiny: Any, models: Any, cli: Any) -> None:
    file = int8_files(models)[0]
    renamed = file.rename(models / "my-int8.onnx")
    done = cli("verify", renamed)
    assert done.returncode == 1
    assert "There are no images to run" in done.stderr
    assert "--data" in done.stderr
    assert cli("verify", renamed, "--data", "digits").returncode == 0
    assert cli("verify", renamed, "--data", tiny.recipe).returncode == 0
    network = models / file.name.replace("-int8.onnx", ".safetensors")
    moved = network.rename(models.parent / "kept.safetensors")
    done = cli("verify", renamed, "--data", "digits")
    assert done.returncode == 1
    assert "does not lie beside it" in done.stderr
    assert cli("verify", renamed, "--data", "digits", "--network", moved).returncode == 0


def test_verify_catches_a_changed_scale(models: Any, cli: Any) -> None:
    file = int8_files(models)[0]
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("conv|q_scale"))
    tensor.CopyFrom(numpy_helper.from_array(np.float32(1.1) * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, file)
    done = cli("verify", file, "--data", "digits")
    assert done.returncode == 1
    assert f"1 constants are not the network's: {tensor.name}" in done.stdout
    assert f"The first tensor that differs: {tensor.name.removesuffix('|q_scale')}" in done.stdout


def test_verify_says_that_the_processor_is_another(models: Any, cli: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(handout, "this_profile", lambda: profile_of("aarch64", {"asimd"}))
    done = cli("verify", int8_files(models)[0], "--data", "digits")
    assert "and verified on arm: what holds here need not hold there" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("missing-int8.onnx",), "There is no INT8 model at"),
        ((".",), "It is a folder without export/models/"),
        (("note.txt",), "is no model file"),
        (("subnet-fp32.onnx",), "is no INT8 model of spaceevo"),
        (("foreign-int8.onnx",), "was not written by spaceevo"),
        (("cut-int8.onnx",), "is no ONNX model"),
        (("subnet-int8.onnx", "--runtime", "onnxrntime"), "Did you mean 'onnxruntime'"),
        (("subnet-int8.onnx", "--data", "digit"), "There is no data set 'digit'"),
        (("subnet-int8.onnx", "--network", "note.txt"), "is no extracted network"),
        (("subnet-int8.onnx", "--data", "images"), "has other classes than"),
    ],
)
def test_bad_input(models: Any, cli: Any, monkeypatch: Any, words: tuple[str, ...], said: str) -> None:
    file = int8_files(models)[0]
    shutil.copy(file, models / "subnet-int8.onnx")
    shutil.copy(file.with_name(file.name.replace("int8", "fp32")), models / "subnet-fp32.onnx")
    (models / "cut-int8.onnx").write_bytes(file.read_bytes()[:2000])
    (models / "note.txt").write_text("hello")
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, models / "foreign-int8.onnx")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (models / "images" / part / name).mkdir(parents=True)
            Image.new("RGB", (24, 24)).save(models / "images" / part / name / "1.png")
    monkeypatch.chdir(models)
    done = cli("verify", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_export_again_gives_the_same_files(tiny: Any, tmp_path: Any, cli: Any) -> None:
    done = cli("export", tiny.folder, "--runtime", "onnxruntime", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failures"] == []
    files = {path for path in (tiny.folder / "export" / "models").iterdir() if path.name != CARD}  # tells of the run
    for path in files:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_export_one_network_for_every_runtime_that_is_installed(models: Any, tmp_path: Any, cli: Any) -> None:
    network = sorted(models.glob("*.safetensors"))[0]
    done = cli("export", network, "--data", "digits", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    runtimes = {one["runtime"].split()[0] for one in json.loads(done.stdout)["models"]}
    assert "onnxruntime" in runtimes
    assert cli("verify", *(tmp_path / "out").glob("*-int8*"), "--data", "digits").returncode == 0


def test_export_hands_out_nothing_that_breaks_a_bound(models: Any, tmp_path: Any, cli: Any, monkeypatch: Any) -> None:
    networks = sorted(models.glob("*.safetensors"))
    export = runtime.export_int8

    def wrong(graph: Any, path: Any, metadata: Any) -> None:
        """As an exporter with a fault would write it, for one of the networks."""
        if path.name.startswith(networks[0].stem):
            graph = copy.deepcopy(graph)
            graph.weights["head/logits"].bias[0] += 100_000
        export(graph, path, metadata)

    monkeypatch.setattr(runtime, "export_int8", wrong)
    shutil.copytree(models, tmp_path / "run" / "export" / "models")
    out = tmp_path / "out"
    done = cli("export", tmp_path / "run", "--runtime", "onnxruntime", "--data", "digits", "--out", out, "--json")
    assert done.returncode == 3, done.stderr
    content = json.loads(done.stdout)
    assert len(content["models"]) == len(networks) - 1
    assert "is not handed out" in content["failures"][0]["error"]
    assert not (out / f"{networks[0].stem}-int8.onnx").exists()
    assert (out / f"{networks[0].stem}-unverified.onnx").exists()
    done = cli("export", networks[0], "--runtime", "onnxruntime", "--data", "digits", "--out", out)
    assert done.returncode == 1


def test_export_for_a_runtime_that_is_not_installed(models: Any, cli: Any, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    network = sorted(models.glob("*.safetensors"))[0]
    done = cli("export", network, "--runtime", "litert", "--data", "digits")
    assert done.returncode == 1
    assert "pip install 'spaceevo[litert]'" in done.stderr
    done = cli("export", network, "--data", "digits")
    assert "Left out: LiteRT is not installed" in done.stdout
    assert done.returncode == 0


def test_export_takes_runtimes_with_a_network_only(tiny: Any, cli: Any) -> None:
    assert cli("export", tiny.recipe, "--runtime", "onnxruntime").returncode == 2


def test_export_of_a_recipe_is_the_stage(tiny: Any, tmp_path: Any, cli: Any) -> None:
    folder = tiny.copy(tmp_path / "run")
    done = cli("export", tiny.recipe, "--out", folder)
    assert done.returncode == 0
    assert str(folder / "export" / "models.json") in done.stdout
