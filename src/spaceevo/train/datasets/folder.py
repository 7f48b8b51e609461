"""The user's own images: `PATH/train/<class>/...` and `PATH/val/<class>/...`; or in one part, `PATH/<class>/...`.

Files in nested and in linked folders count too. What is passed over is counted: files that are no images, hidden files,
what systems leave behind, and folders that are read already. The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached, decoded, some, told_passed_over, version
from spaceevo.train.datasets._listing import (
    NO_FILES,
    NO_PICTURES,
    NOWHERE,
    Tally,
    endings,
    is_picture,
    why_no_picture,
    why_not_entered,
)
from spaceevo.train.datasets._names import alike, composed, difference, is_text, same_to_see, spelled, visible
from spaceevo.train.datasets._splits import held_out

_SPLITS = ("train", "val")
_LAYOUT = "Arrange the images as PATH/train/<class>/... and PATH/val/<class>/..."
_NO_CLASS = "files outside of a class folder"
_BESIDE = "files and folders beside 'train' and 'val'"
_OR_HOLD_OUT = f"{_LAYOUT}; or hold a share of each class out with `val_share`"
_READ_ALREADY = "folders that are read already, or lie above a link to them"

#: Image files by class name.
Classes = dict[str, list[Path]]


class Settings(BaseModel):
    """Where the images lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        min_length=1, description="Folder with train/<class>/... and val/<class>/...; ~ is the home folder."
    )
    val_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Of a folder without val: share of each class that is held out; then <class>/... lies in train, or "
        "right in the folder.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Draws what is held out; another seed, another split.")


