"""Which class is which: names decide, in whatever order a data set and a network number them.

A name with accents is the same composed and decomposed, as in `train.datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from spaceevo.errors import DataError
from spaceevo.records import ExtractedNetwork, ImageData
from spaceevo.train.datasets import some
from spaceevo.train.datasets._names import composed, spelled


def class_names_of(network: ExtractedNetwork) -> tuple[str, ...] | None:
    """Names of an extracted network's classes, in the order of its logits; None where it does not name each."""
    names = class_names_in(network.metadata)
    return names if names and len(names) == network.integer.nodes[-1].out_shape.channels else None


def class_names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names of classes, in the order of the logits; None where they are not told.

    Args:
        metadata: Of an extracted network, or of an exported file.
    """
    try:
        names = json.loads(metadata.get("class_names", "null"))
    except (ValueError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def in_class_order(data: ImageData, class_names: tuple[str, ...], source: object) -> ImageData:
    """A data set with its labels numbered as a network numbers its classes: names decide, not their order.

    Args:
        data: The data set.
        class_names: The network's, in the order of its logits.
        source: The network, for errors.

    Raises:
        DataError: It has other classes.
    """
    if data.class_names == class_names:
        return data
    ours, theirs = (list(map(composed, names)) for names in (data.class_names, class_names))
    if sorted(ours) != sorted(theirs):
        more, fewer = ([name for name in one if name not in other] for one, other in ((ours, theirs), (theirs, ours)))
        raise DataError(
            f"The data set {data.name} has other classes than {source}",
            found=f"Of its {len(ours):,} classes it alone has {some(map(spelled, more))}; of the network's "
            f"{len(theirs):,}, that alone has {some(map(spelled, fewer))}",
            remedy="Name the data that the network was trained for with `data`",
        )
    number_of = {name: number for number, name in enumerate(theirs)}
    number = np.array([number_of[name] for name in ours], np.int64)
    return replace(
        data,
        class_names=class_names,
        train_labels=number[data.train_labels],
        val_labels=number[data.val_labels],
    )
