"""One convolution: the stem of a network."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k convolution (stride) with activation."""
    return net.conv(
        "conv",
        x,
        spec.out_width,
        kernel_size=spec.kernel_size,
        stride=spec.stride,
        activation=spec.activation,
    )
