"""MBv3 as in MobileNetV3: no shortcut where shapes differ (ICCV 2019, Section 5)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import hidden_width, inverted_residual
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), SE on a quarter of hidden, 1x1 linear, plus the input where shapes agree."""
    return inverted_residual(spec, x, net, reduced=make_divisible(hidden_width(spec) / 4), identity_only=True)
