"""MBConv as in EfficientNet: SE relative to the block's input width, gated by a sigmoid (ICML 2019, Section 4)."""

from spaceevo.spaces.layers import Feature, Tracer, make_divisible
from spaceevo.spaces.subnet import BlockSpec


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), SE on a quarter of the input width, 1x1 linear, plus the input."""
    source, activation = x, spec.activation
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    if hidden != spec.in_width:
        x = net.conv("expand", x, hidden, activation=activation)
    x = net.depthwise("depthwise", x, kernel_size=spec.kernel_size, stride=spec.stride, activation=activation)
    x = net.squeeze_excite("se", x, max(1, spec.in_width // 4), activation=activation, gate="sigmoid")
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source)
