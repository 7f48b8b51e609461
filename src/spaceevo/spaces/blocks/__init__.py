"""One file per block type: a `BlockPlugin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.plugins import Registry

if TYPE_CHECKING:
    from spaceevo.spaces.subnet import BlockSpec


class BlockPlugin(Protocol):
    """A module of this folder, or of an entry point in the group `spaceevo.spaces.blocks`."""

    def declare(self, spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
        """Put the block's layers on the tracer; layers must be named alike for all specs.

        A supernet holds, for each name, the largest operator over all specs.

        Args:
            spec: Widths, kernel sizes, expand ratio, stride, activation.
            x: The block's input.
            net: Takes the layers.

        Returns:
            The block's output.
        """
        ...


BLOCKS = Registry("spaceevo.spaces.blocks", BlockPlugin)
