"""Shapes, weights and costs of every operator against numbers worked out by hand, on squares and rectangles."""

from typing import get_args

import pytest
from hypothesis import given, strategies as st

from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Op,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import Shape, square

X = Shape(4, 6, 10)
#: (operator, its input) -> (output, weights, MACs, parameters).
BY_HAND = [
    (Quantize(), X, X, (), 0, 0),
    (Gate(), X, X, (), 0, 0),
    (Sigmoid(), X, X, (), 0, 0),
    (Relabel(), X, X, (), 0, 0),
    (Add(), X, X, (), 0, 0),
    (Multiply(), X, X, (), 0, 0),
    (Multiply(per_channel=True), X, X, (), 0, 0),
    (Pool(), X, Shape(4, 1, 1), (), 0, 0),
    # Windows of 3 around the positions 0, 2, 4 and 0, 2, 4, 6, 8
    (MaxPool(), X, Shape(4, 3, 5), (), 0, 0),
    (MaxPool(kernel_size=5, stride=1), X, X, (), 0, 0),
    # 9 * 4 products for each of 8 channels at each of 3 * 5 positions; a scale and a shift for each of 8 channels
    (Conv(8, 3, 2), X, Shape(8, 3, 5), (8, 4, 3, 3), 9 * 4 * 8 * 15, 9 * 4 * 8 + 2 * 8),
    (Conv(8, norm="bias"), X, Shape(8, 6, 10), (8, 4, 1, 1), 4 * 8 * 60, 4 * 8 + 8),
    (Conv(8, norm="none"), X, Shape(8, 6, 10), (8, 4, 1, 1), 4 * 8 * 60, 4 * 8),
    # Cropped by the whole padding: windows of 5 fit 2 times into 6, and 6 times into 10
    (Conv(8, 5, crop=2), X, Shape(8, 2, 6), (8, 4, 5, 5), 25 * 4 * 8 * 12, 25 * 4 * 8 + 2 * 8),
    (Depthwise(5), X, X, (4, 1, 5, 5), 25 * 4 * 60, 25 * 4 + 2 * 4),
    (Depthwise(3, 2, norm="none"), X, Shape(4, 3, 5), (4, 1, 3, 3), 9 * 4 * 15, 9 * 4),
    # Cropped by one, stride 2: windows begin at 0, 2 of 6 and at 0, 2, 4, 6 of 10
    (Depthwise(3, 2, crop=1), X, Shape(4, 2, 4), (4, 1, 3, 3), 9 * 4 * 8, 9 * 4 + 2 * 4),
    (Linear(10), Shape(4), Shape(10), (10, 4), 40, 50),
]
kernel_sizes = st.sampled_from([1, 3, 5, 7])
strides = st.sampled_from([1, 2, 3])


@st.composite
def windowed(draw):
    """An operator with a window, cropped or not."""
    kernel_size, stride = draw(kernel_sizes), draw(strides)
    crop = draw(st.integers(0, kernel_size // 2))
    return draw(
        st.sampled_from(
            [Conv(8, kernel_size, stride, crop), Depthwise(kernel_size, stride, crop), MaxPool(kernel_size, stride)]
        )
    )


@pytest.mark.parametrize(("op", "x", "out_shape", "weight_shape", "macs", "num_params"), BY_HAND, ids=repr)
def test_by_hand(op, x, out_shape, weight_shape, macs, num_params):
    assert op.out_shape(x) == out_shape
    assert op.weight_shape(x) == weight_shape
    assert (op.macs(x), op.num_params(x)) == (macs, num_params)


def test_every_operator_is_worked_out():
    assert {type(op) for op, *_ in BY_HAND} == set(get_args(Op))


@pytest.mark.parametrize(("op", "padding"), [(Conv(8, 3), 1), (Conv(8, 7, crop=1), 2), (Depthwise(5), 2),
                                             (Depthwise(5, crop=2), 0), (MaxPool(3), 1), (Conv(8), 0)])  # fmt: skip
def test_padding(op, padding):
    assert op.padding == padding


@given(windowed(), st.integers(7, 40), st.integers(7, 40))
def test_windows_are_counted(op, height, width):
    def positions(size):
        return len(range(-op.padding, size + op.padding - op.kernel_size + 1, op.stride))

    out_shape = op.out_shape(Shape(8, height, width))
    assert out_shape == Shape(8, positions(height), positions(width))


@given(windowed(), st.integers(7, 40), st.integers(7, 40))
def test_height_and_width_do_not_mix(op, height, width):
    """A rectangle has the height of one square and the width of another; squares stay squares."""
    tall, wide = op.out_shape(square(8, height)), op.out_shape(square(8, width))
    assert tall.height == tall.width
    assert op.out_shape(Shape(8, height, width)) == Shape(8, tall.height, wide.width)
    assert op.out_shape(Shape(8, width, height)) == Shape(8, wide.height, tall.width)


@given(windowed(), st.integers(7, 40), st.integers(7, 40))
def test_costs_follow_the_positions(op, height, width):
    x, turned = Shape(8, height, width), Shape(8, width, height)
    per_position = op.macs(Shape(8, 7, 7)) // op.out_shape(Shape(8, 7, 7)).num_positions
    assert op.macs(x) == op.macs(turned) == per_position * op.out_shape(x).num_positions
    assert op.num_params(x) == op.num_params(square(8, 7)), "parameters do not depend on the size"
    assert op.weight_shape(x) == op.weight_shape(square(8, 7))


@pytest.mark.parametrize(
    ("size", "stride", "kernel_size"), [(s, t, k) for s in (1, 7, 8) for t in (1, 2) for k in (1, 3, 5)]
)
def test_size_put_out_is_that_of_a_padded_convolution(size, stride, kernel_size):
    padded = size + 2 * (kernel_size // 2)
    positions = len(range(0, padded - kernel_size + 1, stride))
    assert Conv(1, kernel_size, stride).out_shape(square(1, size)) == square(1, positions)
