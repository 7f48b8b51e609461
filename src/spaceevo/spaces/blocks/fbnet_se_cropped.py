"""FBNetV3's strided block with SE that crops a pixel (released model definitions)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, cropping depthwise k (stride), SE on a quarter of the input width, 1x1 linear."""
    return inverted_residual(spec, x, net, reduced=make_divisible(spec.in_width / 4), cropped=True, identity_only=True)
