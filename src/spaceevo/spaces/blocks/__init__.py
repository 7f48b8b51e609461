"""One file per block type: a `BlockPlugin`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from spaceevo.graph.trace import Activation, Feature, Tracer
from spaceevo.plugins import Registry
from spaceevo.spaces.choices import Value


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """What a block's declaration depends on.

    Attributes:
        in_width: Input channels.
        out_width: Output channels.
        kernel_sizes: As many as the block type has, one in most; odd in most.
        expand_ratio: Hidden over input width (inverted residuals) or over output width (bottlenecks).
        stride: 1 or 2.
        activation: Of the block.
        added: Value by name on every axis that the block type adds.
    """

    in_width: int
    out_width: int
    kernel_sizes: tuple[int, ...]
    expand_ratio: float
    stride: int
    activation: Activation
    added: tuple[tuple[str, Value], ...] = ()

    @property
    def kernel_size(self) -> int:
        """The only one."""
        (kernel_size,) = self.kernel_sizes
        return kernel_size


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
