"""Parquet files and the hub: what is read, and what each thing that is wrong is called.

The hub is played by a module that answers as `datasets.load_dataset` does and, where that is installed, by itself.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import huggingface

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def _picture(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (10, 12), colour).save(file, "PNG")
    return file.getvalue()


def _table(colours: list[tuple[int, int, int]], labels: list[object], names: tuple[str, ...] = ()) -> pa.Table:
    """Rows as `datasets` writes them."""
    images = pa.array([{"bytes": _picture(colour), "path": None} for colour in colours], STRUCT)
    feature = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    table = pa.table({"image": images, "label": pa.array(labels)})
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


def _save(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for index in range(2):
        _save(root / "data" / f"train-{index:05}-of-00002.parquet", _table([RED, BLUE], [0, 1], ("cat", "dog")))
    _save(root / "data" / "validation-00000-of-00001.parquet", _table([BLUE, RED], [1, 0], ("cat", "dog")))
    return root


def _load(root: Path, **fields: object) -> ImageData:
    return huggingface.load(huggingface.Settings(path=str(root), **fields), 8, root.parent / "cache")


def _error(root: Path, **fields: object) -> DataError:
    with pytest.raises(DataError) as caught:
        _load(root, **fields)
    assert caught.value.found
    assert caught.value.remedy
    return caught.value


def _check(data: ImageData) -> None:
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert data.val_labels.tolist() == [1, 0]
    for image, label in zip(data.train_images, data.train_labels, strict=True):
        assert image[:, 0, 0].tolist() == list((RED, BLUE)[label])
    assert data.val_images[0, :, 0, 0].tolist() == list(BLUE)


def test_names_labels_and_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _load(root)
    assert data.name == "pets"
    _check(data)
    monkeypatch.setattr(huggingface, "decoded", lambda *_: pytest.fail("decoded again"))
    _check(_load(root))


@pytest.mark.parametrize("place", ["val.parquet", "val-0.parquet", "val/0.parquet", "data/val.parquet"])
def test_places_of_a_split_and_a_configuration(root: Path, place: str) -> None:
    for file in list((root / "data").iterdir()):
        _save(root / "small" / "data" / file.name, pq.read_table(file))
        file.unlink()
    _save(root / "small" / place, _table([GREEN, GREEN], [0, 1], ("cat", "dog")))
    data = _load(root, config="small", val="val")
    assert data.val_images[0, :, 0, 0].tolist() == list(GREEN)
    assert "no split" in _error(root).problem


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([1, 0], (), ("0", "1")),
        (["dog", "cat"], (), ("cat", "dog")),
        (["dog", "cat"], ("dog", "cat"), ("dog", "cat")),
    ],
)
def test_labels_are_numbers_or_names(
    root: Path, labels: list[object], names: tuple[str, ...], expected: tuple[str, ...]
):
    for part in ("a", "b"):
        _save(root / f"{part}.parquet", _table([RED, BLUE], labels, names))
    data = _load(root, train="a", val="b")
    assert data.class_names == expected
    assert [data.class_names[label] for label in data.train_labels] == list(map(str, labels))


def test_plain_bytes_paths_and_other_column_names(root: Path) -> None:
    (root / "red.png").write_bytes(_picture(RED))
    paths = pa.array([{"bytes": None, "path": str(root / "red.png")}, {"bytes": _picture(BLUE), "path": "x"}], STRUCT)
    _save(root / "a.parquet", pa.table({"img": paths, "fine": [0, 1]}))
    _save(root / "b.parquet", pa.table({"img": [_picture(GREEN), _picture(BLUE)], "fine": [0, 1]}))
    data = _load(root, train="a", val="b", image="img", label="fine")
    assert [image[:, 0, 0].tolist() for image in data.train_images] == [list(RED), list(BLUE)]
    assert data.val_images[0, :, 0, 0].tolist() == list(GREEN)


def test_reading_in_parts_leaves_no_seam(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "_ROWS", 1)
    _check(_load(root))


def test_wrong_splits_and_columns(root: Path) -> None:
    error = _error(root, val="test")
    assert "'test'" in error.problem
    assert "data/validation-00000-of-00001.parquet" in error.found
    assert "image, label" in _error(root, image="img").found
    assert "`label`" in _error(root, label="class").remedy
    assert "int64" in _error(root, image="label").found


@pytest.mark.parametrize(
    ("labels", "problem", "found"),
    [
        ([0, None], "neither a number nor a name", "None in row 1"),
        ([0.5, 1.5], "neither a number nor a name", "0.5 in row 0"),
        ([0, -1], "none of a class", "-1"),
        ([0, 5], "none of a class", "5"),
        ([1, 1], "lacks some", "class cat"),
    ],
)
def test_bad_labels(root: Path, labels: list[object], problem: str, found: str) -> None:
    _save(root / "bad.parquet", _table([RED, BLUE], labels, ("cat", "dog")))
    error = _error(root, val="bad")
    assert problem in error.problem
    assert found in error.found


def test_unreadable_files_and_images(root: Path) -> None:
    broken = root / "data" / "train-00001-of-00002.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert broken.name in _error(root).found
    at = whole.index(b"IDAT")
    broken.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    error = _error(root)
    assert "images cannot be read" in error.problem or broken.name in error.found
    _save(broken, pa.table({"image": [b"no image", None], "label": [0, 1]}))
    assert "different columns" in _error(root).problem
    _save(root / "other.parquet", pa.table({"image": [b"no image", None], "label": [0, 1]}))
    error = _error(root, train="other")
    assert "2 of 4 images" in error.problem
    assert "row 0 of 'other'" in error.found
    assert "row 1 of 'other'" in error.found


class _Columns:
    """A split as `datasets.Dataset` shows it."""

    def __init__(self, file: Path) -> None:
        self.table = pq.read_table(file)
        self.cache_files = [{"filename": str(file)}]
        self.features = SimpleNamespace(arrow_schema=self.table.schema)

    def select_columns(self, names: list[str]) -> "_Columns":
        self.table = pq.read_table(self.cache_files[0]["filename"]).select(names)
        return self

    def with_format(self, kind: str) -> "_Columns":
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        for start in range(0, len(self.table), batch_size):
            yield self.table.slice(start, batch_size)


def _played(root: Path) -> ModuleType:
    def load_dataset(path: str, name: str | None = None, *, split: str, revision: str | None, keep_in_memory: bool):
        assert not keep_in_memory
        if path != "someone/pets":
            raise FileNotFoundError(f"Dataset {path!r} doesn't exist on the Hub")
        if (name, revision) != (None, None):
            raise ValueError(f"BuilderConfig {name!r} not found. Available: ['default']")
        files = {"train": "both.parquet", "validation": "data/validation-00000-of-00001.parquet"}
        if split not in files:
            raise ValueError(f'Unknown split "{split}".\nShould be one of {list(files)}.')
        return _Columns(root / files[split])

    _save(root / "both.parquet", _table([RED, BLUE] * 2, [0, 1] * 2, ("cat", "dog")))
    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def test_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _played(root))
    monkeypatch.setattr(huggingface, "_ROWS", 3)
    hub = Path("someone/pets")

    def load(**fields: object) -> ImageData:
        return huggingface.load(huggingface.Settings(path=str(hub), **fields), 8, root.parent / "cache")

    _check(load())
    assert load().name == "pets"
    for fields, found in (
        ({"val": "test"}, "Should be one of ['train', 'validation']"),
        ({"config": "large"}, "'large' not found"),
        ({"revision": "v1"}, "not found"),
    ):
        with pytest.raises(DataError, match="cannot be loaded") as caught:
            load(**fields)
        assert found in caught.value.found
        assert "\n" not in caught.value.found
    with pytest.raises(DataError, match="doesn't exist on the Hub"):
        huggingface.load(huggingface.Settings(path="someone/else"), 8, root)


def test_the_hub_without_its_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'spaceevo[huggingface]'" in _error(root / "nowhere").remedy


def test_the_package_reads_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself on a local folder, where it is installed."""
    if not hasattr(pytest.importorskip("datasets"), "load_dataset"):
        pytest.skip("a folder of that name, not the package")
    monkeypatch.setattr(huggingface, "_from_folder", huggingface._from_hub)
    _check(_load(root))
    assert "Should be one of" in _error(root, val="test").found
    _check(_load(root, train="train[:100%]"))
    np.testing.assert_array_equal(_load(root, train="train[2:]", val="train[:2]").val_labels, [0, 1])
