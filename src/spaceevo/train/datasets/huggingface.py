"""Data sets of the Hugging Face hub by name, and their parquet files in a folder.

A folder is read with pyarrow; the hub needs the extra `huggingface` (the package `datasets`), which keeps what it
fetched in a cache of its own. Source of the layout: huggingface.co/docs/datasets, "Structure your repository" and
"Image". The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached, check_classes, decoded, some, version

_ROWS = 256  # read at once


class Settings(BaseModel):
    """Which data set, and what in it is what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        min_length=1, description="Folder with parquet files, or else the name of a data set of the hub (user/name)."
    )
    config: str = Field("", description="Configuration, where the data set has several; of a folder: a folder in it.")
    revision: str = Field("", description="Commit or tag of a data set of the hub; none: the newest.")
    train: str = Field("train", min_length=1, description="Name of the training split.")
    val: str = Field("validation", min_length=1, description="Name of the validation split; often also test.")
    image: str = Field("image", min_length=1, description="Column of the images.")
    label: str = Field("label", min_length=1, description="Column of the labels: numbers or names.")


@dataclass(frozen=True)
class _Split:
    """One split, not yet read.

    Attributes:
        source: Its name, for errors.
        schema: Of all columns.
        version: What changes when the content does.
        batches: Reads one column, some rows at a time.
    """

    source: str
    schema: pa.Schema
    version: object
    batches: Callable[[str], Iterator[pa.Table | pa.RecordBatch]]


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where the data set has not changed.

    Args:
        settings: Which data set.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: It cannot be found, fetched or read, lacks a split or a column, has a label that is missing or
            none of a class, or an image cannot be read.
        NoSpaceError: The cache cannot be written.
    """
    folder = Path(settings.path).expanduser()
    open_split = _from_folder if folder.exists() else _from_hub
    splits = {part: open_split(settings, name) for part, name in (("train", settings.train), ("val", settings.val))}
    for split in splits.values():
        _check_columns(split, settings)
    values = {part: _labels(split, settings.label) for part, split in splits.items()}
    class_names, labels = _numbered(values, _declared_names(splits["train"].schema, settings.label))
    check_classes(labels, class_names, settings.path)
    num_train, num_val = len(labels["train"]), len(labels["val"])
    images_NCHW = cached(
        cache,
        __file__,
        ([split.version for split in splits.values()], settings.model_dump(), image_size),
        (num_train + num_val, 3, image_size, image_size),
        lambda: decoded((image for split in splits.values() for image in _images(split, settings.image)), image_size),
    )
    return ImageData(
        name=folder.name,
        class_names=class_names,
        train_images=images_NCHW[:num_train],
        train_labels=labels["train"],
        val_images=images_NCHW[num_train:],
        val_labels=labels["val"],
    )


def _from_folder(settings: Settings, name: str) -> _Split:
    """A split of a folder: `name.parquet`, `name-*.parquet` or `name/*.parquet`, there or in its folder `data`."""
    root = Path(settings.path).expanduser() / settings.config
    endings = (f"{name}.parquet", f"{name}-*.parquet", f"{name}/*.parquet")
    files = sorted({file for where in ("", "data/") for ending in endings for file in root.glob(where + ending)})
    if not files:
        raise DataError(
            f"The data set has no split {name!r}",
            found=f"{root} holds {some(sorted(str(file.relative_to(root)) for file in root.rglob('*.parquet')))}",
            remedy=f"Name its splits with `train` and `val`; this one would be {' or '.join(endings)}",
        )
    schemas = []
    for file in files:
        with _explained(file):
            schemas.append(pq.read_schema(file))
        if schemas[-1].types != schemas[0].types or schemas[-1].names != schemas[0].names:
            raise DataError(
                "Two files of a split have different columns",
                found=f"{files[0]}: {some(schemas[0].names)}; {file}: {some(schemas[-1].names)}",
                remedy="Keep only the files of one data set there",
            )

    def batches(column: str) -> Iterator[pa.RecordBatch]:
        for file in files:
            with _explained(file), pq.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(_ROWS, columns=[column])

    return _Split(f"{name!r} of {root}", schemas[0], _versions(files), batches)


def _from_hub(settings: Settings, name: str) -> _Split:
    """A split of a data set of the hub, fetched where it is not in the cache of the package."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"There is no folder {settings.path}, and the hub needs the package datasets",
            found=str(error),
            remedy="Correct `path`, or install it: pip install 'spaceevo[huggingface]'",
        ) from error
    try:
        data = load_dataset(
            settings.path,
            settings.config or None,
            split=name,
            revision=settings.revision or None,
            keep_in_memory=False,  # its files on disk tell whether it has changed
        )
    except Exception as error:  # of the network, of the hub and of the data set, without a common class
        raise DataError(
            f"The split {name!r} of {settings.path!r} cannot be loaded",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="Correct `path`, `config`, `train` or `val`; a path of your own must be a folder with parquet files",
        ) from error
    files = [Path(file["filename"]) for file in data.cache_files]

    def batches(column: str) -> Iterator[pa.Table]:
        yield from data.select_columns([column]).with_format("arrow").iter(_ROWS)

    return _Split(f"{name!r} of {settings.path}", data.features.arrow_schema, _versions(files), batches)


