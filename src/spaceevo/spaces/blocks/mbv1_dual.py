"""MBv1-dual: two depthwise-separable convolutions and a shortcut (SpaceEvo, Section 4.1)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """Depthwise k (stride), 1x1, depthwise k, 1x1, each with activation, plus the shortcut."""
    source, k, activation = x, spec.kernel_size, spec.activation
    x = net.depthwise("depthwise1", x, kernel_size=k, stride=spec.stride, activation=activation)
    x = net.conv("pointwise1", x, spec.out_width, activation=activation)
    x = net.depthwise("depthwise2", x, kernel_size=k, activation=activation)
    x = net.conv("pointwise2", x, spec.out_width, activation=activation)
    return net.shortcut(x, source, stride=spec.stride)
