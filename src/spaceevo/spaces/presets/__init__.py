"""One file per hyperspace: a `Preset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from spaceevo.plugins import Registry

if TYPE_CHECKING:
    from spaceevo.spaces.hyperspace import Hyperspace


class Preset(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.spaces.presets`.

    Attributes:
        HYPERSPACE: Its name is the file's.
    """

    HYPERSPACE: Hyperspace


PRESETS = Registry("spaceevo.spaces.presets", Preset)
