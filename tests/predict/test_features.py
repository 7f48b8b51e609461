"""Features of kernels."""

from dataclasses import replace
from math import log2

import pytest
from hypothesis import given, strategies as st

from spaceevo.graph.nodes import Node, Program, Role
from spaceevo.graph.ops import Conv, Depthwise, Op, Relabel
from spaceevo.graph.tensors import Shape, Tensor, square
from spaceevo.graph.trace import Activation, Tracer
from spaceevo.predict.features import Kernel, features, kernel, place


def conv(width: int, size: int, kernel_size: int, stride: int = 1, depthwise: bool = False) -> Kernel:
    op: Op = Depthwise(kernel_size, stride) if depthwise else Conv(width, kernel_size, stride)
    x = square(width, size)
    return Kernel(op, x, Tensor(op.out_shape(x), "relu"))


@given(
    width=st.integers(1, 200),
    size=st.integers(1, 64),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    depthwise=st.booleans(),
)
def test_more_work_never_means_smaller_features(
    width: int, size: int, kernel_size: int, stride: int, depthwise: bool
) -> None:
    own = conv(width, size, kernel_size, stride, depthwise)
    group, values = features(own)
    assert min(values) > 0
    assert values[1] >= own.op.macs(own.in_shape)
    wider = features(conv(width + 8, size, kernel_size, stride, depthwise))
    assert wider[0] == group
    assert all(b >= a for a, b in zip(values, wider[1], strict=True))
    larger = features(conv(width, size + 8, kernel_size, stride, depthwise))
    if size > 1:
        assert larger[0] == group
    assert all(b >= a for a, b in zip(values, larger[1], strict=True))


def test_names_norms_and_where_weights_lie_do_not_matter() -> None:
    x = square(16, 8)
    node = Node("c", Depthwise(3), ("x",), x, Tensor(x, "relu"), Role("stage1", 0, "c"))
    other = replace(
        node, id="d", op=Depthwise(3, norm="none"), inputs=("y",), role=Role("stem", 1, "d"), weights="depthwise1"
    )
    assert kernel(node) == kernel(other)
    assert kernel(node) != kernel(replace(node, op=Depthwise(3, stride=2)))
    assert kernel(node) != kernel(replace(node, out=Tensor(x, "free")))


def program(activation: Activation) -> Program:
    net = Tracer(square(3, 8))
    x = net.conv("conv", net.input, 16, activation=activation)
    net.squeeze_excite("se", x, 8)
    return net.program


def test_products_by_element_and_by_channel_are_different_groups() -> None:
    groups = {node.id: features(kernel(node))[0] for node in program("hard_swish")}
    assert groups["conv"] == "multiply"
    assert groups["se/scale"] == "scale"
    assert groups["conv:gate"] == "gate"
    assert groups["se/reduce"] == "conv1x1 on a pooled feature"


def test_an_activation_of_one_position_is_no_squeeze_and_excite() -> None:
    net = Tracer(square(16, 1))
    net.conv("conv", net.input, 16, activation="swish")
    assert features(kernel(net.program[-1]))[0] == "multiply"


def test_only_relabelling_is_free() -> None:
    for node in (*program("hard_swish"), *program("swish"), *program("relu")):
        assert (features(kernel(node))[1] == ()) == isinstance(node.op, Relabel)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_depthwise_and_dense_convolutions_are_different_groups(kernel_size: int) -> None:
    assert features(conv(8, 8, kernel_size))[0] != features(conv(8, 8, kernel_size, depthwise=True))[0]


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_a_rectangle_lies_where_a_square_of_its_positions_does(height: int, width: int) -> None:
    def at(height: int, width: int) -> Kernel:
        return Kernel(Conv(8), Shape(8, height, width), Tensor(Shape(8, height, width), "relu"))

    assert place(at(height, height))[2] == log2(height)
    assert place(at(height, width)) == place(at(width, height))
    assert place(at(height, width))[2] == pytest.approx(log2(height * width) / 2)
    assert features(at(height, width))[1][1] == 8 * 16 * height * width
