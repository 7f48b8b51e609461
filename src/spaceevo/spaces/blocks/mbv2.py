"""MBv2: inverted residual with a linear bottleneck (MobileNetV2, CVPR 2018, Section 3)."""

from spaceevo.graph.trace import Activation, Feature, Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.choices import make_divisible


def declare(spec: BlockSpec, x: Feature, net: Tracer) -> Feature:
    """1x1 to hidden, depthwise k (stride), 1x1 linear, plus the shortcut."""
    return inverted_residual(spec, x, net)


def hidden_width(spec: BlockSpec) -> int:
    """Width between the two 1x1 convolutions."""
    return make_divisible(spec.in_width * spec.expand_ratio)


def inverted_residual(
    spec: BlockSpec,
    x: Feature,
    net: Tracer,
    *,
    reduced: int = 0,
    se_activation: Activation = "relu",
    se_gate: Activation = "hard_sigmoid",
    stacked: bool = False,
    cropped: bool = False,
    identity_only: bool = False,
) -> Feature:
    """The inverted residual; the expansion is left out where hidden equals the input width.

    Args:
        spec: Of the block.
        x: Its input.
        net: Takes the layers.
        reduced: Width inside of squeeze-and-excite; 0 for none.
        se_activation: Inside of it.
        se_gate: At its end.
        stacked: A stack of depthwise 3x3 instead of one larger kernel.
        cropped: The depthwise convolution pads one pixel less on each side.
        identity_only: No shortcut where the shapes of input and output differ, instead of a projection.
    """
    source, k, activation = x, spec.kernel_size, spec.activation
    hidden = hidden_width(spec)
    if hidden != spec.in_width:
        x = net.conv("expand", x, hidden, activation=activation)
    if stacked:
        x = _depthwise_stack(x, net, k // 2, spec.stride, activation)
    else:
        x = net.depthwise("depthwise", x, kernel_size=k, stride=spec.stride, crop=int(cropped), activation=activation)
    if reduced:
        x = net.squeeze_excite("se", x, reduced, activation=se_activation, gate=se_gate)
    x = net.conv("project", x, spec.out_width)
    return net.residual(x, source) if identity_only else net.shortcut(x, source, stride=spec.stride)


def _depthwise_stack(x: Feature, net: Tracer, depth: int, stride: int, activation: Activation) -> Feature:
    for index in range(depth - 1):
        x = net.depthwise(f"depthwise{index}", x, kernel_size=3, stride=stride, norm="none")
        stride = 1
    # One norm for all depths, on whichever convolution is the last.
    weights = f"depthwise{depth - 1}"
    return net.depthwise("depthwise", x, kernel_size=3, stride=stride, activation=activation, weights=weights)
