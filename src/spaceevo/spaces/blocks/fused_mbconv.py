"""Fused MBConv: expansion and depthwise convolution in one dense k x k (EfficientNetV2, ICML 2021, Section 3.2)."""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """k x k (stride) to hidden, 1x1 linear, plus the shortcut."""
    return fused_mbconv(spec, x, net)


def fused_mbconv(
    spec: BlockSpec, x: Feature, net: Tracer, *, squeeze_excite: bool = False, identity_only: bool = False
) -> Feature:
    """The fused MBConv.

    Args:
        spec: Of the block.
        x: Its input.
        net: Takes the layers.
        squeeze_excite: With SE on a quarter of the block's input width.
        identity_only: No shortcut where the shapes of input and output differ, instead of a projection.
    """
    source = x
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    x = net.conv("conv", x, hidden, kernel_size=spec.kernel_size, stride=spec.stride, activation=spec.activation)
    if squeeze_excite:
        x = net.squeeze_excite("se", x, make_divisible(spec.in_width / 4))
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source) if identity_only else net.shortcut(x, source, stride=spec.stride)
