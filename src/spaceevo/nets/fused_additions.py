"""Convolutions as OpenVINO computes them on x86: one that goes on to add does not round in between.

Found in OpenVINO's source and its choice of kernels, and confirmed on networks. The order of operations is OpenVINO's,
so that every constant is the same float32 number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spaceevo.graph.graphs import IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Add, Conv, Convolution, Depthwise
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.nets.arithmetic import accumulate, f32, fused_multiply_add, sum_scales

LARGEST = f32(NUM_CODES - 1)
SAME_SHIFT = 5e-5  # shifts of channels that differ by less count as the first one
NEGLIGIBLE = 1e-5  # share of the range below which a shift counts as none


class Value(NamedTuple):
    """What a convolution puts out before quantization, float32 [B, C, H, W].

    Attributes:
        numbers: Sums and bias; sums alone if every bias is 0.
        step: Of these sums [C, 1, 1], which OpenVINO then makes part of the constants of quantization; else None.
    """

    numbers: Tensor
    step: Tensor | None


def value_of(op: Convolution, x: Tensor, params: QuantParams, weights: IntegerWeights) -> Value:
    """What a convolution of OpenVINO puts out before quantization."""
    step = sum_scales(params, weights).view(-1, 1, 1)
    sums = accumulate(op, x, params, replace(weights, bias=np.zeros_like(weights.bias))).float()
    if not weights.bias.any():
        return Value(sums, step)
    return Value(sums * step + torch.from_numpy(weights.bias).float().view(-1, 1, 1) * step, None)


def codes_of(value: Value, params: QuantParams) -> Tensor:
    """Codes of a convolution's value."""
    scale, shift = _scale_and_shift(params, value.step)
    if not shift.any() and scale.numel() == 1:
        scale = _reciprocal_twice(scale)
    return _scaled(value, scale, shift).round().clamp(0, NUM_CODES - 1)


def codes_of_sum(value: Value, a: QuantParams, b_codes: Tensor, b: QuantParams, y: QuantParams) -> Tensor:
    """Codes of a convolution's value plus a tensor: the value is clamped to its range, in units of the tensor's codes.

    The order of operations is OpenVINO's, so that the constants are the same float32 numbers.
    """
    a_scale, b_scale = f32(a.scale), f32(b.scale)
    ratio, offset = a_scale / b_scale, f32(a.zero_point) + f32(b.zero_point) * b_scale / a_scale
    low, high = -offset * ratio, (LARGEST - offset) * ratio
    unit = (high - low) / LARGEST
    scale, shift = _scale_and_shift(a, value.step)
    shift = shift * unit + low
    if shift.numel() == 1 and shift.abs() < (LARGEST * unit) * NEGLIGIBLE:
        shift = f32(0)
    branch = _scaled(value, scale * unit, shift).clamp(low, LARGEST * unit + low)
    y_low, y_high = (limit / b_scale for limit in _limits(y))
    scale, shift = LARGEST / (y_high - y_low), -y_low * LARGEST / (y_high - y_low)
    total = fused_multiply_add(branch + b_codes, scale if shift else _reciprocal_twice(scale), shift)
    return total.round().clamp(0, NUM_CODES - 1)


def _limits(params: QuantParams) -> tuple[Tensor, Tensor]:
    """Least and largest value that codes stand for."""
    scale = f32(params.scale)
    return f32(-params.zero_point) * scale, f32(NUM_CODES - 1 - params.zero_point) * scale


def _scale_and_shift(params: QuantParams, step: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scale, shift) that take values to codes, 0-d if they are the same for every channel, else [C, 1, 1]."""
    low, high = _limits(params)
    if step is not None:
        low, high = low / step, high / step
    scale, shift = LARGEST / (high - low), -low * LARGEST / (high - low)
    if step is None:
        return scale, shift
    if bool((shift - shift[0]).abs().max() < SAME_SHIFT):
        shift = shift.flatten()[0]
    return (scale.flatten()[0] if bool((scale == scale[0]).all()) else scale), shift


def _scaled(value: Value, scale: Tensor, shift: Tensor) -> Tensor:
    """Values times scale plus shift, rounded once; twice where the scale became part of the weights."""
    if scale.numel() == shift.numel() == 1:
        return fused_multiply_add(value.numbers, scale, shift)
    return value.numbers * scale + shift


def _reciprocal_twice(scale: Tensor) -> Tensor:
    """Without a shift, kernels divide by a scale of the output."""
    return 1 / (1 / scale)


def fused_convolutions(program: Sequence[Node]) -> frozenset[str]:
    """The convolutions that go on to add: the first summand of an addition that is one and has no other reader.

    The sum overwrites the other summand. So the convolution does not read it, and whatever else reads it comes
    before the sum.
    """
    readers: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}  # all that a node's result depends on, itself included
    by_id = {node.id: node for node in program}
    for node in program:
        before[node.id] = {node.id}.union(*(before.get(name, ()) for name in node.inputs))
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.id)
    fused = set()
    for addition in (node for node in program if isinstance(node.op, Add)):
        for name, other in (addition.inputs, addition.inputs[::-1]):
            if isinstance(by_id[name].op, (Conv, Depthwise)) and readers[name] == {addition.id}:
                if other not in by_id[name].inputs and readers[other] <= before[addition.id]:
                    fused.add(name)
                break
    return frozenset(fused)
