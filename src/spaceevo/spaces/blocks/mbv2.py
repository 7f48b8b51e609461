"""MBv2: inverted residual with a linear bottleneck (MobileNetV2, CVPR 2018, Section 3)."""

from spaceevo.spaces.layers import Feature, Tracer, make_divisible
from spaceevo.spaces.subnet import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), 1x1 linear, plus the shortcut."""
    return inverted_residual(spec, x, net, squeeze_excite=False)


def inverted_residual(spec: BlockSpec, x: Feature, net: Tracer, *, squeeze_excite: bool) -> Feature:
    """The inverted residual; the expansion is left out where hidden equals the input width."""
    source = x
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    if hidden != spec.in_width:
        x = net.conv("expand", x, hidden, activation=spec.activation)
    x = net.depthwise("depthwise", x, kernel_size=spec.kernel_size, stride=spec.stride, activation=spec.activation)
    if squeeze_excite:
        x = net.squeeze_excite("se", x, make_divisible(hidden / 4))
    x = net.conv("project", x, spec.out_width)
    return net.shortcut(x, source, stride=spec.stride)
