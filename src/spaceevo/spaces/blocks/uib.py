"""Universal inverted bottleneck (MobileNetV4, ECCV 2024, Section 4).

It has two kernel sizes, that of the first depthwise convolution and that of the middle one, 0 where left out: (3, 5) is
ExtraDW, (3, 0) ConvNext-like, (0, 5) an inverted bottleneck, (0, 0) feed-forward.
"""

from spaceevo.graph.trace import Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """Depthwise (linear), 1x1 to hidden, depthwise, 1x1 linear, plus the input; the middle one takes the stride."""
    source, activation = x, spec.activation
    first, middle = spec.kernel_sizes
    if first:
        x = net.depthwise("start", x, kernel_size=first, stride=1 if middle else spec.stride)
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    x = net.conv("expand", x, hidden, stride=1 if first or middle else spec.stride, activation=activation)
    if middle:
        x = net.depthwise("depthwise", x, kernel_size=middle, stride=spec.stride, activation=activation)
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source)
