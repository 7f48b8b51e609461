"""MBv3-K3: the depthwise k x k of MBv3 as a stack of depthwise 3x3 (SpaceEvo, Section 4.1)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import hidden_width, inverted_residual
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """MBv2-K3 with SE on a quarter of hidden before the last 1x1."""
    return inverted_residual(spec, x, net, reduced=make_divisible(hidden_width(spec) / 4), stacked=True)
