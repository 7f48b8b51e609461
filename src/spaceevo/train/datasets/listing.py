"""Pictures that a table lists: a CSV or TSV file with a path, a label and maybe a split in each row.

What is passed over is counted: rows of other splits, and rows that name a picture again. The contract of a data set is
in `procedural`.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError, nearest
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached, check_classes, decoded, some, version
from spaceevo.train.datasets._listing import Tally
from spaceevo.train.datasets._names import composed, spelled, visible
from spaceevo.train.datasets._splits import held_out

_AGAIN = "rows that name a picture again"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


class Settings(BaseModel):
    """Where the table lies, and which of its columns tell what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(min_length=1, description="The table, a .csv or .tsv file with a head; ~ is the home folder.")
    root: str = Field("", description="Folder that relative paths start at; the table's own without it.")
    path: str = Field("path", min_length=1, description="Column of the pictures' paths.")
    label: str = Field("label", min_length=1, description="Column of the labels: names, or numbers as names.")
    split: str = Field("split", description="Column of the splits; empty where there is none: see `val_share`.")
    train: str = Field("train", description="What the column of splits says of training images.")
    val: str = Field("val", description="What it says of validation images.")
    val_share: float = Field(
        0.2, gt=0, lt=1, description="Without a column of splits: share of each class that is held out for validation."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Draws them; another seed, another split.")


@dataclass(frozen=True)
class _Row:
    """A picture that the table names, and where."""

    file: Path
    label: str
    split: str
    line: int


@dataclass(frozen=True)
class _Listing:
    """Files by split and class, and an account of all else."""

    files: dict[str, dict[str, list[Path]]]
    class_names: tuple[str, ...]
    passed: Tally


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where no file has changed.

    Args:
        settings: Of the table.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: The table cannot be read or lacks a column, a picture has two labels or is in both splits, a class
            is missing in one of them, or an image cannot be read.
        NoSpaceError: The cache cannot be written.
    """
    listing = _listing(settings)
    names, files = listing.class_names, listing.files
    listed = {split: [file for name in names for file in found[name]] for split, found in files.items()}
    every = listed["train"] + listed["val"]
    versions = [(str(file), *version(file)) for file in every]
    pictures = [(str(file), file) for file in every]
    shape = (len(every), 3, image_size, image_size)
    images_NCHW = cached(cache, __file__, (versions, image_size), shape, lambda: decoded(pictures, image_size))
    labels = {
        split: np.repeat(np.arange(len(names), dtype=np.int64), [len(found[name]) for name in names])
        for split, found in files.items()
    }
    num_train = len(listed["train"])
    return ImageData(
        name=_file(settings).stem,
        class_names=names,
        train_images=images_NCHW[:num_train],
        train_labels=labels["train"],
        val_images=images_NCHW[num_train:],
        val_labels=labels["val"],
        passed_over=listing.passed.passed_over(),
    )


def check(settings: Settings) -> list[str]:
    """Read the table without decoding images.

    Returns:
        The class names.

    Raises:
        DataError: As `load`, but for images that cannot be read.
    """
    return list(_listing(settings).class_names)


def count_train(settings: Settings) -> int:
    """How many training images the table names.

    Raises:
        DataError: As `check`.
    """
    return sum(map(len, _listing(settings).files["train"].values()))


def _file(settings: Settings) -> Path:
    return Path(os.path.expanduser(settings.file))


def _listing(settings: Settings) -> _Listing:
    file, passed = _file(settings), Tally()
    known: dict[Path, _Row] = {}
    for row in _rows(file, settings):
        if settings.split and row.split not in (settings.train, settings.val):
            passed.add(f"rows of the split {spelled(row.split)}", f"line {row.line}")
            continue
        before = known.setdefault(row.file, row)
        if before is not row:
            _check_again(before, row, file)
            passed.add(_AGAIN, f"line {row.line}")
    if not known:
        raise DataError(
            f"The table {file} names no picture",
            found=f"Its rows are of other splits than {settings.train!r} and {settings.val!r}"
            if passed.passed_over()
            else "It has no row below its head",
            remedy="Name its splits with `train` and `val`, or hold a share out: `split` '' and `val_share`",
        )
    names = tuple(sorted({row.label for row in known.values()}))
    by_split: dict[str, dict[str, list[Path]]] = {}
    for split, word in (("train", settings.train), ("val", settings.val)):
        found: dict[str, list[Path]] = defaultdict(list)
        for row in known.values():
            if not settings.split or row.split == word:
                found[row.label].append(row.file)
        by_split[split] = {name: sorted(found[name]) for name in names}
    if not settings.split:
        train, val = held_out(by_split["train"], settings.val_share, settings.seed, str(file))
        by_split = {"train": train, "val": val}
    labels = {
        split: np.repeat(np.arange(len(names)), [len(found[name]) for name in names])
        for split, found in by_split.items()
    }
    check_classes(labels, names, str(file))
    return _Listing(by_split, names, passed)


def _rows(file: Path, settings: Settings) -> Iterator[_Row]:
    delimiter = _DELIMITERS.get(file.suffix.lower())
    if delimiter is None:
        raise DataError(
            f"{file} is no table",
            found=f"It ends in {file.suffix!r}" if file.suffix else "It has no ending",
            remedy=f"Give a file that ends in {', '.join(_DELIMITERS)}",
        )
    root = Path(os.path.expanduser(settings.root)) if settings.root else file.parent
    wanted = {"path": settings.path, "label": settings.label, "split": settings.split}
    try:
        with file.open(encoding="utf-8-sig", newline="") as content:
            reader = csv.reader(content, delimiter=delimiter, strict=True)
            head = next(reader, [])
            columns = {what: _column(head, name, what, file) for what, name in wanted.items() if name}
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(head):
                    raise DataError(
                        f"Line {reader.line_num} of {file} has another number of cells than its head",
                        found=f"{len(cells)}, not {len(head)}",
                        remedy="Put cells that hold the delimiter in quotes",
                    )
                row = {what: cells[column].strip() for what, column in columns.items()}
                empty = [wanted[what] for what in ("path", "label") if not row[what]]
                if empty:
                    raise DataError(
                        f"Line {reader.line_num} of {file} has an empty cell",
                        found=f"In the column {some(empty)}",
                        remedy="Fill it, or delete the line",
                    )
                path = Path(os.path.normpath(root / os.path.expanduser(row["path"])))
                yield _Row(path, composed(row["label"]), row.get("split", ""), reader.line_num)
    except OSError as error:
        raise DataError(
            f"The table {file} cannot be read", found=error.strerror or "", remedy="Correct `file`"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "a table of that kind"
        raise DataError(f"The table {file} is not {kind}", found=str(error), remedy="Save it as UTF-8") from error


def _column(head: list[str], name: str, what: str, file: Path) -> int:
    found = [number for number, cell in enumerate(head) if cell.strip() == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{file} has {len(found)} columns {name!r}", remedy="Give each a name of its own")
    close = nearest(name, [cell.strip() for cell in head])
    remedy = f"Name the column with `{what}`" + (f", for example {close!r}" if close else "")
    if what == "split":
        remedy += "; or hold a share of each class out: `split` '' and `val_share`"
    raise DataError(f"{file} has no column {name!r}", found=f"Its head is {some(head)}", remedy=remedy)


def _check_again(before: _Row, row: _Row, file: Path) -> None:
    """Make sure that a picture which is named twice has one label, and is in one split."""
    where = f"{visible(str(row.file))}, lines {before.line} and {row.line} of {file}"
    if before.label != row.label:
        raise DataError(
            "A picture has two labels",
            found=f"{spelled(before.label)} and {spelled(row.label)}: {where}",
            remedy="Delete one of the lines: an image has one label",
        )
    if before.split != row.split:
        raise DataError(
            "A picture is in both splits",
            found=where,
            remedy="Delete one of the lines: accuracies would be those of images that were trained on",
        )
