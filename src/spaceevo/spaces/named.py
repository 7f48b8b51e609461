"""What words of a command line name: search spaces by their encodings, networks by the zoo's names or encodings."""

from __future__ import annotations

from dataclasses import replace

from spaceevo.errors import EncodingError
from spaceevo.spaces import zoo
from spaceevo.spaces.encoding import decode, is_encoding
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet


def named_space(encoding: str, num_classes: int) -> SearchSpace:
    """The search space of an encoding.

    Raises:
        EncodingError: Malformed, or a choice that the hyperspace does not have.
        PluginError: There is no such hyperspace.

    >>> named_space("micro-000-000", 10).encoding
    'micro-000-000'
    """
    hyperspace = load_hyperspace(encoding.split("-", 1)[0])
    return hyperspace.space(hyperspace.decode(encoding), num_classes)


def named_subnet(word: str, space: str = "", num_classes: int = zoo.NUM_CLASSES) -> Subnet:
    """A network.

    Args:
        word: A name of the zoo, or an encoding.
        space: Search space of the encoding.
        num_classes: Of the logits.

    Raises:
        EncodingError: Malformed, not in the space, or without one.
        PluginError: There is no such network or hyperspace; the nearest is told.

    >>> named_subnet("ResNet-18", num_classes=10).resolution
    224
    """
    if not is_encoding(word):
        return replace(zoo.load_network(word).subnet, num_classes=num_classes)
    if not space:
        raise EncodingError(
            f"{word} is an encoding, and those of different spaces look alike",
            remedy="Name its space too, for example `space` micro-014-120",
        )
    return decode(word, named_space(space, num_classes))
