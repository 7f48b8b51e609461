"""Convolutions as OpenVINO computes them on x86: one that goes on to add does not round in between.

Found in OpenVINO's source and its choice of kernels, and confirmed on networks. The order of operations is OpenVINO's,
so that every constant is the same float32 number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spaceevo.nets.arithmetic import accumulate, f32, fused_multiply_add, sum_scales
from spaceevo.records import IntegerWeights, QuantParams
from spaceevo.spaces.operators import NUM_CODES, Operator


def value_of(operator: Operator, x: Tensor, params: QuantParams, own: IntegerWeights) -> Tensor:
    """What a convolution of OpenVINO puts out before quantization: sums and bias in float32."""
    step = sum_scales(params, own)
    sums = accumulate(operator, x, params, replace(own, bias=np.zeros_like(own.bias))).float()
    return sums * step.view(-1, 1, 1) + (torch.from_numpy(own.bias).float() * step).view(-1, 1, 1)


def codes_of(value: Tensor, params: QuantParams) -> Tensor:
    return fused_multiply_add(value, *_scale_and_shift(*_limits(params))).round().clamp(0, NUM_CODES - 1)


def codes_of_sum(value: Tensor, a: QuantParams, b_codes: Tensor, b: QuantParams, y: QuantParams) -> Tensor:
    """Codes of a convolution's value plus a tensor: the value is clamped to its range, in units of the tensor's codes.

    The order of operations is OpenVINO's, so that the constants are the same float32 numbers.
    """
    largest, a_scale, b_scale = f32(NUM_CODES - 1), f32(a.scale), f32(b.scale)
    ratio, offset = a_scale / b_scale, f32(a.zero_point) + f32(b.zero_point) * b_scale / a_scale
    low, high = -offset * ratio, (largest - offset) * ratio
    unit = (high - low) / largest
    scale, shift = _scale_and_shift(*_limits(a))
    shift = shift * unit + low if b.zero_point else f32(0)  # it is minus that zero point, but for rounding
    branch = fused_multiply_add(value, scale * unit, shift).clamp(low, largest * unit + low)
    limits = (limit / b_scale for limit in _limits(y))
    return fused_multiply_add(branch + b_codes, *_scale_and_shift(*limits)).round().clamp(0, NUM_CODES - 1)


def _limits(params: QuantParams) -> tuple[Tensor, Tensor]:
    """Least and largest value that codes stand for."""
    scale = f32(params.scale)
    return f32(-params.zero_point) * scale, f32(NUM_CODES - 1 - params.zero_point) * scale


def _scale_and_shift(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift) that take values to codes. Without a shift, kernels divide by the reciprocal of the scale."""
    largest = f32(NUM_CODES - 1)
    scale, shift = largest / (high - low), -low * largest / (high - low)
    return (scale if low else 1 / (1 / scale)), shift


def fused_convolutions(operators: Sequence[Operator]) -> frozenset[str]:
    """The convolutions that go on to add: the first summand of an addition that is one and has no other reader.

    The sum overwrites the other summand. So the convolution does not read it, and whatever else reads it comes
    before the sum.
    """
    readers: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}  # all that an operator's result depends on, itself included
    by_name = {operator.name: operator for operator in operators}
    for operator in operators:
        before[operator.name] = {operator.name}.union(*(before.get(name, ()) for name in operator.inputs))
        for name in operator.inputs:
            readers.setdefault(name, set()).add(operator.name)
    fused = set()
    for addition in (operator for operator in operators if operator.kind == "add"):
        for name, other in (addition.inputs, addition.inputs[::-1]):
            if by_name[name].kind == "conv" and readers[name] == {addition.name}:
                if other not in by_name[name].inputs and readers[other] <= before[addition.name]:
                    fused.add(name)
                break
    return frozenset(fused)
