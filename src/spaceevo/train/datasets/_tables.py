"""Tables with a column of images and one of labels: what they declare, and one numbering of the classes of several."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spaceevo.errors import DataError
from spaceevo.train.datasets import some
from spaceevo.train.datasets._names import composed, is_text, spelled

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


@dataclass(frozen=True)
class Labels:
    """The labels of a table.

    Attributes:
        source: The table, for errors.
        type: Of the column, for errors.
        names: Of the classes, by number, as the table declares them; none where it does not.
        values: Numbers, or names.
    """

    source: str
    type: str
    names: tuple[str, ...]
    values: list[int] | list[str]

    def __str__(self) -> str:
        if self.names:
            return f"{self.source} declares {some(map(spelled, self.names))}"
        return f"{self.source} has {some(map(repr, dict.fromkeys(self.values)))} ({self.type}) and declares no names"


@dataclass(frozen=True)
class Table:
    """A parquet file, or a split of the hub, not yet read.

    Attributes:
        source: Its name, for errors.
        schema: Names and types of all columns.
        version: What changes when the content does.
        folders: Images that are files lie in them; a relative path starts at the first.
        batches: Reads one column, or one field of it, some rows at a time.
    """

    source: str
    schema: pa.Schema
    version: object
    folders: tuple[Path, ...]
    batches: Callable[..., Iterator[pa.Table | pa.RecordBatch]]

    def check_column(self, column: str, key: str) -> None:
        """Make sure that it is there, once; `key` names it in the recipe.

        Raises:
            DataError: It is not.
        """
        if self.schema.names.count(column) != 1:
            raise DataError(
                f"The data set has {'two columns' if column in self.schema.names else 'no column'} {column!r}",
                found=f"{self.source} has {some(self.schema.names)}",
                remedy=f"Name the column with `{key}`; all files of a data set have it, each once",
            )

    def values(self, column: str, field: str = "") -> Iterator[Any]:
        """Read one column, or one field of it, row by row.

        Raises:
            DataError: It is damaged.
        """
        with explained(self.source):
            for batch in self.batches(column, field):
                array = batch.column(column)
                yield from (pc.struct_field(array, field) if field else array).to_pylist()

    def labels(self, column: str) -> Labels:
        """Read the labels.

        Raises:
            DataError: The column is not there or damaged, a value is no number or name, or the declared names are no
                list of distinct names.
        """
        self.check_column(column, "label")
        kind = str(self.schema.field(column).type)
        values = list(self.values(column))
        for row, value in enumerate(values):
            if not isinstance(value, (int, str)) or (isinstance(value, int) and value >> 63 not in (0, -1)):
                raise DataError(
                    "A label is neither a number nor a name",
                    found=f"{str(value)[:40]} in row {row} of {self.source} (the column is {kind})",
                    remedy="Name the column of the labels with `label`, and leave out rows without one",
                )
        values = [composed(value) if isinstance(value, str) else int(value) for value in values]
        return Labels(self.source, kind, self._declared_names(column), values)

    def named_files(self, column: str) -> dict[int, Path]:
        """The files that rows name and that are there, by row: images, where the rows hold none themselves.

        Raises:
            DataError: The column is not there, or holds no images.
        """
        self.check_column(column, "image")
        kind = self.schema.field(column).type
        self._check_images(column, kind)
        files: dict[int, Path] = {}
        listed: dict[str, frozenset[str]] = {}  # names by folder: most rows name what is nowhere
        has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        for row, path in enumerate(self.values(column, "path") if has_paths else ()):
            folder, name = os.path.split(path or "")
            if folder not in listed:
                listed[folder] = self._names(folder)
            if name in listed[folder] and (file := self._inside(path)) and os.path.isfile(file):
                files[row] = file
        return files

    def images(self, column: str, files: dict[int, Path], num_rows: int) -> Iterator[tuple[str, Path | bytes]]:
        """(name, file or content) of each image.

        Args:
            column: Name of the column with the images.
            files: Those that rows name.
            num_rows: How many labels there are.

        Raises:
            DataError: A row has no image, or names a file that is not there or outside of the data set; or there are
                more or fewer images than labels.
        """
        num_images = 0
        for row, value in enumerate(self.values(column)):
            content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
            where = f"row {row} of {self.source}"
            if content is None and row not in files:
                raise self._no_image(where, path)
            yield where, files[row] if content is None else content
            num_images += 1
        if num_images != num_rows:
            raise DataError(
                "A table is damaged, or changed while it was read",
                found=f"{self.source} has {num_rows} labels and {num_images} images",
                remedy="Fetch or write it again",
            )

    def _no_image(self, where: str, path: str | None) -> DataError:
        if not path:
            return DataError("A row has no image", found=where, remedy="Leave out rows without one")
        folders = " or ".join(map(str, self.folders))
        if self._inside(path) is None:
            return DataError(
                "A row names a file outside of the data set, which is not read",
                found=f"The path {path} in {where}",
                remedy=f"Store the image in the table or in {folders}, not as a link that leads out of it",
            )
        return DataError(
            "The file that a row names is not there",
            found=f"The path {path} in {where}",
            remedy=f"Store the image in the table, or in {folders}, where relative paths start",
        )

    def _names(self, folder: str) -> frozenset[str]:
        """What lies in a folder that rows name."""
        try:
            return frozenset(os.listdir(os.path.join(*self.folders[:1], folder)))
        except (OSError, ValueError):  # not there; a zero byte
            return frozenset()

    def _check_images(self, column: str, kind: pa.DataType) -> None:
        parts = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind}
        read = {"bytes": _BYTES, "path": (*_TEXT, pa.types.is_null)}
        fit = [any(fits(parts[name]) for fits in read[name]) for name in read if name in parts]
        if not fit or not all(fit):
            raise DataError(
                f"The column {column!r} holds no image files",
                found=f"Its type is {kind} in {self.source}",
                remedy="Images are encoded (png, jpg, webp, ...), as bytes or as a struct of bytes and path",
            )

    def _inside(self, path: str) -> Path | None:
        """The file that a row names, without links, or None where it lies outside of the data set."""
        try:
            file = Path(os.path.realpath(os.path.join(*self.folders[:1], path)))
        except ValueError:  # a zero byte
            return None
        folders = [os.path.realpath(folder) for folder in self.folders]
        return file if any(file.is_relative_to(folder) for folder in folders) else None

    def _declared_names(self, column: str) -> tuple[str, ...]:
        """The names of the classes that the schema's metadata declares; none where labels are plain."""
        text = (self.schema.metadata or {}).get(b"huggingface", b"{}")
        problem = ""
        try:
            about = json.loads(text)
            for key in ("info", "features", column):
                if not isinstance(about, dict):
                    problem = f"no object where {key!r} should be"
                    break
                about = about.get(key, {})
        except (ValueError, RecursionError) as error:
            problem = f"no JSON ({error})"
        names = about.get("names", []) if not problem and isinstance(about, dict) else []
        if not isinstance(names, list) or not all(isinstance(name, str) and is_text(name) for name in names):
            problem = f"the names of {column!r} are no list of texts: {str(names)[:40]}"
        elif len(set(names)) < len(names):
            twice = (name for name in dict.fromkeys(names) if names.count(name) > 1)
            problem = f"two classes of {column!r} have the same name: {some(map(repr, twice))}"
        if problem:
            raise DataError(
                "The metadata 'huggingface' of a table are not understood",
                found=f"{self.source}: {problem}",
                remedy="Write the file again, with right metadata or with none",
            )
        return tuple(map(composed, names))


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Errors of pyarrow as a `DataError`."""
    try:
        yield
    except Exception as error:  # damaged files make it raise nearly anything
        raise DataError(
            "A parquet file cannot be read",
            found=f"{source}: {' '.join(str(error).split()) or type(error).__name__}",
            remedy="Fetch or write it again",
        ) from error


def numbered(columns: dict[str, list[Labels]], source: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """One numbering of the classes of all tables: labels are compared by name, however each table numbers them.

    Declared names count in the order of the first table that declares some, others in alphabetical order; where there
    are none, the numbers are the names.

    Args:
        columns: The labels of each table, by part.
        source: The data set, for errors.

    Returns:
        Class names, and int64 labels by part. A number that is none of a class stays what it is.

    Raises:
        DataError: Tables declare other names, or a label could be of more than one class or is of none.
    """
    every = [column for found in columns.values() for column in found if column.values]
    declared = next((column for column in every if column.names), None)
    if declared is None:
        names = _undeclared(every, source)
    else:
        names = declared.names
        for column in every:
            _check_same(declared, column)
    numbers = {name: number for number, name in enumerate(names)}
    return names, {
        part: np.array([number for column in found for number in _renumbered(column, numbers)], np.int64)
        for part, found in columns.items()
    }


def _undeclared(every: list[Labels], source: str) -> tuple[str, ...]:
    """The class names where no table declares any."""
    texts = {value: column for column in every for value in column.values if isinstance(value, str)}
    numbers = {value: column for column in every for value in column.values if isinstance(value, int)}
    if not numbers:
        return tuple(sorted(texts))
    plain = {str(number) for number in numbers} | {
        text for text in texts if text.isdecimal() and str(int(text)) == text
    }
    named = next((column for text, column in texts.items() if text not in plain), None)
    if named:
        raise DataError(
            "Labels are names in one table and numbers in another",
            found=f"{named}; {next(iter(numbers.values()))}",
            remedy="Write names into both, or declare the same names in both",
        )
    highest = max(*numbers, *map(int, texts))
    num_labels = sum(len(column.values) for column in every)
    if highest >= num_labels:
        raise DataError(
            "A label is higher than there are images",
            found=f"{highest} in {source}, of {num_labels} images",
            remedy="Number the classes without a gap from 0 on, or write their names",
        )
    return tuple(map(str, range(highest + 1)))


def _check_same(first: Labels, other: Labels) -> None:
    """Make sure that a table means classes that the first one declares."""
    if other.names and set(other.names) != set(first.names):
        raise DataError(
            "Two tables declare other classes",
            found=f"Only {_only(first, other)}; only {_only(other, first)}",
            remedy="Keep only the files of one data set there, or write them with the same classes",
        )
    unknown = {value for value in other.values if isinstance(value, str)}.difference(first.names)
    numbers = not other.names and any(isinstance(value, int) for value in other.values)
    if unknown or (numbers and first.names != tuple(map(str, range(len(first.names))))):
        problem = "none of the classes" if unknown else "numbers, without the names"
        strange = f"{some(map(spelled, sorted(unknown)))} in {other.source}" if unknown else str(other)
        raise DataError(
            f"Labels of a table are {problem} that another declares",
            found=f"{strange}; {first}",
            remedy="Write names into both, or declare the same names in both",
        )


def _only(labels: Labels, other: Labels) -> str:
    """What one declares that the other does not."""
    return f"{labels.source}: {some(spelled(name) for name in labels.names if name not in other.names)}"


def _renumbered(column: Labels, numbers: dict[str, int]) -> list[int]:
    own = [numbers[name] for name in column.names]
    return [
        numbers[value] if isinstance(value, str) else own[value] if 0 <= value < len(own) else value
        for value in column.values
    ]
