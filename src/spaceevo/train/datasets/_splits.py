"""Validation images held out of images that come in one part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from spaceevo.errors import DataError
from spaceevo.seeding import numpy_random
from spaceevo.train.datasets._names import spelled

T = TypeVar("T")


def held_out(
    images: Mapping[str, Sequence[T]], share: float, seed: int, source: str
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
    """Hold a share of each class out, at least one image, and leave at least one.

    What is drawn in a class depends on its name and its images alone: another class changes nothing.

    Args:
        images: By class, in an order that does not change.
        share: Of each class, above 0 and below 1.
        seed: Another one draws others.
        source: The data set, for errors.

    Returns:
        By class: (for training, for validation), in the order in which they were given.

    Raises:
        DataError: A class has only one image.
    """
    train: dict[str, list[T]] = {}
    val: dict[str, list[T]] = {}
    for name, found in images.items():
        if len(found) < 2:
            raise DataError(
                "Every class needs two images, one for training and one for validation",
                found=f"{spelled(name)} has {len(found)} in {source}",
                remedy="Add images of that class, or leave it out",
            )
        count = min(len(found) - 1, max(1, round(share * len(found))))
        drawn = set(numpy_random(seed, "held out", name).permutation(len(found))[:count].tolist())
        train[name] = [one for number, one in enumerate(found) if number not in drawn]
        val[name] = [one for number, one in enumerate(found) if number in drawn]
    return train, val
