"""A whole run in a folder: what comes out, and that nothing is done twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from spaceevo.artifacts import Manifest
from spaceevo.records import Summary
from spaceevo.run.stage import LAST, in_order
from spaceevo.runtimes.onnxruntime import float_operators
from spaceevo.stages import export

STAGES = tuple(stage.name for stage in in_order(LAST))
MODEL_KEYS = {
    "origin", "budget_ms", "encoding", "macs", "params", "predicted_ms", "int8_ms", "fp32_ms", "speedup", "top1_fp32",
    "top1_fake_quant", "top1_int8", "verification", "int8_file", "fp32_file", "network_file",
}  # fmt: skip


def _manifest(folder: Path, stage: str) -> Manifest:
    return Manifest.model_validate_json((folder / stage / "stage.json").read_bytes())


def _manifests(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = {stage: folder / stage / "stage.json" for stage in STAGES}
    return {stage: (path.stat().st_mtime_ns, path.read_bytes()) for stage, path in paths.items()}


@pytest.fixture
def summary(tiny: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tiny.folder / "summary.json").read_text())
    return content


def _all_models(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return summary["models"] + summary["baselines"]


def test_the_run_says_where_it_is_and_what_came_out(tiny: Any) -> None:
    for number, stage in enumerate(in_order(LAST), start=1):
        assert f"[{number}/{len(STAGES)}] {stage.title}" in tiny.done.stdout
    assert f"Run folder: {tiny.folder}" in tiny.done.stdout
    assert f"Report: {tiny.folder / 'report.html'}" in tiny.done.stdout
    assert "done before" not in tiny.done.stdout
    assert tiny.done.stderr == ""


def test_the_folder_holds_every_stage_and_no_rubbish(tiny: Any) -> None:
    assert {path.name for path in tiny.folder.iterdir() if path.is_dir()} <= {*STAGES, "work", "cache"}
    assert {path.name for path in tiny.folder.iterdir() if path.is_file()} == {
        ".lock", "spaceevo.json", "recipe.yaml", "provenance.json", "measurements.sqlite", "report.html",
        "summary.json",
    }  # fmt: skip
    assert not [path for path in tiny.folder.rglob("*") if path.name.endswith((".tmp", "checkpoint.safetensors"))]
    assert not list((tiny.folder / "work").glob("*"))


def test_manifests_list_every_file(tiny: Any) -> None:
    for stage in STAGES:
        manifest, inside = _manifest(tiny.folder, stage), tiny.folder / stage
        found = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.is_file()}
        found = {name for name in found if not name.endswith(".lock")}
        assert manifest.files.keys() | manifest.kept.keys() | {"stage.json"} == found
        beside = {name for name in manifest.kept if not name.startswith(("cells/", "results/"))}
        assert beside <= {"inputs.json", "evaluated.jsonl", "teacher-int8.safetensors"}


def test_provenance_and_resolved_recipe(tiny: Any, summary: dict[str, Any]) -> None:
    provenance = json.loads((tiny.folder / "provenance.json").read_text())
    assert provenance["seed"] == 0
    assert provenance["target"] == summary["target"]
    assert set(provenance["versions"]) == {"python", "spaceevo", "torch", "onnx", "onnxruntime", "numpy"}
    resolved = yaml.safe_load((tiny.folder / "recipe.yaml").read_text())
    asked = yaml.safe_load(tiny.recipe.read_text())
    defaults = {"tolerance": 0.01, "num_tried": 1, "tried_share": 0.5}
    assert resolved["space"] == {**asked["space"], **defaults}
    assert resolved["subnets"]["latency_window"] == 0.15


def test_summary_has_the_promised_keys(tiny: Any, summary: dict[str, Any]) -> None:
    assert set(summary) >= {"target", "stages", "peak_rss_mib", "predictor", "space", "models", "baselines"}
    assert [stage["name"] for stage in summary["stages"]] == list(STAGES[:-1])
    assert all(set(stage) == {"name", "seconds"} and stage["seconds"] > 0 for stage in summary["stages"])
    assert 100 < summary["peak_rss_mib"] < 4000
    assert set(summary["predictor"]) == {
        "num_fit",
        "num_unseen",
        "within_10_percent",
        "within_5_percent",
        "mape",
        "spearman",
        "reference_ms",
    }
    assert summary["reference_ms"] == summary["predictor"]["reference_ms"] > 0, "the same device all the time"
    assert (summary["predictor"]["num_fit"], summary["predictor"]["num_unseen"]) == (24, 5)
    assert set(summary["space"]) == {"encoding", "qt_score", "num_within_tolerance"}
    assert summary["space"]["encoding"].startswith("tiny-")
    assert summary["space"]["num_within_tolerance"] >= 1
    assert len(summary["models"]) == len(summary["baselines"]) == 2
    assert all(set(model) >= MODEL_KEYS for model in _all_models(summary))
    assert Summary.model_validate(summary).model_dump(mode="json") == summary


def test_numbers_of_the_models_agree_with_each_other(summary: dict[str, Any]) -> None:
    for kind in ("models", "baselines"):
        budgets = [model["budget_ms"] for model in summary[kind]]
        assert budgets == sorted(budgets)
    for model in _all_models(summary):
        assert model["speedup"] == pytest.approx(model["fp32_ms"] / model["int8_ms"])
        verification = model["verification"]
        assert verification["problems"] == verification["float_operators"] == verification["changed_constants"] == []
        assert verification["integer"]["top1"] >= 0.995
        assert verification["integer"]["max_steps"] < 0.01
        assert verification["fake_quantized"]["mean_steps"] < 0.5
        assert abs(model["top1_int8"] - model["top1_fake_quant"]) < 0.05
        assert min(model["macs"], model["params"], model["int8_ms"], model["fp32_ms"], model["predicted_ms"]) > 0
    for model in summary["models"]:
        assert model["predicted_ms"] <= model["budget_ms"]
    for model in summary["baselines"]:  # the hyperspace has no operators like theirs
        assert model["predicted_ms"] == pytest.approx(model["int8_ms"], rel=0.05)


def test_every_model_file_loads_and_computes_in_integers(tiny: Any, summary: dict[str, Any]) -> None:
    for model in _all_models(summary):
        paths = {precision: tiny.folder / model[f"{precision}_file"] for precision in ("int8", "fp32")}
        assert float_operators(paths["int8"]) == ()
        assert float_operators(paths["fp32"]) != (), "the check above can fail"
        resolution = int(model["encoding"].rsplit("_r", 1)[1])
        for path in paths.values():
            session = onnxruntime.InferenceSession(path)
            (logits,) = session.run(
                None, {session.get_inputs()[0].name: np.zeros((1, 3, resolution, resolution), "f4")}
            )
            assert logits.shape == (1, 10)
            assert np.isfinite(logits).all()
            metadata = session.get_modelmeta().custom_metadata_map
            assert metadata["spaceevo.encoding"] == model["encoding"]
            told = json.loads(metadata["preprocessing"])
            assert (told["resize"], told["image_size"], told["layout"]) == (resolution, 24, "NCHW")
            assert model["preprocessing"] == {key: told[key] for key in told if key != "steps"}
            assert json.loads(metadata["class_names"]) == [str(digit) for digit in range(10)]


def test_the_report_is_one_file(tiny: Any, summary: dict[str, Any]) -> None:
    text = (tiny.folder / "report.html").read_text()
    assert summary["space"]["encoding"] in text
    assert 'src="http' not in text


def test_a_second_run_repeats_nothing_and_json_is_all_of_stdout(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    before = _manifests(folder)
    done = tiny.command("run", tiny.recipe, "--out", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tiny.folder / "summary.json").read_text())
    assert done.stderr.count("done before") == len(STAGES)
    assert _manifests(folder) == before


def test_json_of_a_stage_is_its_manifest(tiny: Any, tmp_path: Path, cli: Any) -> None:
    folder = tiny.copy(tmp_path / "run")
    done = cli("subnets", tiny.recipe, "--out", folder, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == json.loads((folder / "subnets" / "stage.json").read_text())
    done = cli("subnets", tiny.recipe, "--out", folder)
    assert str(folder / "subnets" / "subnets.json") in done.stdout


def test_a_changed_key_reruns_its_stage_and_those_after_it_and_back(tiny: Any, tmp_path: Path, cli: Any) -> None:
    folder = tiny.copy(tmp_path / "run")
    before = _manifests(folder)
    content = yaml.safe_load(tiny.recipe.read_text())
    content["export"] = {"min_agreement": 0.9}
    changed = tmp_path / "tiny.yaml"
    changed.write_text(yaml.safe_dump(content))
    assert cli("run", changed, "--out", folder).returncode == 0
    after = _manifests(folder)
    assert [stage for stage in STAGES if after[stage] != before[stage]] == ["export"]  # same files, so same report

    content["subnets"]["num_images"] = 48
    changed.write_text(yaml.safe_dump(content))
    assert cli("run", changed, "--out", folder).returncode == 0
    last = _manifests(folder)
    assert [stage for stage in STAGES if last[stage] != before[stage]] == ["subnets", "finetune", "export", "report"]
    new_summary = (folder / "summary.json").read_text()

    done = cli("run", tiny.recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == len(STAGES)
    assert _manifests(folder) == before
    for name in ("summary.json", "report.html"):
        assert (folder / name).read_bytes() == (tiny.folder / name).read_bytes()
    assert new_summary != (folder / "summary.json").read_text()


def test_an_interrupted_export_goes_on_behind_what_it_had_done(
    tiny: Any, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that a file of the first one that is damaged meanwhile is not taken."""
    folder = tiny.copy(tmp_path / "run")
    (folder / "export" / "stage.json").unlink()
    for path in (folder / "export").glob("results/*"):
        path.unlink()
    done: list[str] = []

    def hand_out(network: Any, runtime: Any, models: Any, name: str, *rest: Any) -> Any:
        if len(done) == 2 and not broken:
            broken.append(name)
            raise KeyboardInterrupt
        done.append(name)
        return original(network, runtime, models, name, *rest)

    broken: list[str] = []
    original = export.hand_out
    monkeypatch.setattr(export, "hand_out", hand_out)
    assert cli("export", tiny.recipe, "--out", folder).returncode == 130
    first, second = done
    damaged = folder / "export" / "models" / f"{second}-fp32.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert cli("export", tiny.recipe, "--out", folder).returncode == 0
    assert done.count(first) == 1
    assert done.count(second) == 2
    assert len(done) == 5
    for name in ("export/models.json", *(f"export/models/{first}-{kind}.onnx" for kind in ("int8", "fp32"))):
        assert (folder / name).read_bytes() == (tiny.folder / name).read_bytes()


def test_files_of_the_user_survive_a_change_of_the_recipe(tiny: Any, tmp_path: Path, cli: Any) -> None:
    folder, recipe = tiny.copy(tmp_path / "run"), tmp_path / "other.yaml"
    mine = [
        folder / name for name in ("notes.txt", "work/models-original/a", "study/thesis.txt", "cache/mine", "mine/x")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("mine")
    content = yaml.safe_load(tiny.recipe.read_text())
    content.setdefault("study", {})["sizes"] = [3]
    recipe.write_text(yaml.safe_dump(content))
    for own in (recipe, tiny.recipe, recipe):
        done = cli("study", own, "--out", folder)
        assert done.returncode == 0, done.stderr
        assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert len(list((folder / "superseded").glob("study-*"))) == 1
