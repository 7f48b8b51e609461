"""Residual block of two convolutions (ResNet, CVPR 2016, Section 3.3)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k (stride), k x k, plus the shortcut, activation after the addition."""
    source, k, activation = x, spec.kernel_size, spec.activation
    x = net.conv("conv1", x, spec.out_width, kernel_size=k, stride=spec.stride, activation=activation)
    x = net.conv("conv2", x, spec.out_width, kernel_size=k)
    return net.shortcut(x, source, stride=spec.stride, activation=activation)
