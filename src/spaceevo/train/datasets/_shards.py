"""Files that are parts of one data set: none is missing, none counts twice, and each is a file.

`train-00002-of-00004.tar` says how many there are; other numbers tell a gap only, between two that are there.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from spaceevo.errors import DataError
from spaceevo.train.datasets import some
from spaceevo.train.datasets._listing import Tally

_NUMBER_OF = re.compile(r"(?<!\d)(\d{1,18})([-_. ]*)of\2(\d{1,18})(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<!\d)\d{1,6}(?!\d)")  # more digits are a date or a hash


def check_files(files: Iterable[Path]) -> None:
    """Make sure that each can be read from its start to its end, and once more.

    Raises:
        DataError: One is a folder, a pipe, a device, or a link that leads nowhere.
    """
    for file in files:
        if not os.path.isfile(file):
            kind = "a folder" if file.is_dir() else "no regular file" if file.exists() else "a link that leads nowhere"
            raise DataError(
                "A shard of the data set is no file",
                found=f"{file} is {kind}",
                remedy="Shards are read twice, from start to end: store it as a file, or leave it out",
            )


def distinct(files: Iterable[Path], tally: Tally) -> list[Path]:
    """The files in their order, each once, however many names lead to it."""
    found: dict[str, Path] = {}
    for file in files:
        first = found.setdefault(os.path.realpath(file), file)
        if first != file:
            tally.add("shards that are another one under a second name", str(file))
    return list(found.values())


def check_apart(train: list[Path], val: list[Path], remedy: str) -> None:
    """Make sure that no file is in both parts: accuracies would be those of images that were trained on.

    Raises:
        DataError: One is.
    """
    of_train = {os.path.realpath(file) for file in train}
    both = [str(file) for file in val if os.path.realpath(file) in of_train]
    if both:
        raise DataError(
            "The training and the validation part have files in common", found=f"{some(both)} in both", remedy=remedy
        )


def check_complete(files: list[Path], remedy: str) -> None:
    """Make sure that of files named i-of-n all n are there.

    Raises:
        DataError: Some are not.
    """
    for first, count in missing_of(files):
        raise DataError(
            "Shards of the data set are missing",
            found=f"{first} {'is' if count == 1 else f'and {count - 1} more are'} not among the {len(files)} found",
            remedy=remedy,
        )


def missing_of(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """(first that is missing, how many are) of each set of files named i-of-n that is not whole.

    Raises:
        DataError: Two files have the same number, or each its own n, so they are of two sets; or a number exceeds n.
    """
    sets: dict[tuple[Path, str], dict[int, tuple[Path, re.Match[str]]]] = defaultdict(dict)
    for file in files:
        if match := _NUMBER_OF.search(file.name):
            found = sets[file.parent, file.name[: match.start()]]
            twin, other = found.get(int(match[1])), next(iter(found.values()), None)
            if twin or (other and int(other[1][3]) != int(match[3])):
                raise DataError(
                    "Shards of two sets are mixed",
                    found=f"{(twin or other or (file,))[0]} and {file}",
                    remedy="Keep those of one set there; the last number says how many it has",
                )
            found[int(match[1])] = (file, match)
    for found in sets.values():
        file, match = found[min(found)]
        first, total = int(0 not in found and int(match[3]) in found), int(match[3])  # counted from 0 or from 1
        highest, _ = found[max(found)]
        if max(found) >= first + total:
            raise DataError(
                "The number of a shard is too high",
                found=f"{highest}, beside {file}",
                remedy="Name the shards 0 to n - 1 of n, or 1 to n",
            )
        if len(found) < total:
            absent = next(number for number in range(first, first + total) if number not in found)
            yield _renumbered(file, match.span(1), absent), total - len(found)


def tell_gaps(files: Iterable[Path], tally: Tally) -> None:
    """Count the numbers that are missing between those of files whose names differ in one number only."""
    sets: dict[tuple[Path, str, str], dict[int, tuple[Path, tuple[int, int]]]] = defaultdict(dict)
    for file in files:
        for match in () if _NUMBER_OF.search(file.name) else _NUMBER.finditer(file.name):
            others = (file.parent, file.name[: match.start()], file.name[match.end() :])
            sets[others][int(match[0])] = (file, match.span())
    for found in sets.values():
        numbers = sorted(found)
        for before, after in pairwise(numbers):
            if after - before > 1:
                first = _renumbered(*found[before], before + 1)
                tally.add("shards that are missing between two others", str(first), after - before - 1)


def _renumbered(file: Path, place: tuple[int, int], number: int) -> Path:
    """The name that the file would have with another number, as wide as its own."""
    start, end = place
    return file.with_name(f"{file.name[:start]}{number:0{end - start}}{file.name[end:]}")
