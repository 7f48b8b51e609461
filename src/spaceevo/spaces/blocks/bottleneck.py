"""Residual bottleneck (ResNet, CVPR 2016, Section 4.1), hidden width relative to the output width."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, k x k (stride), 1x1 linear, plus the shortcut, activation after the addition."""
    return bottleneck(spec, x, net)


def bottleneck(spec: BlockSpec, x: Feature, net: Tracer, *, squeeze_excite: bool = False) -> Feature:
    """The residual bottleneck, if asked with SE on a quarter of the block's input width."""
    source, activation = x, spec.activation
    hidden = make_divisible(spec.out_width * spec.expand_ratio)
    x = net.conv("reduce", x, hidden, activation=activation)
    x = net.conv("conv", x, hidden, kernel_size=spec.kernel_size, stride=spec.stride, activation=activation)
    if squeeze_excite:
        x = net.squeeze_excite("se", x, make_divisible(spec.in_width / 4))
    x = net.conv("expand", x, spec.out_width)
    return net.shortcut(x, source, stride=spec.stride, activation=activation)
