"""Tar shards in the layout of WebDataset: files of one stem are one sample, an image and its label.

A stem ends at the first dot of the file's name; the files of a sample follow each other in one shard.
Source of the layout: github.com/webdataset/webdataset, README. The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import functools
import glob
import json
import math
import os
import re
import tarfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import _shards, cached, check_classes, decoded, some, version
from spaceevo.train.datasets._listing import HIDDEN, LEFT_BEHIND, Tally, endings, why_not_entered
from spaceevo.train.datasets._names import composed, spelled

_FIRST = ("png", "jpg", "jpeg", "webp")  # of several images in one sample; then other endings of images
#: (name, content) of the files of one sample, by extension in lower case.
Sample = dict[str, tuple[str, bytes]]

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_NUMBER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_PATH = r"^[^\x00]+$"
_MAX_SHARDS = 1_000_000
_MAX_BYTES = 1 << 30  # of an image or a label; a damaged header claims any size
_CHUNK_BYTES = 1 << 20
_STARTS = {b"\x28\xb5\x2f\xfd": "compressed by zstd", b"\x04\x22\x4d\x18": "compressed by lz4", b"PK": "a zip file"}


class Settings(BaseModel):
    """Which shards, and what in them is the label."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str = Field(
        pattern=_PATH, description="Shards of the training part: a path with {000..146}, *, ? or neither of them."
    )
    val: str = Field(pattern=_PATH, description="Shards of the validation part, likewise.")
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


@functools.cache
def _extensions() -> tuple[str, ...]:
    """The first of these that a sample has is its image."""
    return tuple(dict.fromkeys((*_FIRST, *(ending.removeprefix(".") for ending in endings()))))


