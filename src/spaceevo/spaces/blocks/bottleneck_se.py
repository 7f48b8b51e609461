"""Residual bottleneck with squeeze-and-excite (RegNet, CVPR 2020, Section 4)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.bottleneck import bottleneck


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, k x k (stride), SE on a quarter of the input width, 1x1 linear, plus the shortcut, activation."""
    return bottleneck(spec, x, net, squeeze_excite=True)
