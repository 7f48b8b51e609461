"""Shapes, and the quantizers that the contract fixes."""

import pytest

from spaceevo.graph.tensors import FIXED_QUANTIZERS, NUM_CODES, RELU6_MAX_SCALE, Shape, Tensor, square

LEARNED = {"free": True, "offset": True, "relu": True, "relu6": True, "gate": False, "hard_sigmoid_input": False,
           "input": False, "none": False}  # fmt: skip


def test_shapes_by_hand():
    assert (Shape(8, 3, 5).num_positions, Shape(8, 3, 5).num_elements) == (15, 120)
    assert (Shape(10), Shape(10).num_elements) == ((10, 1, 1), 10)
    assert square(3, 9) == Shape(3, 9, 9)


def test_fixed_quantizers():
    scale, zero_point = FIXED_QUANTIZERS["gate"]
    assert (scale, zero_point) == (1 / 256, 0)
    # On every code of the hard sigmoid's input, hard sigmoid is the identity on codes, clamped by the code range
    in_scale, in_zero_point = FIXED_QUANTIZERS["hard_sigmoid_input"]
    for code in range(NUM_CODES):
        value = in_scale * (code - in_zero_point)
        assert min(max(value / 6 + 0.5, 0), 1) / scale + zero_point == code


def test_relu6_range_holds_at_most_six():
    assert RELU6_MAX_SCALE * (NUM_CODES - 1) == 6


@pytest.mark.parametrize(("quantizer", "is_learned"), LEARNED.items())
def test_learned_and_quantized(quantizer, is_learned):
    tensor = Tensor(Shape(8), quantizer)
    assert tensor.is_learned == is_learned
    assert tensor.is_quantized == (quantizer not in ("input", "none"))
    in_float = tensor._replace(stays_float=True)
    assert not in_float.is_learned
    assert not in_float.is_quantized