@dataclass(frozen=True)
class _Listing:
    """What lies in the folder: image files by split and class, and an account of all else."""

    files: dict[str, Classes]
    class_names: list[str]
    passed: Tally


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where no file has changed.

    Args:
        settings: Where the images lie.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: A folder is missing or empty, there is only one class, a class is missing in one split or spelled
            otherwise there, or an image cannot be read.
        NoSpaceError: The cache cannot be written.
    """
    root = _root(settings)
    listing = _listing(root, settings)
    files, class_names = listing.files, listing.class_names
    listed = {split: [file for name in class_names for file in files[split][name]] for split in _SPLITS}
    every = listed["train"] + listed["val"]
    versions = [(file.relative_to(root).as_posix(), *version(file)) for file in every]
    named = [(str(file), file) for file in every]
    shape = (len(every), 3, image_size, image_size)
    images_NCHW = cached(cache, __file__, (versions, image_size), shape, lambda: decoded(named, image_size))

    def labels(split: str) -> np.ndarray:
        counts = [len(files[split][name]) for name in class_names]
        return np.repeat(np.arange(len(class_names), dtype=np.int64), counts)

    num_train = len(listed["train"])
    return ImageData(
        name=root.resolve().name or str(root),
        class_names=tuple(class_names),
        train_images=images_NCHW[:num_train],
        train_labels=labels("train"),
        val_images=images_NCHW[num_train:],
        val_labels=labels("val"),
        passed_over=listing.passed.passed_over(),
    )


def check(settings: Settings) -> list[str]:
    """List the data set without decoding it.

    Returns:
        The class names.

    Raises:
        DataError: As `load`, but for images that cannot be read.
    """
    return _listing(_root(settings), settings).class_names


def count_train(settings: Settings) -> int:
    """How many training images the folder holds.

    Raises:
        DataError: As `check`.
    """
    return sum(map(len, _listing(_root(settings), settings).files["train"].values()))


def _root(settings: Settings) -> Path:
    return Path(os.path.expanduser(settings.path))


def _listing(root: Path, settings: Settings) -> _Listing:
    if settings.val_share is not None:
        return _in_one_part(root, settings.val_share, settings.seed)
    passed = Tally()
    try:
        read: dict[str, dict[str, str]] = {split: {} for split in _SPLITS}
        found = {split: _class_files(root, split, passed, read[split]) for split in _SPLITS}
        for entry in _entries(root):
            if entry.name not in _SPLITS:
                passed.add(why_not_entered(entry.name) or _BESIDE, entry.name)
    except OSError as error:
        raise _unlisted(error) from error
    if both := read["train"].keys() & read["val"].keys():
        raise DataError(
            "Images are in 'train' and in 'val'",
            found=f"{some(sorted(both))}, by a link",
            remedy="Accuracies would be those of images that were trained on: link to other images",
        )
    for split in _SPLITS:
        _check_spelling(found[split], root / split)
    train, val = found["train"], found["val"]
    files = {"train": _spelled_alike(train, val), "val": _spelled_alike(val, train)}
    return _Listing(files, _class_names(root, files, passed), passed)


def _in_one_part(root: Path, val_share: float, seed: int) -> _Listing:
    """A folder without `val`: a share of each class is held out."""
    passed = Tally()
    try:
        _check_there(root)
        split = "train" if (root / "train").is_dir() else ""
        if (root / "val").is_dir() and split:
            raise DataError(
                "The data set has a folder 'val', and a share is to be held out as well",
                found=f"{root} holds {some(entry.name for entry in _entries(root))}",
                remedy="Leave `val_share` out: 'val' is what is held out",
            )
        found = _class_files(root, split, passed, {})
        for entry in _entries(root) if split else ():
            if entry.name != split:
                passed.add(why_not_entered(entry.name) or _BESIDE, entry.name)
    except OSError as error:
        raise _unlisted(error) from error
    _check_spelling(found, root / split)
    train, val = held_out(found, val_share, seed, str(root / split))
    files = {"train": train, "val": val}
    return _Listing(files, _class_names(root, files, passed), passed)


def _unlisted(error: OSError) -> DataError:
    return DataError(
        "The data set cannot be listed",
        found=f"{error.filename}: {error.strerror}",
        remedy="Make all of its folders readable",
    )


def _check_there(root: Path) -> None:
    if not root.is_dir():
        raise DataError(
            "The folder of the data set is missing",
            found=f"{root} is {'no folder' if root.exists() else 'not there'}",
            remedy="Correct `path`; a relative one starts at the current folder",
        )


def _class_files(root: Path, split: str, passed: Tally, read: dict[str, str]) -> Classes:
    """The image files of each class folder of a split, sorted; a class may have none.

    `read` gets the class of each, by the file without links.
    """
    _check_there(root)
    folder = root / split
    if not folder.is_dir():
        raise DataError(
            f"The data set has no folder {split!r}",
            found=f"{root} holds {some(entry.name for entry in _entries(root))}",
            remedy=_OR_HOLD_OUT,
        )
    above = [os.path.realpath(root), os.path.realpath(folder)]
    files: Classes = {}
    others = []
    for entry in _entries(folder):
        where = _where(entry, root)
        reason = why_not_entered(entry.name) or (None if _is_folder(entry) else _NO_CLASS)
        if reason is None and _leads_back(entry.path, above):
            reason = _READ_ALREADY
        if reason:
            others.append(entry.name)
            passed.add(reason, where, _num_files(entry))
        else:
            files[entry.name] = _image_files(entry, root, above, passed, read)
    if not any(files.values()):
        raise DataError(
            f"The folder {split or root.name!r} of the data set has no image in a class folder",
            found=f"{folder} holds {len(files)} class folders, all without images, and {some(others)}; "
            f"{told_passed_over(passed.passed_over())}",
            remedy=f"{_LAYOUT}, as {', '.join(endings())} files",
        )
    return files


def _image_files(
    class_folder: os.DirEntry[str], root: Path, above: list[str], passed: Tally, read: dict[str, str]
) -> list[Path]:
    """The images of a class folder, sorted. No folder is read twice: links may lead in circles."""
    found: list[Path] = []
    known: set[str] = set()
    above = [*above, os.path.realpath(class_folder)]
    waiting = deque([class_folder])
    while waiting:
        folder = waiting.popleft()
        real = os.path.realpath(folder)
        if real in known or (folder is not class_folder and _leads_back(real, above)):
            passed.add(_READ_ALREADY, _where(folder, root))
            continue
        known.add(real)
        for entry in _entries(folder):
            is_folder = _is_folder(entry)
            reason = why_not_entered(entry.name) if is_folder else _why_passed_over(entry)
            if reason:
                passed.add(reason, _where(entry, root), _num_files(entry))
            elif not is_folder:
                found.append(Path(entry.path))
                file = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                _check_one_class(file, read.setdefault(file, class_folder.name), class_folder.name)
            elif entry.is_symlink():  # last, so that of a folder and a link to it the folder itself is read
                waiting.append(entry)
            else:
                waiting.appendleft(entry)
    return sorted(found)


def _check_one_class(file: str, first: str, other: str) -> None:
    """Make sure that an image, which links may lead to, is of one class."""
    if first != other:
        raise DataError(
            "An image is in two classes",
            found=f"{visible(file)} in {spelled(first)} and {spelled(other)}, by a link",
            remedy="Remove one of the links: an image has one label",
        )


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _where(entry: os.DirEntry[str], root: Path) -> str:
    return Path(entry.path).relative_to(root).as_posix()


def _leads_back(folder: str, above: list[str]) -> bool:
    """Whether a folder, maybe a link, is one of some others or holds one."""
    real = os.path.realpath(folder)
    return any(Path(own).is_relative_to(real) for own in above)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except PermissionError:
        raise
    except OSError:  # a link to itself
        return False


def _why_passed_over(entry: os.DirEntry[str]) -> str | None:
    if reason := why_no_picture(entry.name):
        return reason
    ending = os.path.splitext(entry.name)[1]
    if entry.is_symlink() and not os.path.exists(entry.path):
        return None if ending else NOWHERE  # with the ending of a picture one is missing, which decoding tells
    if not entry.is_file():
        return NO_FILES
    return None if ending or is_picture(Path(entry.path)) else NO_PICTURES


def _num_files(entry: os.DirEntry[str]) -> int:
    """How many files one passes over with an entry; a folder that cannot be listed counts as one."""
    if entry.is_symlink() or not entry.is_dir():
        return 1
    unlisted: list[OSError] = []
    listed = sum(
        len(files) + sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        for parent, folders, files in os.walk(entry, onerror=unlisted.append)
    )
    return listed + len(unlisted)


def _check_spelling(names: Iterable[str], folder: Path) -> None:
    """Make sure that the names of class folders can be written and told apart."""
    if wrong := [name for name in names if not is_text(name)]:
        raise DataError(
            "The name of a class folder is no text",
            found=f"{some(map(ascii, wrong))} in {folder}, which is not UTF-8",
            remedy="Rename it",
        )
    if pairs := same_to_see(names):
        raise DataError(
            f"Two class folders of {folder.name!r} have names that look the same",
            found=f"{some(f'{spelled(one)} and {spelled(other)}' for one, other in pairs)} in {folder}; "
            f"they differ in {difference(*pairs[0])}",
            remedy="Move the images of a class into one folder, or give two classes names that can be told apart",
        )


def _spelled_alike(classes: Classes, other: Classes) -> Classes:
    """The classes of a split; a name that is composed here and decomposed in the other split is the same, composed."""
    known = {composed(name) for name in other}
    return {
        composed(name) if name not in other and composed(name) in known else name: found
        for name, found in classes.items()
    }


def _class_names(root: Path, files: dict[str, Classes], passed: Tally) -> list[str]:
    """The classes, sorted, once it is sure that each has images in both splits."""
    with_images = {split: {name for name, found in files[split].items() if found} for split in _SPLITS}
    _check_pairs(root, with_images["train"], with_images["val"])
    for split, other in (("val", "train"), ("train", "val")):
        missing = sorted((with_images[split] | set(files[other])) - with_images[other])
        if missing:
            others = sorted(with_images[other] - with_images[split])
            alone = f", but of {some(map(spelled, others))}, which {split!r} lacks" if others else ""
            raise DataError(
                "Every class needs images in both 'train' and 'val'",
                found=f"{root / other} has no image of {some(map(spelled, missing) if others else missing)}{alone}; "
                f"{told_passed_over(passed.passed_over())}",
                remedy=f"Add images of these classes to {other!r}, or keep the classes in a folder outside of the data",
            )
    names = sorted(with_images["train"])
    if len(names) < 2:
        raise DataError(
            "The data set has only one class",
            found=f"{spelled(names[0])} in {root}; {told_passed_over(passed.passed_over())}",
            remedy="Add a folder for each further class to 'train' and 'val'",
        )
    return names


def _check_pairs(root: Path, train: set[str], val: set[str]) -> None:
    """Tell of classes that are spelled otherwise in the other split, and so would lack images there."""
    if pairs := alike(sorted(train - val), sorted(val - train)):
        raise DataError(
            "A class is spelled otherwise in 'train' and in 'val'",
            found=f"{some(f'{spelled(one)} and {spelled(other)}' for one, other in pairs)} in {root}; "
            f"they differ in {difference(*pairs[0])}",
            remedy="Rename the folder in one of them, so that both have the same name",
        )
