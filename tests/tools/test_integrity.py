"""`spaceevo verify RUN`: each file of a run folder against its digest."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spaceevo.errors import ArtifactError
from spaceevo.tools.integrity import check_folder


@pytest.fixture
def run(tiny: Any, tmp_path: Path) -> Path:
    return tiny.copy(tmp_path / "run")


def _faults(folder: Path) -> dict[str, str]:
    return {one.file: one.state for one in check_folder(folder).faults}


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_finished_run_is_whole_and_every_file_is_known(tiny: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")}
    check = check_folder(tiny.folder)
    assert check.faults == ()
    states = {one.file: one.state for one in check.files}
    assert set(states) == {str(path.relative_to(tiny.folder)) for path in tiny.folder.rglob("*") if path.is_file()}
    assert "unknown" not in states.values()
    unchecked = {name for name, state in states.items() if state == "unchecked"}
    assert {name for name in unchecked if not name.endswith(".lock")} == {
        name for name in states if name.startswith("cache/")
    }
    assert {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")} == before, "nothing is changed"


def test_one_bit_of_any_file_is_noticed(run: Path) -> None:
    checked = [one.file for one in check_folder(run).files if one.state == "whole"]
    kinds = Counter(Path(name).suffix for name in checked)
    assert kinds.keys() >= {".json", ".jsonl", ".yaml", ".html", ".sqlite", ".parquet", ".safetensors", ".onnx"}
    tell = {name for name in checked if name.endswith(("stage.json", "spaceevo.json"))}
    for name in set(checked) - tell:
        _flip(run / name, (run / name).stat().st_size // 3)
    assert _faults(run) == dict.fromkeys(set(checked) - tell, "damaged")
    for name in tell:
        _flip(run / name, (run / name).stat().st_size // 3)
    assert _faults(run).keys() >= tell


@pytest.mark.parametrize(
    "name",
    ["blocks/cells/0-0.json", "subnets/evaluated.jsonl", "measurements.sqlite", "recipe.yaml", "report.html",
     "study/stage.json", "export/models.json", "supernet/inputs.json", "spaceevo.json"],
)  # fmt: skip
def test_damage_and_loss_are_told_by_name(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 2):
        _flip(run / name, place)
        assert _faults(run) == {name: "damaged"}
        (run / name).write_bytes(whole)
    (run / name).write_bytes(whole[: len(whole) // 2])
    assert _faults(run) == {name: "damaged"}
    (run / name).write_bytes(whole)
    assert _faults(run) == {}
    if name not in ("spaceevo.json", "study/stage.json", "recipe.yaml"):
        (run / name).unlink()
        assert _faults(run) == {name: "missing"}


def test_an_unfinished_stage_is_checked_by_what_its_files_carry(run: Path) -> None:
    for stage in ("blocks", "subnets"):
        (run / stage / "stage.json").unlink()
    assert _faults(run) == {}
    notes, cell = run / "subnets" / "evaluated.jsonl", run / "blocks" / "cells" / "0-0.json"
    first, *others = notes.read_text().splitlines()
    notes.write_text("\n".join([first.replace("0.", "0.9", 1), *others]) + "\n")
    cell.write_text(cell.read_text().replace('"nsr_loss": 0.', '"nsr_loss": 0.1', 1))
    assert _faults(run) == {"subnets/evaluated.jsonl": "damaged", "blocks/cells/0-0.json": "damaged"}


def test_measurements_that_are_gone_are_told(run: Path) -> None:
    (run / "measurements.sqlite").write_bytes(b"")
    assert _faults(run) == {"measurements.sqlite": "damaged"}


def test_what_lies_in_the_place_of_a_file_is_told(run: Path) -> None:
    (run / "study" / "stage.json").write_text("")
    (run / "predict" / "budgets.json").unlink()
    (run / "predict" / "budgets.json").mkdir()
    found = {one.file: one.found for one in check_folder(run).faults}
    assert "Invalid JSON" in found["study/stage.json"]
    assert found["predict/budgets.json"] == "it is no file"


def test_stages_that_are_not_finished_are_named(run: Path) -> None:
    assert check_folder(run).unfinished == ()
    shutil.rmtree(run / "predict")
    (run / "report" / "stage.json").unlink()
    assert check_folder(run).unfinished == ("predict", "report")


def test_damaged_files_of_no_stage_are_deleted_and_forgotten(run: Path, tiny: Any, cli: Any) -> None:
    for name in ("measurements.sqlite", "spaceevo.json"):
        (run / name).write_bytes(b"")
        assert name in _faults(run)
        (run / name).unlink()
        assert cli("report", tiny.recipe, "--out", run).returncode == 0
        assert _faults(run) == {}


def test_what_earlier_versions_wrote_is_told_as_unchecked(run: Path) -> None:
    cell, stage, notes = run / "blocks/cells/0-0.json", run / "blocks/stage.json", run / "subnets/evaluated.jsonl"
    content = json.loads(cell.read_text())
    del content["sha256"]
    cell.write_text(json.dumps(content))
    manifest = json.loads(stage.read_text())
    del manifest["sha256"], manifest["kept"]
    stage.write_text(json.dumps(manifest))
    (run / "subnets" / "stage.json").unlink()
    notes.write_text("".join(json.dumps(json.loads(line)[:2]) + "\n" for line in notes.read_text().splitlines()))
    (run / "spaceevo.json").unlink()
    check = check_folder(run)
    assert check.faults == ()
    states = {one.file: one.state for one in check.files}
    for name in ("blocks/cells/0-0.json", "blocks/stage.json", "subnets/evaluated.jsonl", "recipe.yaml"):
        assert states[name] == "unchecked"
    assert states["measurements.sqlite"] == "whole", "its rows carry their own"


def test_files_of_the_user_are_told(run: Path) -> None:
    names = {"notes.txt", "study/mine.csv", "mine/a/b", "export/models/mine.onnx.bak"}
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    check = check_folder(run)
    assert check.faults == ()
    assert {one.file for one in check.files if one.state == "unknown"} == names


def test_superseded_stages_are_checked_too(run: Path) -> None:
    (run / "superseded").mkdir()
    shutil.move(run / "study", run / "superseded" / "study-0123456789abcdef")
    assert _faults(run) == {}
    _flip(run / "superseded" / "study-0123456789abcdef" / "study.json", 5)
    assert _faults(run) == {"superseded/study-0123456789abcdef/study.json": "damaged"}


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    for folder, told in ((tmp_path, "provenance are missing"), (tmp_path / "gone", "There is no such folder")):
        with pytest.raises(ArtifactError, match=told):
            check_folder(folder)


def test_the_verb(run: Path, cli: Any) -> None:
    (run / "notes.txt").write_text("mine")
    done = cli("verify", run, "--files", "--json")
    assert done.returncode == 0, done.stderr
    (folder,) = json.loads(done.stdout)["folders"]
    assert {one["file"] for one in folder["files"] if one["state"] == "unknown"} == {"notes.txt"}
    _flip(run / "supernet" / "supernet-int8.safetensors", 5000)
    done = cli("verify", run)
    assert done.returncode == 1
    assert "damaged supernet/supernet-int8.safetensors: its content has another SHA-256" in done.stdout
    assert "unknown notes.txt" in done.stdout
    assert "Traceback" not in done.stderr
    done = cli("verify", run, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["models"] == []
