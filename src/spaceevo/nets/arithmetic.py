"""Integer arithmetic of the quantization contract, on codes that are integer-valued float32 tensors.

Shape suffixes: B images, C channels, H = W size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spaceevo.records import IntegerWeights, QuantParams
from spaceevo.spaces.operators import NUM_CODES, Operator

EXACT_FLOAT32 = 2**24  # integers below are exact in float32, whatever the order of summation


def integer_operator(
    operator: Operator, inputs: list[tuple[Tensor, QuantParams]], y: QuantParams, own: IntegerWeights | None
) -> Tensor:
    """Codes that an operator puts out, by the contract.

    Args:
        operator: Any but "quantize" and "linear".
        inputs: (codes, parameters) of each input.
        y: Parameters of the output.
        own: Of a convolution.
    """
    (a, a_params), *rest = inputs
    match operator.kind:
        case "conv" if own is not None:
            scales = (sum_scales(a_params, own) / f32(y.scale)).view(-1, 1, 1)
            return requantize(accumulate(operator, a, a_params, own).float() * scales, y)
        case "pool":
            size = operator.in_size**2
            total = a.sum(dim=(2, 3), keepdim=True) - size * a_params.zero_point
            return requantize(total * (f32(a_params.scale) / (f32(y.scale) * size)), y)
        case "multiply":
            b, b_params = rest[0]
            scale = f32(a_params.scale) * f32(b_params.scale) / f32(y.scale)
            product = (a - a_params.zero_point).mul_(b - b_params.zero_point).mul_(scale)
            return product.add_(y.zero_point).round_().clamp_(0, NUM_CODES - 1)
        case "add":
            b, b_params = rest[0]
            ratio_a, ratio_b = f32(a_params.scale) / f32(y.scale), f32(b_params.scale) / f32(y.scale)
            zero_points = torch.tensor([a_params.zero_point, b_params.zero_point], dtype=torch.float32)
            offset = y.zero_point - fused_multiply_add(zero_points[0], ratio_a, zero_points[1] * ratio_b)
            total = fused_multiply_add(a, ratio_a, fused_multiply_add(b, ratio_b, offset))
            return total.round_().clamp_(0, NUM_CODES - 1)
        case "gate":
            ratio = f32(a_params.scale / 6) / f32(y.scale)
            offset = NUM_CODES // 2 - ratio * a_params.zero_point
            return fused_multiply_add(a, ratio, offset).round_().clamp_(0, NUM_CODES - 1)
        case "sigmoid":
            return quantize(dequantize(a, a_params).sigmoid(), y)
        case "relabel":
            return a
        case "max_pool":
            return max_pool(operator, a)
        case _:
            raise AssertionError(operator.kind)


def accumulate(operator: Operator, codes: Tensor, params: QuantParams, own: IntegerWeights) -> Tensor:
    """The int32 accumulators with bias, as integer-valued floats wide enough to be exact."""
    weight, bias = torch.from_numpy(own.codes), torch.from_numpy(own.bias)
    up, down = weight.flatten(1).long().clamp(min=0).sum(1), weight.flatten(1).long().clamp(max=0).sum(1)
    high, low = NUM_CODES - 1 - params.zero_point, -params.zero_point  # of a code less the zero point
    largest = torch.maximum(up * high + down * low, -(up * low + down * high)) + bias.long().abs()
    dtype = torch.float32 if int(largest.max()) < EXACT_FLOAT32 else torch.float64
    x, weight, bias = (codes - params.zero_point).to(dtype), weight.to(dtype), bias.to(dtype)
    if operator.kind == "linear":
        return F.linear(x.flatten(1), weight, bias)
    with torch.backends.nnpack.flags(enabled=False):  # its Winograd convolutions are not exact
        return F.conv2d(x, weight, bias, operator.stride, operator.padding, groups=operator.groups)


def max_pool(operator: Operator, x: Tensor) -> Tensor:
    """Of codes or values alike."""
    return F.max_pool2d(x, operator.kernel_size, operator.stride, operator.padding)


def sum_scales(params: QuantParams, own: IntegerWeights) -> Tensor:
    """Scale of the accumulators, float32 [C]."""
    return f32(params.scale) * torch.from_numpy(own.scales)


def requantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of x, given in units of the scale, in its place: round half to even, then the zero point."""
    return x.round_().add_(params.zero_point).clamp_(0, NUM_CODES - 1)


def quantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of values."""
    return requantize(x / f32(params.scale), params)


def dequantize(codes: Tensor, params: QuantParams) -> Tensor:
    """Values of codes."""
    return (codes - params.zero_point) * f32(params.scale)


def fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c rounded once to float32."""
    return a.to(torch.float64, copy=True).mul_(b).add_(c).float()


def f32(value: float) -> Tensor:
    """A float32 scalar: devices compute with scales of that precision."""
    return torch.tensor(value, dtype=torch.float32)
