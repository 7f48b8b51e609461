"""Nothing of the user's is deleted, moved or overwritten; folders of earlier versions stay usable."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
import yaml

from spaceevo.errors import ArtifactError, NoSpaceError, StorageError
from spaceevo.ownership import GENERATOR, MARKER, claim_folder, kind_of, output_file, read_marker

RECIPE = yaml.safe_dump({"name": "a", "hyperspace": "micro", "target": {}, "data": {}, "seed": 0})
PROVENANCE = json.dumps({"versions": {}, "target": {}, "seed": 0})
STORE = b"SQLite format 3\0".ljust(68, b"\0") + b"SPEV"


def fill(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- folders


def test_a_lock_that_is_a_link_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path.parent / "file-of-the-user")
    with pytest.raises(ArtifactError, match="is not empty"):
        claim_folder(tmp_path, "run")
    assert os.listdir(tmp_path) == [".lock"]


def test_a_new_folder_becomes_ours_and_stays_so(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert claim_folder(folder, "run") == folder
    assert os.listdir(folder) == [MARKER]
    fill(folder, {"notes.txt": "mine"})
    before = state(folder)
    claim_folder(folder, "run")
    assert state(folder) == before


@pytest.mark.parametrize("files", [{}, {".DS_Store": "x"}, {f".{MARKER}.123.tmp": "ha"}])
def test_an_empty_folder_may_be_taken(tmp_path: Path, files: dict[str, str | bytes]) -> None:
    fill(tmp_path, files)
    claim_folder(tmp_path, "cells")
    assert kind_of(tmp_path) == "cells"


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "years"},
        {".hidden": "x"},
        {"work/a": "x", "recipe.yaml": RECIPE},  # a project with a recipe of its own
        {"work/a": "x", "recipe.yaml": "soup: leek", "provenance.json": PROVENANCE},
        {"recipe.yaml": RECIPE, "provenance.json": '{"painting": "Vermeer"}'},
        {MARKER: '{"format": "mine"}', "a": "x"},
        {".lock": "yarn", "cache": "x"},
        {".lock": "123", "thesis.txt": "x"},
        {"cache/mine.npy": "x"},
        {"measurements.sqlite": b"SQLite format 3\0".ljust(80, b"\0")},
        {"distillation.json": '{"whisky": 1}'},
    ],
)
@pytest.mark.parametrize("kind", ["run", "quantize", "target", "cells"])
def test_a_folder_of_the_user_is_refused_and_not_touched(
    tmp_path: Path, files: dict[str, str | bytes], kind: str
) -> None:
    fill(tmp_path, files)
    before = state(tmp_path), tmp_path.stat().st_mtime_ns
    with pytest.raises(ArtifactError, match=r"is not empty, and not .*Nothing was touched.* with `there`") as caught:
        claim_folder(tmp_path, kind, "there")  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path))[0] in str(caught.value)
    assert (state(tmp_path), tmp_path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"recipe.yaml": RECIPE, "provenance.json": PROVENANCE, ".lock": "12", "study/stage.json": "{}"}, "run"),
        ({"recipe.yaml": RECIPE, "provenance.json": PROVENANCE, "quantize.json": "{}"}, "quantize"),
        ({"measurements.sqlite": STORE, ".lock": "12"}, "target"),
        (
            {"distillation.json": '{"hyperspace_hash": "", "data_hash": "", "w_qmax": 127}', "cells/0-0.json": ""},
            "cells",
        ),
        ({".lock": "4711"}, ""),
        ({".lock": "", "cache/folder-0123456789abcdef.npy": "x"}, ""),
        ({"cache/folder-0123456789abcdef.npy": "x"}, ""),  # of `plan`
    ],
)
def test_what_earlier_versions_left_is_gone_on_with(tmp_path: Path, files: dict[str, str | bytes], kind: str) -> None:
    fill(tmp_path, files)
    assert kind_of(tmp_path) == kind
    claim_folder(tmp_path, kind or "run")  # type: ignore[arg-type]
    marker = read_marker(tmp_path)
    assert marker is not None
    assert marker.kind == (kind or "run")
    assert {name: content for name, content in state(tmp_path).items() if name != MARKER} == {
        name: content.encode() if isinstance(content, str) else content for name, content in files.items()
    }


@pytest.mark.parametrize(("first", "then"), [("run", "quantize"), ("quantize", "run"), ("cells", "run")])
def test_a_folder_of_another_purpose_is_refused(tmp_path: Path, first: str, then: str) -> None:
    claim_folder(tmp_path, first)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="Choose another folder"):
        claim_folder(tmp_path, then)  # type: ignore[arg-type]
    claim_folder(tmp_path, "target")
    assert kind_of(tmp_path) == first


def test_a_run_whose_marker_is_damaged_is_still_a_run(tmp_path: Path) -> None:
    fill(tmp_path, {"recipe.yaml": RECIPE, "provenance.json": PROVENANCE})
    claim_folder(tmp_path, "run")
    (tmp_path / MARKER).write_text((tmp_path / MARKER).read_text().replace("run", "ran"))
    assert kind_of(claim_folder(tmp_path, "run")) == "run"


def test_places_that_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"file": "mine", "real/a": "mine"})
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ArtifactError, match="file is no folder"):
        claim_folder(tmp_path / "file", "run")
    with pytest.raises(NoSpaceError, match="Not a directory"):
        claim_folder(tmp_path / "file" / "run", "run")
    with pytest.raises(ArtifactError, match="gone, which is not there"):
        claim_folder(tmp_path / "dangling", "run")
    with pytest.raises(ArtifactError, match="link is not empty"):
        claim_folder(tmp_path / "link", "run")
    with pytest.raises(ArtifactError, match="/ is not empty"):
        claim_folder(Path("/"), "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ArtifactError, match=f"{tmp_path} is not empty"):
        claim_folder(Path("~"), "run")
    assert claim_folder(Path("~/runs/my"), "run") == tmp_path / "runs" / "my"
    if Path("/proc/self").exists():
        with pytest.raises(NoSpaceError, match="/proc/nowhere"):
            claim_folder(Path("/proc/nowhere"), "run")


# --- files


def test_a_file_of_the_user_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "precious.csv"
    path.write_text("name,value\n")
    with pytest.raises(ArtifactError, match=r"precious\.csv exists already, and spaceevo did not write it.*`force`"):
        output_file(path)
    assert output_file(path, force=True) == path
    assert output_file(path, is_ours=lambda file: file.read_text().startswith("name")) == path
    assert path.read_text() == "name,value\n"


def test_what_spaceevo_wrote_is_replaced(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from spaceevo.train.checkpoints import save_tensors

    save_tensors(tmp_path / "net", {"a": torch.zeros(3)}, {})
    pq.write_table(pa.table({"spaceevo": ["1"]}), tmp_path / "measured")
    pq.write_table(pa.table({"nsr_loss": [1.0]}), tmp_path / "table")
    fill(tmp_path, {"p": "network,latency_ms,num_outside\r\na,1,0\r\n", "page": f"<head>{GENERATOR}", "empty": ""})
    for name in ("net", "measured", "table", "p", "page", "empty"):
        assert output_file(tmp_path / name) == tmp_path / name
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "mine")
    pq.write_table(pa.table({"a": ["spaceevo"[:5]]}), tmp_path / "other")
    fill(tmp_path, {"q": "network,latency_ms,num_outside,mine\n", "short": "x", "long": "spaceevo " * 10})
    for name in ("mine", "other", "q", "short", "long"):
        with pytest.raises(ArtifactError, match="did not write it"):
            output_file(tmp_path / name)


def test_a_place_for_a_file_is_checked_before_the_work(tmp_path: Path) -> None:
    assert output_file(tmp_path / "a" / "b" / "c.csv") == tmp_path / "a" / "b" / "c.csv"
    assert os.listdir(tmp_path) == []
    with pytest.raises(ArtifactError, match="is a folder"):
        output_file(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NoSpaceError, match="Not a directory"):
        output_file(tmp_path / "file" / "p.csv")
    if Path("/proc/self").exists():
        with pytest.raises(NoSpaceError, match="cannot be written"):
            output_file(Path("/proc/nowhere.csv"))
    assert output_file(Path("/dev/null")) == Path("/dev/null")
    with pytest.raises(StorageError):
        output_file(Path("/dev/null/p.csv"))


def test_a_store_of_another_program_is_no_folder_of_a_target(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "measurements.sqlite") as connection:
        connection.execute("CREATE TABLE mine (a)")
    with pytest.raises(ArtifactError, match="not empty"):
        claim_folder(tmp_path, "target")
