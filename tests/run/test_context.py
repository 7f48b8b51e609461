"""The data of a run: told once, and known by what they hold, not by where they lie."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spaceevo.artifacts import RunFolder, content_hash
from spaceevo.config import Recipe, StudySettings
from spaceevo.errors import DataError
from spaceevo.progress import Shown
from spaceevo.run.context import Context
from spaceevo.run.run import Run
from spaceevo.run.stage import all_stages

COUNTS = {"train": {"cat": 4, "dog": 1}, "val": {"cat": 1, "dog": 1}}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures, each of its own grey, in the current folder."""
    monkeypatch.chdir(tmp_path)
    grey = 0
    for split, counts in COUNTS.items():
        for name, count in counts.items():
            Path("photos", split, name).mkdir(parents=True)
            for number in range(count):
                grey += 20
                Image.new("L", (20, 20), grey).save(Path("photos", split, name, f"{number}.png"))
    Path("photos", "train", "cat", "notes.txt").touch()
    return tmp_path / "photos"


def _context(path: object, say: Any = print, **data: object) -> Context:
    content = {"name": "folder", "image_size": 16, "options": {"path": str(path)}, **data}
    recipe = Recipe.model_validate({"data": content, "target": {"name": "onnxruntime@fake"}})
    return Context(recipe, RunFolder(Path("run")), say=say)


def _inputs(context: Context) -> dict[str, str]:
    return {stage.name: content_hash(stage.inputs(context, Path("none"))) for stage in all_stages()}


def test_the_spelling_of_a_path_sets_no_stage_aside(photos: Path) -> None:
    first = _inputs(_context("photos"))
    for path in ("./photos", "photos/", photos, f"{photos}/../photos"):
        assert _inputs(_context(path)) == first, path
    moved = _inputs(_context(photos.rename("animals")))
    assert {name for name in first if moved[name] != first[name]} == {"report"}, "which has its name"


def test_what_is_in_the_pictures_counts(photos: Path) -> None:
    first = _context(photos).data_hash
    assert _context(photos, search_share=0.3).data_hash != first
    assert _context(photos, flip=False).data_hash != first
    (photos / "train" / "cat" / "0.png").rename(photos / "train" / "dog" / "1.png")
    relabelled = _context(photos).data_hash
    assert relabelled != first
    Image.new("L", (20, 20), 255).save(photos / "val" / "dog" / "0.png")
    assert _context(photos).data_hash not in (first, relabelled)


def test_data_that_are_made_keep_the_hash_of_earlier_versions(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"data": {"name": "digits", "image_size": 16, "options": {"val_share": 0.5}}})
    context = Context(recipe, RunFolder(tmp_path))
    data = context.data
    digest = hashlib.sha256(repr(data.class_names).encode())
    for array in (data.train_images, data.train_labels, data.val_images, data.val_labels):
        digest.update(np.ascontiguousarray(array).data)
    assert context.data_hash == content_hash([digest.hexdigest(), recipe.data.model_dump()])


LINE = (
    "Data photos: 5 training images of 2 classes, 2 validation images of 2 classes; "
    "passed over: 1 of files with the ending .txt (train/cat/notes.txt)."
)


def test_the_data_are_told_once(photos: Path) -> None:
    told: list[str] = []
    context = _context(photos, told.append)
    assert context.data is context.data
    assert told == [LINE]


def test_a_run_tells_its_data_and_what_the_search_does_not_see(photos: Path) -> None:
    console = Console(file=io.StringIO(), width=60)
    moved = photos.rename(photos.with_name("[red]photos"))
    study = StudySettings(widths=(8,), sizes=(4,), conv_widths=(8,))
    recipe = _context(moved).recipe.model_copy(update={"study": study})
    Run(recipe, Path("run"), Shown(console)).until("study")
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert text.count(LINE.replace("photos", "[red]photos")) == 1
    assert len([line for line in text if line.startswith("The subnet search sees no image of dog: ")]) == 1
    for number in range(1, 4):
        (moved / "train" / "cat" / f"{number}.png").unlink()
    with pytest.raises(DataError, match="No image can be held out"):
        Run(recipe, Path("run"), Shown(console)).until("study")
