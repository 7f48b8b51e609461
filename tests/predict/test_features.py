"""Features of operators."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.predict.features import features
from spaceevo.spaces.layers import INPUT, Activation, Feature, Tracer
from spaceevo.spaces.operators import Operator, operators


def conv(width: int, size: int, kernel_size: int, stride: int = 1, depthwise: bool = False) -> Operator:
    out_size = (size - 1) // stride + 1
    return Operator("c", "conv", ("x",), width, width, size, out_size, "relu", kernel_size, stride, depthwise)


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
    group, values = features(conv(width, size, kernel_size, stride, depthwise))
    assert min(values) > 0
    assert values[1] >= conv(width, size, kernel_size, stride, depthwise).macs
    wider = features(conv(width + 8, size, kernel_size, stride, depthwise))
    assert wider[0] == group
    assert all(b >= a for a, b in zip(values, wider[1], strict=True))
    larger = features(conv(width, size + 8, kernel_size, stride, depthwise))
    if size > 1:
        assert larger[0] == group
    assert all(b >= a for a, b in zip(values, larger[1], strict=True))


def test_names_do_not_matter() -> None:
    operator = conv(16, 8, 3)
    assert features(operator) == features(replace(operator, name="other", inputs=("elsewhere",)))


def program(activation: Activation) -> tuple[Operator, ...]:
    net = Tracer()
    x = net.conv("conv", Feature(INPUT, 3, 8), 16, activation=activation)
    net.squeeze_excite("se", x, 8)
    return operators(tuple(net.layers))


def test_products_by_element_and_by_channel_are_different_groups() -> None:
    groups = {operator.name: features(operator)[0] for operator in program("hard_swish")}
    assert groups["conv"] == "multiply"
    assert groups["se/scale"] == "scale"
    assert groups["conv:gate"] == "gate"
    assert groups["se/reduce"] == "conv1x1 on a pooled feature"


def test_only_relabelling_is_free() -> None:
    for operator in (*program("hard_swish"), *program("swish"), *program("relu")):
        assert (features(operator)[1] == ()) == (operator.kind == "relabel")


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_depthwise_and_dense_convolutions_are_different_groups(kernel_size: int) -> None:
    assert features(conv(8, 8, kernel_size))[0] != features(conv(8, 8, kernel_size, depthwise=True))[0]
