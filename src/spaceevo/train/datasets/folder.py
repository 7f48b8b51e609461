"""The user's own images: `PATH/train/<class>/...` and `PATH/val/<class>/...`.

Files in nested folders count too; hidden files and files that are no images are passed over.
The contract of a data set is in `procedural`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spaceevo.errors import DataError
from spaceevo.records import ImageData
from spaceevo.train.datasets import cached, decoded, some, version

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")

_SPLITS = ("train", "val")
_LAYOUT = "Arrange the images as PATH/train/<class>/... and PATH/val/<class>/..."


class Settings(BaseModel):
    """Where the images lie."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(
        min_length=1, description="Folder with train/<class>/... and val/<class>/...; ~ is the home folder."
    )


def load(settings: Settings, image_size: int, cache: Path) -> ImageData:
    """Decode the images, or read their pixels from the cache where no file has changed.

    Args:
        settings: Where the images lie.
        image_size: Height = width in pixels, at least 1.
        cache: Folder for the decoded pixels.

    Raises:
        DataError: A folder is missing or empty, there is only one class, a class is missing in one split,
            or an image cannot be read.
        NoSpaceError: The cache cannot be written.
    """
    root = _root(settings)
    files, class_names = _listing(root)
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
        name=root.resolve().name,
        class_names=tuple(class_names),
        train_images=images_NCHW[:num_train],
        train_labels=labels("train"),
        val_images=images_NCHW[num_train:],
        val_labels=labels("val"),
    )


def check(settings: Settings) -> list[str]:
    """List the data set without decoding it.

    Returns:
        The class names.

    Raises:
        DataError: As `load`, but for images that cannot be read.
    """
    return _listing(_root(settings))[1]


def _root(settings: Settings) -> Path:
    return Path(os.path.expanduser(settings.path))


def _listing(root: Path) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """(image files by split and class, class names)."""
    try:
        files = {split: _class_files(root, split) for split in _SPLITS}
    except OSError as error:
        raise DataError(
            "The data set cannot be listed",
            found=f"{error.filename}: {error.strerror}",
            remedy="Make all of its folders readable",
        ) from error
    return files, _class_names(root, files)


def _class_files(root: Path, split: str) -> dict[str, list[Path]]:
    """The image files of each class folder of a split, sorted; a class may have none."""
    if not root.is_dir():
        raise DataError(
            "The folder of the data set is missing",
            found=f"{root} is {'no folder' if root.exists() else 'not there'}",
            remedy="Correct `path`; a relative one starts at the current folder",
        )
    folder = root / split
    if not folder.is_dir():
        raise DataError(
            f"The data set has no folder {split!r}",
            found=f"{root} holds {some(sorted(entry.name for entry in root.iterdir()))}",
            remedy=_LAYOUT,
        )
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry.name))
    files = {entry.name: _image_files(entry) for entry in classes}
    if not any(files.values()):
        others = sorted(entry.name for entry in folder.iterdir() if entry not in classes)
        raise DataError(
            f"The folder {split!r} of the data set has no image in a class folder",
            found=f"{folder} holds {len(classes)} class folders, all without images, and {some(others)}",
            remedy=f"{_LAYOUT}, as {', '.join(EXTENSIONS)} files",
        )
    return files


def _image_files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:  # os.walk would pass over what it cannot list
        raise error

    found = []
    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        found += [Path(parent, name) for name in names if not _hidden(name) and name.lower().endswith(EXTENSIONS)]
    return sorted(found)


def _class_names(root: Path, files: dict[str, dict[str, list[Path]]]) -> list[str]:
    """The classes, sorted, once it is sure that each has images in both splits."""
    with_images = {split: {name for name, found in files[split].items() if found} for split in _SPLITS}
    for split, other in (("val", "train"), ("train", "val")):
        missing = sorted((with_images[split] | set(files[other])) - with_images[other])
        if missing:
            raise DataError(
                "Every class needs images in both 'train' and 'val'",
                found=f"{root / other} has no image of {some(missing)}",
                remedy=f"Add images of these classes to {other!r}, or remove their folders from both splits",
            )
    names = sorted(with_images["train"])
    if len(names) < 2:
        raise DataError(
            "The data set has only one class",
            found=f"{names[0]!r} in {root}",
            remedy="Add a folder for each further class to 'train' and 'val'",
        )
    return names


def _hidden(name: str) -> bool:
    return name.startswith(".")
