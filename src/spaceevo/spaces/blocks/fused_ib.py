"""Fused inverted bottleneck without a projected shortcut (MobileNetV4, ECCV 2024, Section 4)."""

from spaceevo.spaces.layers import Feature, Tracer, make_divisible
from spaceevo.spaces.subnet import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k (stride) to hidden, 1x1 linear, plus the input where shapes agree."""
    source = x
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    x = net.conv("conv", x, hidden, kernel_size=spec.kernel_size, stride=spec.stride, activation=spec.activation)
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source)
