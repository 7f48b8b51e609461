"""FBNetV3's strided block whose depthwise convolution crops a pixel (released model definitions)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.blocks.mbv2 import inverted_residual


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, cropping depthwise k (stride), 1x1 linear."""
    return inverted_residual(spec, x, net, cropped=True, identity_only=True)
