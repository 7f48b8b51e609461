"""MBv2-K3: the depthwise k x k of MBv2 as a stack of depthwise 3x3 (SpaceEvo, Section 4.1)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, (k - 1) / 2 times depthwise 3x3 (stride on the first), 1x1 linear, plus the shortcut."""
    return inverted_residual(spec, x, net, stacked=True)
