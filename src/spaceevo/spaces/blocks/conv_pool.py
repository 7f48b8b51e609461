"""A convolution and a max pool: the stem of a ResNet (CVPR 2016, Table 1)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k with half of the stride and activation, then a max pool 3x3 with the rest."""
    stride = max(1, spec.stride // 2)
    x = net.conv("conv", x, spec.out_width, kernel_size=spec.kernel_size, stride=stride, activation=spec.activation)
    return net.max_pool("pool", x, stride=min(2, spec.stride))
