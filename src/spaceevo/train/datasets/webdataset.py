"""Tar shards in the layout of WebDataset: files of one stem are one sample, an image and its label.

A stem ends at the first dot of the file's name; the files of a sample follow each other in one shard.
Source of the layout: github.com/webdataset/webdataset, README. The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached, check_classes, decoded, some, version

#: The first of these that a sample has is its image.
EXTENSIONS = ("png", "jpg", "jpeg", "webp")
#: (name, content) of the files of one sample, by extension in lower case.
Sample = dict[str, tuple[str, bytes]]

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Settings(BaseModel):
    """Which shards, and what in them is the label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str = Field(
        min_length=1, description="Shards of the training part: a path with {000..146}, *, ? or neither of them."
    )
    val: str = Field(min_length=1, description="Shards of the validation part, likewise.")
    label: str = Field(
        "cls",
        pattern=r"^[A-Za-z0-9_]+$|^json\.[A-Za-z0-9_.]+$",
        description="Extension of the file with the label; json.KEY: that key of the .json file.",
    )
    class_names: tuple[str, ...] = Field(
        (),
        description="Names of the classes, in the order of their numbers; a label that is one of them stands for "
        "its number. Without names, the numbers are the names.",
    )


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where no shard has changed.

    Shards are read from start to end: once for labels, and once more for images that are not cached.

    Args:
        settings: Which shards.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: A shard is missing or damaged, a sample lacks its image or label, an image cannot be read,
            or a class is missing in one part; the shard and its member are named.
        NoSpaceError: The cache cannot be written.
    """
    shards = {"train": _shards(settings.train), "val": _shards(settings.val)}
    every = shards["train"] + shards["val"]
    labels = {
        part: np.array([label for shard in found for label in _labels(shard, settings)], np.int64)
        for part, found in shards.items()
    }
    highest = max((int(found.max()) for found in labels.values() if len(found)), default=-1)
    class_names = settings.class_names or tuple(str(label) for label in range(highest + 1))
    check_classes(labels, class_names, f"{settings.train} and {settings.val}")
    num_train, num_val = len(labels["train"]), len(labels["val"])
    versions = [(str(shard.resolve()), *version(shard)) for shard in every]
    images_NCHW = cached(
        cache,
        __file__,
        (versions, settings.label, image_size),
        (num_train + num_val, 3, image_size, image_size),
        lambda: decoded((image for shard in every for image in _images(shard)), image_size),
    )
    return ImageData(
        name=every[0].resolve().parent.name,
        class_names=class_names,
        train_images=images_NCHW[:num_train],
        train_labels=labels["train"],
        val_images=images_NCHW[num_train:],
        val_labels=labels["val"],
    )


def _shards(pattern: str) -> list[Path]:
    """The files of a pattern, those of a brace range in its order, those of a wildcard sorted."""
    found: list[Path] = []
    for path in _expanded(os.path.expanduser(pattern)):
        matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path] * os.path.isfile(path)
        if not matches:
            raise DataError(
                "A shard of the data set is missing",
                found=f"{path} (of {pattern}) is not there",
                remedy="Correct `train` or `val`; a relative path starts at the current folder",
            )
        found += map(Path, matches)
    return found


def _expanded(pattern: str) -> list[str]:
    """The paths of a pattern with brace ranges; numbers are as wide as the first one of the range.

    >>> _expanded("a-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    tails = _expanded(pattern[match.end() :])
    numbers = range(int(first), int(last) + 1)
    return [f"{pattern[: match.start()]}{number:0{len(first)}}{tail}" for number in numbers for tail in tails]


def _samples(shard: Path, wanted: Collection[str]) -> Iterator[tuple[str, Sample]]:
    """Stem and files of each sample of a shard; only files with one of the extensions `wanted` are read."""
    try:
        with tarfile.open(shard) as archive:
            stem = ""
            sample: Sample = {}
            for member in archive:
                folder, slash, file = member.name.rpartition("/")
                name, _, extension = file.lower().partition(".")
                if not member.isfile() or not name or not extension:  # a folder, a hidden file, a note
                    continue
                name = folder + slash + file[: len(name)]
                if name != stem:
                    if sample:
                        yield stem, sample
                    stem, sample = name, {}
                if extension in sample:
                    raise _damaged(shard, f"a sample has {member.name} twice")
                opened = archive.extractfile(member) if extension in wanted else None
                sample[extension] = (member.name, opened.read() if opened else b"")
            if sample:
                yield stem, sample
            # A shard that was cut between two members only lacks the empty block at the end
            assert archive.fileobj is not None
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise _damaged(shard, f"it breaks off or is damaged after {stem or 'its beginning'}")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise _damaged(shard, str(error)) from error


def _labels(shard: Path, settings: Settings) -> Iterator[int]:
    """The label of each sample; files that are part of none are passed over."""
    extension, _, key = settings.label.partition(".")
    for stem, sample in _samples(shard, {extension}):
        if extension not in sample and _image(sample) is None:
            continue
        if extension not in sample or _image(sample) is None:
            raise DataError(
                f"A sample lacks its {'image' if extension in sample else 'label'}",
                found=f"{stem} in {shard} has {some(f'.{name}' for name in sample)}",
                remedy=f"Each needs .{extension} (as `label` says) and one of .{', .'.join(EXTENSIONS)}",
            )
        member, content = sample[extension]
        try:
            label = str(_value(json.loads(content), key) if key else content.decode()).strip()
            yield settings.class_names.index(label) if label in settings.class_names else int(label)
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                "A label is neither a number nor the name of a class",
                found=f"{member} in {shard}: {content[:40]!r} ({type(error).__name__}: {error})",
                remedy="`label` names what holds the label, `class_names` the classes",
            ) from error


def _value(content: Any, key: str) -> object:
    """What a dotted key leads to in JSON."""
    for step in key.split("."):
        content = content[step]
    return content


def _images(shard: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the image of each sample."""
    for _, sample in _samples(shard, EXTENSIONS):
        image = _image(sample)
        if image is not None:
            member, content = image
            yield f"{member} in {shard}", content


def _image(sample: Sample) -> tuple[str, bytes] | None:
    return next((sample[extension] for extension in EXTENSIONS if extension in sample), None)


def _damaged(shard: Path, reason: str) -> DataError:
    return DataError(
        "A shard of the data set cannot be read", found=f"{shard}: {reason}", remedy="Fetch or pack it again"
    )
