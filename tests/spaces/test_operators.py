"""Lowering, against programs written out by hand."""

from dataclasses import replace

import pytest

from spaceevo.spaces.layers import INPUT, Feature, Tracer
from spaceevo.spaces.operators import (
    FIXED_QUANTIZERS,
    RELU6_MAX_SCALE,
    Operator,
    elementwise_maximum,
    operators,
)


def lowered(activation):
    net = Tracer()
    net.conv("conv", Feature(INPUT, 4, 6), 8, kernel_size=3, stride=2, activation=activation)
    program = operators(tuple(net.layers))
    assert program[0] == Operator(INPUT, "quantize", (INPUT,), 4, 4, 6, 6, "free")
    return program[1:]


def conv(name, quantizer):
    return Operator(name, "conv", (INPUT,), 4, 8, 6, 3, quantizer, kernel_size=3, stride=2)


def pointwise(name, kind, inputs, quantizer):
    return Operator(name, kind, inputs, 8, 8, 3, 3, quantizer)


@pytest.mark.parametrize(
    ("activation", "program"),
    [
        (None, [conv("conv", "free")]),
        ("relu", [conv("conv", "relu")]),
        ("relu6", [conv("conv", "relu6")]),
        (
            "hard_sigmoid",
            [
                conv("conv:linear", "hard_sigmoid_input"),
                pointwise("conv", "relabel", ("conv:linear",), "gate"),
            ],
        ),
        (
            "hard_swish",
            [
                conv("conv:linear", "free"),
                pointwise("conv:gate", "gate", ("conv:linear",), "gate"),
                pointwise("conv", "multiply", ("conv:linear", "conv:gate"), "free"),
            ],
        ),
        (
            "swish",
            [
                conv("conv:linear", "free"),
                pointwise("conv:gate", "sigmoid", ("conv:linear",), "gate"),
                pointwise("conv", "multiply", ("conv:linear", "conv:gate"), "free"),
            ],
        ),
    ],
)
def test_activations(activation, program):
    assert list(lowered(activation)) == program


def test_the_other_kinds():
    net = Tracer()
    x = Feature(INPUT, 4, 6)
    y = net.depthwise("depthwise", x, kernel_size=5)
    y = net.shortcut(y, x, stride=1, activation="relu")
    y = net.pool("pool", y)
    net.linear("logits", y, 3)
    assert operators(tuple(net.layers))[1:] == (
        Operator("depthwise", "conv", (INPUT,), 4, 4, 6, 6, "free", kernel_size=5, depthwise=True),
        Operator("add", "add", ("depthwise", INPUT), 4, 4, 6, 6, "relu"),
        Operator("pool", "pool", ("add",), 4, 4, 6, 1, "free"),
        Operator("logits", "linear", ("pool",), 4, 3, 1, 1, "none"),
    )


def test_squeeze_excite_gates_by_a_relabelled_convolution():
    net = Tracer()
    net.squeeze_excite("se", Feature(INPUT, 8, 4), 4)
    program = {o.name: (o.kind, o.quantizer) for o in operators(tuple(net.layers))}
    assert program == {
        INPUT: ("quantize", "free"),
        "se/pool": ("pool", "free"),
        "se/reduce": ("conv", "relu"),
        "se/expand:linear": ("conv", "hard_sigmoid_input"),
        "se/expand": ("relabel", "gate"),
        "se/scale": ("multiply", "free"),
    }


def test_fixed_quantizers():
    scale, zero_point = FIXED_QUANTIZERS["gate"]
    assert (scale, zero_point) == (1 / 256, 0)
    # On every code of the hard sigmoid's input, hard sigmoid is the identity on codes, clamped by the code range
    in_scale, in_zero_point = FIXED_QUANTIZERS["hard_sigmoid_input"]
    for code in range(256):
        value = in_scale * (code - in_zero_point)
        assert min(max(value / 6 + 0.5, 0), 1) / scale + zero_point == code


def test_relu6_range_holds_at_most_six():
    assert RELU6_MAX_SCALE * 255 == 6
    assert [o.quantizer for o in lowered("relu6")] == ["relu6"]


def test_learned_quantizers():
    is_learned = {o.quantizer: o.is_learned for a in (None, "relu", "relu6", "hard_swish", "hard_sigmoid")
                  for o in lowered(a)}  # fmt: skip
    assert is_learned == {"free": True, "relu": True, "relu6": True, "gate": False, "hard_sigmoid_input": False}


def test_weights_and_costs():
    dense = conv("conv", "free")
    assert (dense.weight_shape, dense.groups, dense.padding, dense.macs) == ((8, 4, 3, 3), 1, 1, 9 * 4 * 8 * 9)
    depthwise = Operator("d", "conv", (INPUT,), 6, 6, 5, 5, "free", kernel_size=5, depthwise=True)
    assert (depthwise.weight_shape, depthwise.groups, depthwise.padding) == ((6, 1, 5, 5), 6, 2)
    assert depthwise.macs == 25 * 6 * 25
    linear = Operator("l", "linear", ("pool",), 6, 10, 1, 1, "none")
    assert (linear.weight_shape, linear.macs, linear.has_weights) == ((10, 6), 60, True)
    assert not pointwise("gate", "gate", ("x",), "gate").has_weights


def test_elementwise_maximum():
    wide = conv("a", "free")
    other = replace(wide, in_channels=16, out_channels=2, kernel_size=5)
    alone = conv("b", "relu")
    largest = elementwise_maximum([(wide,), (other, alone)])
    assert largest == {"a": replace(wide, in_channels=16, kernel_size=5), "b": alone}