check = None  # nothing is looked at before it is read


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where no shard has changed.

    Shards are read from start to end: once for labels, and once more for images that are not cached.

    Args:
        settings: Where the shards lie and what their samples are called.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: A shard is missing, damaged or in both parts, a sample lacks its image or label or has dots in its
            stem, an image cannot be read, or a class is missing in one part; the shard and its member are named.
        NoSpaceError: The cache cannot be written.
    """
    tally = Tally()
    shards = _listed(settings, tally)
    every = shards["train"] + shards["val"]
    texts = {shard: list(_labels(shard, settings, tally)) for shard in every}
    for shard, found in texts.items():
        if not found:
            tally.add("shards without a sample", str(shard))
    class_names, numbers = _numbered(texts, settings)
    labels = {
        part: np.array([numbers[text] for shard in found for text in texts[shard]], np.int64)
        for part, found in shards.items()
    }
    check_classes(labels, class_names, f"{settings.train} and {settings.val}")
    num_train, num_val = len(labels["train"]), len(labels["val"])
    versions = [(str(shard.resolve()), *version(shard)) for shard in every]
    images_NCHW = cached(
        cache,
        __file__,
        (versions, settings.label, image_size),
        (num_train + num_val, 3, image_size, image_size),
        lambda: decoded((image for shard in every for image in _images(shard, len(texts[shard]))), image_size),
    )
    return ImageData(
        name=every[0].resolve().parent.name,
        class_names=class_names,
        train_images=images_NCHW[:num_train],
        train_labels=labels["train"],
        val_images=images_NCHW[num_train:],
        val_labels=labels["val"],
        passed_over=tally.passed_over(),
    )


def _listed(settings: Settings, tally: Tally) -> dict[str, list[Path]]:
    """The shards of each part, each once."""
    shards = {"train": _matching(settings.train), "val": _matching(settings.val)}
    _shards.check_files(shards["train"] + shards["val"])
    for part, pattern in (("train", settings.train), ("val", settings.val)):
        if _has_wildcard(pattern):
            _shards.check_complete(
                shards[part], f"Fetch them, or name those that `{part}` shall have by a range, such as {{000..146}}"
            )
            _shards.tell_gaps(shards[part], tally)
    for first, count in _shards.missing_of(dict.fromkeys(shards["train"] + shards["val"])):
        tally.add("shards of a numbered set that neither part names", str(first), count)
    shards = {part: _shards.distinct(found, tally) for part, found in shards.items()}
    _shards.check_apart(shards["train"], shards["val"], "Make `train` and `val` match different shards")
    return shards


def _has_wildcard(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _matching(pattern: str) -> list[Path]:
    """The files of a pattern, those of a brace range in its order, those of a wildcard sorted; brackets are letters."""
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(pattern)]
    num_paths = math.prod(max(0, last - first + 1) for first, last in ranges)
    if not 1 <= num_paths <= _MAX_SHARDS:
        raise DataError(
            "A range of shards goes from the larger to the smaller number" if not num_paths else "Too many shards",
            found=f"{pattern} names {num_paths:,}",
            remedy=f"Correct `train` or `val`; {{000..146}} is from 000 to 146, at most {_MAX_SHARDS:,} are read",
        )
    found: list[Path] = []
    for path in _expanded(os.path.expanduser(pattern)):
        if _has_wildcard(path):
            matches = sorted(glob.glob(path.replace("[", "[[]")))
        else:
            matches = [path] * os.path.lexists(path)  # be it a link that leads nowhere
        if not matches:
            raise DataError(
                "A shard of the data set is missing",
                found=f"The path {path}{f' (of {pattern})' if path != pattern else ''} is not there",
                remedy=_advice(path),
            )
        found += map(Path, matches)
    return list(dict.fromkeys(found))


def _advice(path: str) -> str:
    """What to do about a path that is not there."""
    if re.match(r"[a-z0-9+]+://|pipe:", path, re.IGNORECASE) or "::" in path:
        return "Only files are read, no addresses, pipes or lists of these: fetch the shards, and name their paths"
    if re.search(r"\{[^{}]*(,|\.\.)[^{}]*\}", path):
        return "Of braces only {000..146} is read, no list and no steps: use it, * or ?"
    if re.search(r"\[[^\[\]]+\]", path):
        return "Brackets are letters: use a range {000..146}, * or ?; a relative path starts at the current folder"
    return "Correct `train` or `val`; a relative path starts at the current folder"


def _expanded(pattern: str) -> Iterator[str]:
    """The paths of a pattern with brace ranges; numbers are as wide as the first one of the range.

    >>> list(_expanded("a-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        for tail in _expanded(pattern[match.end() :]):
            yield f"{pattern[: match.start()]}{number:0{len(first)}}{tail}"


def _samples(shard: Path, wanted: Collection[str], tally: Tally | None = None) -> Iterator[tuple[str, Sample]]:
    """Stem and files of each sample of a shard; only files with one of the extensions `wanted` are read."""
    try:
        with tarfile.open(shard) as archive:
            stem, end = "", -1
            sample: Sample = {}
            stems = set()
            for member in archive:
                if archive.offset <= end:  # a negative size: it would be read again and again
                    raise _damaged(shard, f"it is damaged after {stem or 'its beginning'}")
                end = archive.offset
                folder, slash, file = member.name.rpartition("/")
                name, _, extension = file.partition(".")
                extension = extension.lower()
                if member.isdir():
                    continue
                left_behind = LEFT_BEHIND in map(why_not_entered, member.name.split("/"))
                if left_behind or not name or not extension:
                    if tally:
                        reason = LEFT_BEHIND if left_behind else "files without an ending" if name else HIDDEN
                        tally.add(reason, f"{member.name} in {shard}")
                    continue
                name = folder + slash + name
                if name != stem:
                    if sample:
                        yield stem, sample
                    if name in stems:
                        raise _damaged(shard, f"it has files of {name} in two places")
                    stems.add(name)
                    stem, sample = name, {}
                if extension in sample:
                    raise _damaged(shard, f"a sample has {member.name} twice")
                if not member.isfile() and extension in (*wanted, *_extensions()):
                    raise DataError(
                        "A member of a shard is a link or another thing without content",
                        found=f"{member.name} in {shard}",
                        remedy="Pack the shard again with `tar --dereference --hard-dereference`",
                    )
                sample[extension] = (member.name, _content(archive, member, shard) if extension in wanted else b"")
            if sample:
                yield stem, sample
            # A shard that was cut between two members only lacks the empty block at the end
            assert archive.fileobj is not None
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise _damaged(shard, f"it breaks off or is damaged after {stem or 'its beginning'}")
            while chunk := archive.fileobj.read(_CHUNK_BYTES):
                if chunk.strip(tarfile.NUL):
                    raise _damaged(shard, f"there is more behind its end, which is after {stem or 'its beginning'}")
    except DataError:
        raise
    except Exception as error:  # damaged headers make tarfile raise nearly anything
        raise _damaged(shard, _reason(shard, error)) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> bytes:
    if member.size > _MAX_BYTES:
        raise _damaged(shard, f"{member.name} would have {member.size:,} bytes")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _labels(shard: Path, settings: Settings, tally: Tally) -> Iterator[str]:
    """The label of each sample, a number or the name of a class; what is no part of a sample is counted."""
    extension, _, key = settings.label.partition(".")
    extension = extension.lower()
    for stem, sample in _samples(shard, {extension}, tally):
        image = _image(sample)
        dotted = _dotted(sample, extension)
        if dotted and (image is None or extension not in sample):
            raise DataError(
                "The stem of a sample has a dot",
                found=f"{' and '.join(dotted)} in {shard}: their stem is {stem}, which has {_endings(sample)}",
                remedy="A stem ends at the first dot of a file's name, as WebDataset reads it: pack the shards again "
                "with another sign, such as _, in place of these dots",
            )
        if dotted:
            tally.add("images with a label of their own within another sample", f"{dotted[0]} in {shard}")
        if image is None and extension not in sample:
            tally.add("samples without image and label", f"{stem} with {_endings(sample)} in {shard}")
        elif image is None or extension not in sample:
            raise DataError(
                f"A sample lacks its {'image' if image is None else 'label'}",
                found=f"The sample {stem} in {shard} has {_endings(sample)}",
                remedy=f"Each needs .{extension} (as `label` says) and one of .{', .'.join(_FIRST)} or another ending "
                "of images, one after the other; a stem ends at the first dot of a file's name",
            )
        else:
            yield _label(sample[extension], key, shard, settings)


def _dotted(sample: Sample, label: str) -> list[str]:
    """An image and a label that would be a sample if stems could have dots; of one stem, if there are such."""
    images = [extension for extension in sample if "." in extension and extension.rpartition(".")[2] in _extensions()]
    labels = [extension for extension in sample if extension.endswith(f".{label}")]
    pairs = [(image, f"{image.rpartition('.')[0]}.{label}") for image in images]
    whole = [pair for pair in pairs if pair[1] in labels]
    if not whole and _image(sample) is None and label not in sample:
        whole = list(zip(images, labels, strict=False))
    return [sample[extension][0] for extension in whole[0]] if whole else []


def _endings(sample: Sample) -> str:
    return some(f".{extension}" for extension in sample)


def _label(file: tuple[str, bytes], key: str, shard: Path, settings: Settings) -> str:
    """The label that a file holds, once it is sure that it is a number or the name of a class."""
    member, content = file
    try:
        text = _value(json.loads(content), key) if key else content.decode("utf-8-sig").strip()
        text = composed(text)
        if text in map(composed, settings.class_names) or _NUMBER.fullmatch(text):
            return text
        names = settings.class_names
        reason = f"`class_names` are {some(map(spelled, names))}" if names else "there are no `class_names`"
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise DataError(
        "A label is neither a number nor the name of a class",
        found=f"{member} in {shard}: {content[:40]!r} ({reason})",
        remedy="`label` names what holds the label, `class_names` the classes",
    )


def _value(content: Any, key: str) -> str:
    """What a dotted key leads to in JSON."""
    for step in key.split("."):
        content = content[step]
    if isinstance(content, bool) or not isinstance(content, (str, int)):
        raise TypeError(f"{json.dumps(content)[:40]} is no number or name")
    return str(content).strip()


def _numbered(texts: dict[Path, list[str]], settings: Settings) -> tuple[tuple[str, ...], dict[str, int]]:
    """(class names, number of each label that occurs); without names, the numbers are the names."""
    names = tuple(map(composed, settings.class_names))
    where = {text: shard for shard in reversed(texts) for text in reversed(texts[shard])}
    numbers = {text: names.index(text) if text in names else int(text) for text in where}
    by_number = next((text for text in where if text not in names), None)
    for text in where:
        if by_number is not None and text in names and _NUMBER.fullmatch(text) and int(text) != numbers[text]:
            raise DataError(
                "Labels are names of classes and numbers of others",
                found=f"{text} in {where[text]} is a name, {by_number} in {where[by_number]} can only be a number",
                remedy="Give classes names that are no numbers, or use one kind of label throughout",
            )
    highest, num_samples = max(numbers.values(), default=-1), sum(map(len, texts.values()))
    if not names and highest >= num_samples:
        text = max(numbers, key=numbers.__getitem__)
        raise DataError(
            "A label is higher than there are samples",
            found=f"{text} in {where[text]}, of {num_samples} samples",
            remedy="Number the classes without a gap from 0 on, or name them with `class_names`",
        )
    return names or tuple(map(str, range(highest + 1))), numbers


def _images(shard: Path, num_samples: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the image of each sample."""
    found = 0
    for _, sample in _samples(shard, _extensions()):
        image = _image(sample)
        if image is not None:
            member, content = image
            yield f"{member} in {shard}", content
            found += 1
    if found != num_samples:
        raise _damaged(shard, f"it changed from {num_samples} to {found} samples while it was read")


def _image(sample: Sample) -> tuple[str, bytes] | None:
    return next((sample[extension] for extension in _extensions() if extension in sample), None)


def _reason(shard: Path, error: Exception) -> str:
    """Why a shard cannot be read: of what is no tar, what it is."""
    with suppress(OSError), shard.open("rb") as file:
        start = file.read(4)
        for first, kind in _STARTS.items():
            if start.startswith(first):
                return f"it is {kind}; a tar may be compressed by gzip, bzip2 or xz"
        if not start:
            return "the file is empty"
    if "- method" in str(error):  # one line for each compression that it is not
        return "it is no tar, or its beginning is damaged"
    return " ".join(str(error).split()) or type(error).__name__


def _damaged(shard: Path, reason: str) -> DataError:
    return DataError(
        "A shard of the data set cannot be read", found=f"{shard}: {reason}", remedy="Fetch or pack it again"
    )
