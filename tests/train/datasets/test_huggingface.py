"""Parquet files and the hub: what is read, and what each thing that is wrong is called.

The hub is played by a module that answers as `datasets.load_dataset` does and, where that is installed, by itself.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations_with_replacement
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, given, settings, strategies as st
from PIL import Image

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import huggingface

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})

#: The labels of two rows, and the names that are declared
Declared = tuple[list[object] | pa.Array, tuple[str, ...]]


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
    assert "without the names" in _error(root).problem
    for part in ("other", "another"):
        _save(root / f"{part}.parquet", pa.table({"image": [b"no image", b""], "label": [0, 1]}))
    error = _error(root, train="other", val="another")
    assert "4 of 4 images" in error.problem
    assert f"row 0 of {root}/other.parquet" in error.found
    assert f"row 1 of {root}/another.parquet" in error.found


def _parts(root: Path, train: list[pa.Table], val: list[pa.Table]) -> Path:
    """A data set of its own, of some files per part."""
    for part, tables in (("train", train), ("validation", val)):
        for number, table in enumerate(tables):
            _save(root / "own" / part / f"{number}.parquet", table)
    return root / "own"


INTEGERS = [pa.int64(), pa.int8(), pa.uint32()]

#: All mean that red is a cat and blue a dog
CAT_DOG: dict[str, Declared] = {
    "numbers": ([0, 1], ("cat", "dog")),
    "the other way round": ([1, 0], ("dog", "cat")),
    "names": (["cat", "dog"], ()),
    "names, declared": (["cat", "dog"], ("dog", "cat")),
    "small numbers": (pa.array([1, 0], pa.int8()), ("dog", "cat")),
    "truth": (pa.array([True, False]), ("dog", "cat")),
    "large text": (pa.array(["cat", "dog"], pa.large_string()), ()),
    "categories": (pa.array(["cat", "dog"]).dictionary_encode(), ()),
}


@pytest.mark.parametrize(("first", "second"), list(combinations_with_replacement(CAT_DOG, 2)))
def test_classes_have_one_number_whatever_files_say(root: Path, first: str, second: str) -> None:
    """The colours tell the truth, within a split as between splits."""
    one, other = (_table([RED, BLUE], *CAT_DOG[key]) for key in (first, second))
    data = _load(_parts(root, [one, other], [other, one]))
    for images, labels in ((data.train_images, data.train_labels), (data.val_images, data.val_labels)):
        named = [
            (tuple(image[:, 0, 0].tolist()), data.class_names[label])
            for image, label in zip(images, labels, strict=True)
        ]
        assert named == [(RED, "cat"), (BLUE, "dog")] * 2
    if not any(CAT_DOG[key][1] for key in (first, second)):
        assert data.class_names == ("cat", "dog"), "in alphabetical order"


@pytest.mark.parametrize(
    ("one", "other", "problem", "found"),
    [
        (([0, 1], ("cat", "dog")), ([0, 1], ("cat", "eel")), "declare other classes", "0.parquet: 'dog'; only"),
        (([0, 1], ("cat", "dog")), ([0, 1], ("cat", "dog", "eel")), "declare other classes", "'eel'"),
        (([0, 1], ("cat", "dog")), ([0, 1], ("cat", "dog ")), "declare other classes", "'dog '"),
        (([0, 1], ("cat", "dog")), ([0, 1], ()), "without the names", "has 0, 1 (int64) and declares no names"),
        (([0, 1], ("1", "0")), ([0, 1], ()), "without the names", "declares '1', '0'"),
        (([0, 1], ("cat", "dog")), (["cat", "eel"], ()), "none of the classes", "'eel' in"),
        (([0, 1], ("cat", "dog")), (["Cat", "dog"], ()), "none of the classes", "'Cat' in"),
        (([0, 1], ()), (["cat", "dog"], ()), "names in one table", "has 'cat', 'dog' (string) and declares no names"),
        (([0, 1], ()), (["00", "1"], ()), "names in one table", "'00'"),
        (([0, 1], ("cat", "cat")), ([0, 1], ("cat", "cat")), "not understood", "same name: 'cat'"),
        ((["cat", "cat "], ()), (["cat", "cat "], ()), "look the same", "they differ in blanks"),
        (([0, 10**15], ()), ([0, 1], ()), "higher than there are images", "1000000000000000"),
        ((pa.array([0, 2**63], pa.uint64()), ()), ([0, 1], ()), "neither a number", "row 1 of"),
        (([0, 1], ("cat", "dog")), ([[0], [1]], ("cat", "dog")), "neither a number", "[0] in row 0"),
        (([0, 1], ("cat", "dog")), ([b"cat", b"dog"], ()), "neither a number", "the column is binary"),
        (([0, 1], ("cat", "dog")), ([{"id": 0}, {"id": 1}], ()), "neither a number", "the column is struct<id: int64>"),
        (([0, 1], ("cat", "dog")), ([0.0, float("nan")], ("cat", "dog")), "neither a number", "the column is double"),
    ],
)
def test_classes_that_cannot_be_compared(root: Path, one: Declared, other: Declared, problem: str, found: str) -> None:
    tables = [_table([RED, BLUE], *about) for about in (one, other)]
    for train, val in ((tables, tables[:1]), (tables[:1], tables[1:]), (tables[1:], tables[:1])):
        error = _error(_parts(root, train, val))
        assert problem in error.problem
        if val != tables[:1] or train == tables:
            assert found in error.found
        shutil.rmtree(root / "own")


def test_accents_are_one_letter_however_they_are_written(root: Path) -> None:
    one, other = (_table([RED, BLUE], [0, 1], names) for names in (("cat", "caf\u00e9"), ("cafe\u0301", "cat")))
    data = _load(_parts(root, [one], [other, _table([RED], ["cafe\u0301"])]))
    assert [data.class_names[label] for label in data.val_labels] == ["caf\u00e9", "cat", "caf\u00e9"]


def test_numbers_as_text_are_numbers(root: Path) -> None:
    one, other = _table([RED, BLUE], [0, 1]), _table([RED, BLUE], ["0", "1"])
    for names in ((), ("0", "1")):
        data = _load(_parts(root, [_table([RED, BLUE], [0, 1], names), other], [other, one]))
        assert data.class_names == ("0", "1")
        assert data.train_labels.tolist() == data.val_labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "metadata",
    ["", "no", "null", "3", "[]", '"x"', "{", "[" * 100_000, '{"info": null}', '{"info": []}',
     '{"info": {"features": null}}',
     '{"info": {"features": [1]}}', '{"info": {"features": {"label": {"names": null}}}}',
     '{"info": {"features": {"label": {"names": "ab"}}}}', '{"info": {"features": {"label": {"names": [0, 1]}}}}',
     '{"info": {"features": {"label": {"names": {"0": "a", "1": "b"}}}}}',
     r'{"info": {"features": {"label": {"names": ["a", "\ud800"]}}}}', b"\xff\xfe"],
)  # fmt: skip
def test_metadata_that_are_not_understood(root: Path, metadata: str | bytes) -> None:
    for part in ("a", "b"):
        _save(root / f"{part}.parquet", _table([RED, BLUE], [0, 1]).replace_schema_metadata({"huggingface": metadata}))
    error = _error(root, train="a", val="b")
    assert "not understood" in error.problem
    assert f"{root}/a.parquet" in error.found


@pytest.mark.parametrize(
    "metadata",
    ["{}", '{"info": {}}', '{"info": {"features": {"label": null}}}', '{"info": {"features": {"label": [{}]}}}'],
)
def test_metadata_that_declare_nothing(root: Path, metadata: str) -> None:
    for part in ("a", "b"):
        _save(root / f"{part}.parquet", _table([RED, BLUE], [0, 1]).replace_schema_metadata({"huggingface": metadata}))
    assert _load(root, train="a", val="b").class_names == ("0", "1")


def test_rows_that_name_files(root: Path) -> None:
    """Inside of the data set they are read, and read again once they change; outside of it they are refused."""
    own = root / "own"
    _save(own / "pictures" / "x.parquet", _table([RED], [0]))  # makes the folder
    for name, colour in (("red", RED), ("blue", BLUE)):
        (own / "pictures" / f"{name}.png").write_bytes(_picture(colour))
        (root / f"{name}.png").write_bytes(_picture(colour))

    def load(*paths: str | None, label: str = "label", contents: tuple[bytes | None, ...] = (None, None)) -> ImageData:
        images = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
        for part in ("train", "validation"):
            kept = (
                images if part == "train" else [{"bytes": _picture(c), "path": "pictures/red.png"} for c in (RED, BLUE)]
            )
            _save(own / "data" / f"{part}.parquet", pa.table({"image": pa.array(kept, STRUCT), "label": [0, 1]}))
        return _load(own)

    inside = ("pictures/red.png", str(own / "pictures" / ".." / "pictures" / "blue.png"))
    data = load(*inside)
    assert [image[:, 0, 0].tolist() for image in data.train_images] == [list(RED), list(BLUE)]
    assert [image[:, 0, 0].tolist() for image in data.val_images] == [list(RED), list(BLUE)], "content before path"
    (own / "pictures" / "red.png").write_bytes(_picture(GREEN) + b" ")
    assert _load(own).train_images[0, :, 0, 0].tolist() == list(GREEN), "not from the cache"

    (own / "link.png").symlink_to(root / "red.png")
    (own / "folder").symlink_to(root)
    os.mkfifo(own / "pipe.png")
    for path, problem in (
        (str(root / "red.png"), "outside"),
        ("../red.png", "outside"),
        ("pictures/../../red.png", "outside"),
        ("link.png", "outside"),
        ("folder/red.png", "outside"),
        ("/dev/zero", "outside"),
        ("red\0.png", "outside"),
        ("pipe.png", "not there"),
        ("pictures", "not there"),
        ("pictures/no.png", "not there"),
        ("https://x.org/a.png", "not there"),
        (None, "has no image"),
        ("", "has no image"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            load(inside[0], path)
        assert f"row 1 of {own}/data/train.parquet" in caught.value.found
        assert (path or "row 1") in caught.value.found


def test_image_columns_that_hold_none(root: Path) -> None:
    for images in (
        pa.array(["a.png", "b.png"]),
        pa.array([[1, 2], [3]]),
        pa.array([{"x": b"1"}, {"x": b"2"}]),
        pa.array([{"bytes": [1], "path": "a"}, {"bytes": [2], "path": "b"}]),
        pa.nulls(2),
    ):
        for part in ("a", "b"):
            _save(root / f"{part}.parquet", pa.table({"image": images, "label": [0, 1]}))
        error = _error(root, train="a", val="b")
        assert str(images.type).replace("<item", "<element") in error.found
        assert f"{root}/a.parquet" in error.found
    _save(root / "a.parquet", pa.table({"image": pa.array([_picture(RED), None]), "label": [0, 1]}))
    _save(root / "b.parquet", pa.table({"image": pa.array([_picture(RED)] * 2, pa.large_binary()), "label": [0, 1]}))
    assert f"row 1 of {root}/a.parquet" in _error(root, train="a", val="b").found
    _save(root / "a.parquet", pa.table({"image": [_picture(RED)] * 2, "label": [0, 1]}))
    assert _load(root, train="a", val="b").val_labels.tolist() == [0, 1]
    twice = pa.table([pa.array([_picture(RED)]), pa.array([0]), pa.array([1])], names=["image", "label", "label"])
    _save(root / "a.parquet", twice)
    assert "two columns 'label'" in _error(root, train="a", val="b").problem


def test_text_that_is_none(root: Path) -> None:
    """Parquet files of others may hold bytes that are no UTF-8 as text."""
    labels = pa.array([b"\xff", b"b"]).view(pa.string())
    for part in ("a", "b"):
        _save(root / f"{part}.parquet", pa.table({"image": [_picture(RED)] * 2, "label": labels}))
    assert f"{root}/a.parquet" in _error(root, train="a", val="b").found


def _told(data: ImageData) -> list[tuple[str, int, str]]:
    return [(told.reason, told.count, Path(told.example).name) for told in data.passed_over]


def test_shards_that_are_missing_or_too_many(root: Path) -> None:
    data = root / "data"
    table = _table([RED, BLUE], [0, 1], ("cat", "dog"))
    (data / "train-00001-of-00002.parquet").rename(data / "t")
    assert "train-00001-of-00002.parquet is not among" in _error(root).found
    (data / "t").rename(data / "train-00001-of-00002.parquet")
    _save(data / "train-00000-of-00001.parquet", table)
    assert "two sets" in _error(root).problem
    (data / "train-00000-of-00001.parquet").unlink()
    for place in ("train.parquet", "data/train.parquet", "train/0.parquet"):
        _save(root / place, table)
        error = _error(root)
        assert "more than once" in error.problem
        assert str(root / place) in error.found
        (root / place).unlink()
    assert "in both" in _error(root, val="train").found
    for name in ("x-0.parquet", "x-3.parquet", "test.parquet", "X.PARQUET", "x/more/a.parquet"):
        _save(root / name, table)
    (root / "x-link.parquet").symlink_to(root / "x-0.parquet")
    loaded = _load(root, train="x")
    assert len(loaded.train_labels) == 4
    assert _told(loaded) == [
        ("parquet files of neither split", 5, "X.PARQUET"),
        ("shards that are missing between two others", 2, "x-1.parquet"),
        ("shards that are another one under a second name", 1, "x-link.parquet"),
    ]


def test_files_without_a_row_and_with_other_columns(root: Path) -> None:
    table = _table([RED, BLUE], [0, 1], ("cat", "dog"))
    empty = pa.table({"image": pa.nulls(0), "label": pa.nulls(0)})
    more = table.append_column("width", pa.array([1, 2])).select(["width", "label", "image"])
    data = _load(_parts(root, [empty, table, more], [table]))
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert _told(data) == [("tables without a row", 1, "0.parquet")]
    _save(root / "own" / "validation" / "0.parquet", table.slice(0, 0))
    assert "'validation' has no rows" in _error(root / "own").problem
    _save(root / "own" / "validation" / "0.parquet", table.drop_columns(["label"]))
    assert "own/validation/0.parquet has image" in _error(root / "own").found


def test_what_is_no_parquet_folder(root: Path) -> None:
    own = root / "own"
    own.mkdir()
    for name in (
        "a/data-00000-of-00001.arrow",
        "b/train/data-00000-of-00001.arrow",
        "b/dataset_dict.json",
        "c/train.csv",
    ):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(b"x")
    error = _error(own / "a")
    assert "save_to_disk" in error.problem
    assert f"datasets.load_from_disk('{own}/a').to_parquet('{own}/a/train.parquet')" in error.remedy
    assert (
        f"datasets.load_from_disk('{own}/b')['train'].to_parquet('{own}/b/train.parquet')" in _error(own / "b").remedy
    )
    assert "1 .csv" in _error(own / "c").found
    assert "Only parquet" in _error(own / "c").remedy
    assert "no folder" in _error(own / "c" / "train.csv").problem
    assert "c/small is not there" in _error(own / "c", config="small").found
    assert "hub only" in _error(root, train="train[:90%]").remedy
    for path in (own / "nowhere", "~nobody/x", "a/b/c", "x" * 5000 + "/y/z"):
        assert "folder of the data set is missing" in _error(Path(path)).problem
    os.mkfifo(root / "p.parquet")
    (root / "d.parquet").mkdir()
    assert "p.parquet is no regular file" in _error(root, train="p").found
    assert "d.parquet is a folder" in _error(root, train="d").found


def test_names_of_splits_are_letters(root: Path) -> None:
    table = _table([RED, BLUE], [0, 1], ("cat", "dog"))
    for name in ("[v2]", "a*"):
        _save(root / f"{name}-0.parquet", table)
        assert len(_load(root, train=name).train_labels) == 2
    assert "no split" in _error(root, train="trai?").problem
    assert "no split" in _error(root, train="/nowhere").problem


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_tables_are_read_right_or_refused(data: st.DataObject) -> None:
    """Whatever is declared, in whatever order: the names of labels are those that were meant, and counts are told."""
    draw, names = data.draw, ("cat", "dog", "eel")
    colours = dict(zip(names, (RED, BLUE, GREEN), strict=True))
    usual = draw(st.sampled_from(["plain", "named"]))
    num_rows, num_empty, used, is_damaged = {"train": 0, "validation": 0}, 0, set(), False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        for part, number in [("train", 0), ("train", 1), ("validation", 0), ("validation", 1)]:
            meant = draw(st.permutations(names)) * draw(st.sampled_from([0, 1, 1, 1, 2]))
            written = draw(st.sampled_from([usual] * 9 + ["plain", "damaged"]))
            labels, declared = pa.array([names.index(name) for name in meant], draw(st.sampled_from(INTEGERS))), ()
            if written == "named":
                declared = draw(st.one_of(st.just(()), st.permutations(names).map(tuple)))
                by_name = not declared or draw(st.booleans())
                labels = pa.array(meant if by_name else [declared.index(name) for name in meant])
            table = _table([colours[name] for name in meant], labels if meant else pa.nulls(0), declared)
            if written == "damaged":
                table = table.replace_schema_metadata({"huggingface": draw(st.binary(max_size=9)) + b"{"})
            _save(root / f"{part}-{number}.parquet", table)
            num_rows[part] += len(meant)
            num_empty += not meant
            used |= {written} if meant else set()
            is_damaged |= written == "damaged"
        read = None
        with suppress(DataError):
            read = _load(root)
        event(f"read: {read is not None}")
        assert (read is None) == (is_damaged or len(used) > 1 or 0 in num_rows.values())
        if read is None:
            return
        assert (len(read.train_labels), len(read.val_labels)) == tuple(num_rows.values())
        assert sum(told.count for told in read.passed_over) == num_empty
        truth = {colour: name if usual == "named" else str(names.index(name)) for name, colour in colours.items()}
        for images, labels in ((read.train_images, read.train_labels), (read.val_images, read.val_labels)):
            for image, label in zip(images, labels, strict=True):
                assert read.class_names[label] == truth[tuple(image[:, 0, 0].tolist())]


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
    module.config = SimpleNamespace(HF_CACHE_HOME=str(root / "kept"))  # type: ignore[attr-defined]
    return module


def test_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _played(root))
    monkeypatch.setattr(huggingface, "_ROWS", 3)
    hub = Path("someone/pets")

    def load(**fields: object) -> ImageData:
        return huggingface.load(huggingface.Settings(path=str(hub), **fields), 8, root.parent / "cache")

    _check(load())
    assert load().name == "pets"
    _save(root / "data" / "validation-00000-of-00001.parquet", _table([BLUE, RED], [0, 1], ("dog", "cat")))
    _check(load())  # each split with its own features
    for parts in ({"val": "train"}, {"train": "train[:9%]", "val": "train"}, {"val": "train[:9%]"}):
        with pytest.raises(DataError, match="in common"):
            load(**parts)
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
    with pytest.raises(DataError) as caught:
        huggingface.load(huggingface.Settings(path="someone/pets"), 8, root)
    assert "pip install 'spaceevo[huggingface]'" in caught.value.remedy


def test_the_package_reads_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself on a local folder, where it is installed."""
    if not hasattr(pytest.importorskip("datasets"), "load_dataset"):
        pytest.skip("a folder of that name, not the package")
    monkeypatch.setattr(huggingface, "_from_folder", huggingface._from_hub)
    _check(_load(root))
    assert "Should be one of" in _error(root, val="test").found
    _check(_load(root, train="train[:100%]"))
    np.testing.assert_array_equal(_load(root, train="train[2:]", val="train[:2]").val_labels, [0, 1])
