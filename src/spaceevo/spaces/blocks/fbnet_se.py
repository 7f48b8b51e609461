"""FBNetV3's block with SE on a quarter of the input width (CVPR 2021; released model definitions)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), SE, 1x1 linear, plus the input where shapes agree."""
    return inverted_residual(spec, x, net, reduced=make_divisible(spec.in_width / 4), identity_only=True)
