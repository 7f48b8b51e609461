"""Fused inverted bottleneck without a projected shortcut (MobileNetV4, ECCV 2024, Section 4)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.fused_mbconv import fused_mbconv


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k (stride) to hidden, 1x1 linear, plus the input where shapes agree."""
    return fused_mbconv(spec, x, net, identity_only=True)