def _versions(files: list[Path]) -> list[tuple[str, int, int]]:
    return [(str(file.resolve()), *version(file)) for file in files]


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "A parquet file cannot be read", found=f"{file}: {error}", remedy="Fetch or write it again"
        ) from error


def _check_columns(split: _Split, settings: Settings) -> None:
    for key, column in (("image", settings.image), ("label", settings.label)):
        if column not in split.schema.names:
            raise DataError(
                f"The data set has no column {column!r}",
                found=f"{split.source} has {some(split.schema.names)}",
                remedy=f"Name the column with `{key}`",
            )
    kind = split.schema.field(settings.image).type
    if not (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"The column {settings.image!r} holds no image files",
            found=f"Its type is {kind} in {split.source}",
            remedy="Images are encoded (png, jpg, webp, ...), as bytes or as a struct of bytes and path",
        )


def _labels(split: _Split, column: str) -> list[int] | list[str]:
    values = [value for batch in split.batches(column) for value in batch.column(column).to_pylist()]
    kind = str if any(isinstance(value, str) for value in values) else int
    for row, value in enumerate(values):
        if not isinstance(value, kind):
            raise DataError(
                "A label is neither a number nor a name",
                found=f"{value!r} in row {row} of {split.source}",
                remedy="Name the column of the labels with `label`, and leave out rows without one",
            )
    return values


def _declared_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names of the classes that the schema's metadata declares; none where labels are plain."""
    declared = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = declared.get("info", {}).get("features", {}).get(label, {})
    return tuple(feature.get("names", ()))


def _numbered(
    values: dict[str, list[int] | list[str]], names: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(class names, labels by part); names that are not declared count in alphabetical order."""
    every = {value for part in values.values() for value in part}
    highest = max((value for value in every if isinstance(value, int)), default=-1)
    if not names:
        named = any(isinstance(value, str) for value in every)
        names = tuple(sorted(map(str, every))) if named else tuple(map(str, range(highest + 1)))
    numbers = {name: number for number, name in enumerate(names)}
    return names, {
        part: np.array([numbers.get(value, -1) if isinstance(value, str) else value for value in found], np.int64)
        for part, found in values.items()
    }


def _images(split: _Split, column: str) -> Iterator[tuple[str, Path | bytes]]:
    """(name, file or content) of each image."""
    row = 0
    for batch in split.batches(column):
        for value in batch.column(column).to_pylist():
            content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
            yield f"row {row} of {split.source}", Path(path) if content is None and path else content or b""
            row += 1
