"""Fused MBConv with squeeze-and-excite (EfficientNetV2, ICML 2021, Section 3.2)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.fused_mbconv import fused_mbconv


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k (stride) to hidden, SE on a quarter of the input width, 1x1 linear, plus the shortcut."""
    return fused_mbconv(spec, x, net, squeeze_excite=True)
