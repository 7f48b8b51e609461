"""Pictures that a CSV or TSV file lists."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaceevo.errors import DataError
from spaceevo.train.datasets import listing, told

ROWS = [
    ("a/0.png", "cat", "train"), ("a/1.png", "dog", "train"), ("a/2.png", "cat", "train"),
    ("b/3.png", "cat", "val"), ("b/4.png", "dog", "val"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for number, (path, _, _) in enumerate(ROWS):
        Image.new("RGB", (9, 7), (10 + number, 0, 0)).save(tmp_path / path)
    return tmp_path


def write(folder: Path, rows=ROWS, head="path,label,split", name="list.csv", delimiter=",") -> str:
    text = "\n".join([head.replace(",", delimiter), *(delimiter.join(row) for row in rows)])
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def load(folder: Path, file: str, **options: object):
    return listing.load(listing.Settings(file=file, **options), 8, folder / "cache")


def test_rows_become_pictures(folder) -> None:
    data = load(folder, write(folder))
    assert data.name == "list"
    assert data.class_names == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [10, 12, 11]
    assert data.val_images[:, 0, 0, 0].tolist() == [13, 14]
    assert told(data).endswith("nothing passed over.")


def test_tabs_other_columns_and_another_root(folder, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("table")
    rows = [(label, "x", path, {"train": "0", "val": "1"}[split]) for path, label, split in ROWS]
    file = write(elsewhere, rows, "kind,note,file,fold", "t.tsv", "\t")
    data = load(elsewhere, file, root=str(folder), path="file", label="kind", split="fold", train="0", val="1")
    assert data.train_images[:, 0, 0, 0].tolist() == [10, 12, 11]


def test_a_mark_quotes_and_blank_lines_are_read(folder) -> None:
    path = folder / "list.csv"
    rows = [f'"{path}","{label}",{split}' for path, label, split in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["path,label,split", *rows, "", ",,"]).encode())
    assert load(folder, str(path)).class_names == ("cat", "dog")


def test_without_splits_a_share_is_held_out(folder) -> None:
    rows = [(path, label) for path, label, _ in ROWS]
    file = write(folder, rows, "path,label")
    data = load(folder, file, split="", val_share=0.4)
    assert sorted([*data.train_images[:, 0, 0, 0], *data.val_images[:, 0, 0, 0]]) == [10, 11, 12, 13, 14]
    assert np.unique(data.val_labels).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"no column 'split'.*Its head is path, label.*`split` '' and `val_share`"):
        load(folder, file)


def test_other_rows_are_passed_over_and_counted(folder) -> None:
    file = write(folder, [*ROWS, ("b/9.png", "cat", "test"), ("./a/0.png", "cat", "train")])
    assert "1 of rows of the split 'test' (line 7)" in told(load(folder, file))
    assert "1 of rows that name a picture again (line 8)" in told(load(folder, file))


def test_check_reads_no_picture(folder) -> None:
    file = write(folder)
    (folder / "a" / "0.png").write_text("no picture")
    assert listing.check(listing.Settings(file=file)) == ["cat", "dog"]
    with pytest.raises(DataError, match="1 of 5 images cannot be read"):
        load(folder, file)


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ([*ROWS, ("a/0.png", "dog", "train")], "path,label,split", r"two labels.*'cat' and 'dog'.*lines 2 and 7"),
        ([*ROWS, ("a/0.png", "cat", "val")], "path,label,split", r"in both splits.*lines 2 and 7"),
        ([*ROWS, ("a/0.png", "", "val")], "path,label,split", r"Line 7 of .* has an empty cell.*label"),
        ([*ROWS, ("a/0.png", "val")], "path,label,split", r"Line 7 of .* another number of cells.*2, not 3"),
        (ROWS, "Path,label,split", r"no column 'path'.*for example 'Path'"),
        (ROWS, "path,label,label", r"2 columns 'label'"),
        (ROWS[:3], "path,label,split", r"'val' lacks some.*cat, dog"),
        ([], "path,label,split", r"names no picture.*no row below its head"),
        ([("a/0.png", "cat", "t")], "path,label,split", r"names no picture.*of other splits than 'train' and 'val'"),
        ([(path, "cat", split) for path, _, split in ROWS], "path,label,split", r"only one class"),
    ],
)
def test_what_is_wrong_is_told(folder, rows, head, message) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        load(folder, write(folder, rows, head))


def test_what_is_no_table(folder) -> None:
    with pytest.raises(DataError, match=r"is no table.*'\.txt'.*\.csv, \.tsv"):
        load(folder, write(folder, name="list.txt"))
    with pytest.raises(DataError, match=r"cannot be read"):
        load(folder, str(folder / "absent.csv"))
    (folder / "latin.csv").write_bytes("path,label,split\na/0.png,caf\xe9,train".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        load(folder, str(folder / "latin.csv"))


def test_a_label_composed_and_decomposed_is_one(folder) -> None:
    rows = [(path, "caf\u00e9" if number % 2 else "cafe\u0301", split) if label == "cat" else (path, label, split)
            for number, (path, label, split) in enumerate(ROWS)]  # fmt: skip
    assert load(folder, write(folder, rows)).class_names == ("caf\u00e9", "dog")
