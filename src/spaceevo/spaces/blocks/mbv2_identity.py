"""MBv2 as in MobileNetV2: no shortcut where shapes differ (CVPR 2018, Section 3)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), 1x1 linear, plus the input where shapes agree."""
    return inverted_residual(spec, x, net, identity_only=True)
