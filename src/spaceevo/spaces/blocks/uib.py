"""Universal inverted bottleneck (MobileNetV4, ECCV 2024, Section 4).

The kernel size is written in two digits, that of the first depthwise convolution and that of the middle one, 0 where
left out: 35 (ExtraDW), 30 (ConvNext-like), 5 (inverted bottleneck), 0 (feed-forward).
"""

from spaceevo.spaces.layers import Feature, Tracer, make_divisible
from spaceevo.spaces.subnet import BlockSpec


def common_kernel_size(one: int, other: int) -> int:
    """That of the largest block which is part of both: of each depthwise convolution the smaller one.

    >>> common_kernel_size(35, 50), common_kernel_size(33, 5)
    (30, 3)
    """
    return 10 * min(one // 10, other // 10) + min(one % 10, other % 10)


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """Depthwise (linear), 1x1 to hidden, depthwise, 1x1 linear, plus the input; the middle one takes the stride."""
    source, activation = x, spec.activation
    first, middle = divmod(spec.kernel_size, 10)
    if first:
        x = net.depthwise("start", x, kernel_size=first, stride=1 if middle else spec.stride)
    hidden = make_divisible(spec.in_width * spec.expand_ratio)
    x = net.conv("expand", x, hidden, stride=1 if first or middle else spec.stride, activation=activation)
    if middle:
        x = net.depthwise("depthwise", x, kernel_size=middle, stride=spec.stride, activation=activation)
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source)
