"""FBNetV3's block with SE on a quarter of the input width (CVPR 2021; released model definitions)."""

from spaceevo.spaces.blocks.mbv2 import inverted_residual
from spaceevo.spaces.layers import Feature, Tracer
from spaceevo.spaces.subnet import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), SE, 1x1 linear, plus the input where shapes agree."""
    return inverted_residual(spec, x, net, squeeze_excite=True, se_of_input=True, identity_only=True)
