"""Two executors of an integer graph: the golden reference for every exporter.

Shape suffixes: B images, C channels, H = W size, K kernel size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spaceevo.records import Arithmetic, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.spaces.operators import NUM_CODES, Operator

#: Called with each tensor's name and its codes (integer-valued float32 [B, C, H, W], 0 to 255).
Tap = Callable[[str, Tensor], None]

CONTRACT = Arithmetic()
EXACT_FLOAT32 = 2**24  # integers below are exact in float32, whatever the order of summation


@torch.no_grad()
def run_integer(
    graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None, arithmetic: Arithmetic = CONTRACT
) -> Tensor:
    """Run a quantized network in exact integer arithmetic.

    Args:
        graph: A network, or a part: without "linear", the last tensor is returned, dequantized.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.
        arithmetic: A runtime's, to follow it code by code; without it the contract's, which is that of ONNX Runtime
            on x86.

    Returns:
        Logits, float32 [B, C].
    """
    codes: dict[str, Tensor] = {}
    fused = _fused_with_addition(graph.operators) if arithmetic.fused_additions else frozenset()
    branches: dict[str, Tensor] = {}  # what fused convolutions put out, as floats
    for operator in graph.operators:
        inputs = [(codes[name], graph.quant_params[name]) for name in operator.inputs if name in codes]
        if operator.kind == "linear":
            x, params = inputs[0]
            own = graph.weights[operator.name]
            return accumulate(operator, x, params, own).float() * _step(params, own)
        y_params = graph.quant_params[operator.name]
        special = arithmetic.codes.get(operator.kind)
        if operator.kind == "quantize":
            inputs = [(images_BCHW, y_params)]
        if special is not None:
            y = torch.from_numpy(special(operator, [(a.numpy(), params) for a, params in inputs], y_params))
        elif operator.kind == "quantize":
            y = quantize(images_BCHW, y_params)
        elif operator.kind == "conv" and arithmetic.fused_additions:
            value = _kernel_value(operator, *inputs[0], graph.weights[operator.name])
            y = _kernel_codes(value, y_params)
            if operator.name in fused:
                branches[operator.name] = value
        elif operator.kind == "add" and (branch := next((n for n in operator.inputs if n in branches), None)):
            a, b = inputs if branch == operator.inputs[0] else inputs[::-1]
            y = _kernel_sum(branches.pop(branch), a[1], *b, y_params)
        else:
            y = integer_operator(operator, inputs, y_params, graph.weights.get(operator.name))
        codes[operator.name] = y
        if tap:
            tap(operator.name, y)
    return dequantize(y, y_params)


@torch.no_grad()
def run_fake_quantized(graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None) -> Tensor:
    """Run a quantized network as training simulates it: in float32, every tensor quantized and dequantized.

    Sums are those of whole codes, exact as on devices, and additions and products keep the order of devices: another
    order flips a code in a million, and deep networks amplify it.

    Args:
        graph: A network, or a part: without "linear", the last tensor is returned.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.

    Returns:
        Logits, float32 [B, C].
    """
    codes: dict[str, Tensor] = {}
    for operator in graph.operators:
        inputs = [(codes[name], graph.quant_params[name]) for name in operator.inputs if name in codes]
        own = graph.weights.get(operator.name)
        if operator.kind == "linear" and own is not None:
            return accumulate(operator, *inputs[0], own).float() * _step(inputs[0][1], own)
        params = graph.quant_params[operator.name]
        if operator.kind == "quantize":
            y = quantize(images_BCHW, params)
        elif own is not None:
            scales = (_step(inputs[0][1], own) / _f32(params.scale)).view(-1, 1, 1)
            y = requantize(accumulate(operator, *inputs[0], own).float() * scales, params)
        elif operator.kind in ("add", "multiply"):
            y = integer_operator(operator, inputs, params, None)
        else:
            y = quantize(_float(operator, [dequantize(*one) for one in inputs]), params)
        codes[operator.name] = y
        if tap:
            tap(operator.name, y)
    return dequantize(y, params)


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
            scales = (_step(a_params, own) / _f32(y.scale)).view(-1, 1, 1)
            return requantize(accumulate(operator, a, a_params, own).float() * scales, y)
        case "pool":
            size = operator.in_size**2
            total = a.sum(dim=(2, 3), keepdim=True) - size * a_params.zero_point
            return requantize(total * (_f32(a_params.scale) / (_f32(y.scale) * size)), y)
        case "multiply":
            b, b_params = rest[0]
            scale = _f32(a_params.scale) * _f32(b_params.scale) / _f32(y.scale)
            product = (a - a_params.zero_point).mul_(b - b_params.zero_point).mul_(scale)
            return product.add_(y.zero_point).round_().clamp_(0, NUM_CODES - 1)
        case "add":
            b, b_params = rest[0]
            ratio_a, ratio_b = _f32(a_params.scale) / _f32(y.scale), _f32(b_params.scale) / _f32(y.scale)
            zero_points = torch.tensor([a_params.zero_point, b_params.zero_point], dtype=torch.float32)
            offset = y.zero_point - _fused_multiply_add(zero_points[0], ratio_a, zero_points[1] * ratio_b)
            total = _fused_multiply_add(a, ratio_a, _fused_multiply_add(b, ratio_b, offset))
            return total.round_().clamp_(0, NUM_CODES - 1)
        case "gate":
            ratio = _f32(a_params.scale / 6) / _f32(y.scale)
            offset = NUM_CODES // 2 - ratio * a_params.zero_point
            return _fused_multiply_add(a, ratio, offset).round_().clamp_(0, NUM_CODES - 1)
        case "sigmoid":
            return quantize(dequantize(a, a_params).sigmoid(), y)
        case "relabel":
            return a
        case "max_pool":
            return _max_pool(operator, a)
        case _:
            raise AssertionError(operator.kind)


def _kernel_value(operator: Operator, x: Tensor, params: QuantParams, own: IntegerWeights) -> Tensor:
    """What a convolution of OpenVINO puts out before quantization: sums and bias in float32."""
    step = _step(params, own)
    sums = accumulate(operator, x, params, replace(own, bias=np.zeros_like(own.bias))).float()
    return sums * step.view(-1, 1, 1) + (torch.from_numpy(own.bias).float() * step).view(-1, 1, 1)


def _kernel_codes(value: Tensor, params: QuantParams) -> Tensor:
    return _fused_multiply_add(value, *_kernel_scale(*_limits(params))).round().clamp(0, NUM_CODES - 1)


def _kernel_sum(value: Tensor, a: QuantParams, b_codes: Tensor, b: QuantParams, y: QuantParams) -> Tensor:
    """Codes of a convolution's value plus a tensor: the value is clamped to its range, in units of the tensor's codes.

    The order of operations is OpenVINO's, so that the constants are the same float32 numbers.
    """
    largest, a_scale, b_scale = _f32(NUM_CODES - 1), _f32(a.scale), _f32(b.scale)
    ratio, offset = a_scale / b_scale, _f32(a.zero_point) + _f32(b.zero_point) * b_scale / a_scale
    low, high = -offset * ratio, (largest - offset) * ratio
    unit = (high - low) / largest
    scale, shift = _kernel_scale(*_limits(a))
    shift = shift * unit + low if b.zero_point else _f32(0)  # it is minus that zero point, but for rounding
    branch = _fused_multiply_add(value, scale * unit, shift).clamp(low, largest * unit + low)
    limits = (limit / b_scale for limit in _limits(y))
    return _fused_multiply_add(branch + b_codes, *_kernel_scale(*limits)).round().clamp(0, NUM_CODES - 1)


def _limits(params: QuantParams) -> tuple[Tensor, Tensor]:
    """Least and largest value that codes stand for."""
    scale = _f32(params.scale)
    return _f32(-params.zero_point) * scale, _f32(NUM_CODES - 1 - params.zero_point) * scale


def _kernel_scale(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift) that take values to codes. Without a shift, kernels divide by the reciprocal of the scale."""
    largest = _f32(NUM_CODES - 1)
    scale, shift = largest / (high - low), -low * largest / (high - low)
    return (scale if low else 1 / (1 / scale)), shift


def _fused_with_addition(operators: Sequence[Operator]) -> frozenset[str]:
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


def _float(operator: Operator, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match operator.kind:
        case "gate" | "relabel":
            return x / 6 + 0.5
        case "sigmoid":
            return x.sigmoid()
        case "pool":
            return x.mean(dim=(2, 3), keepdim=True)
        case "max_pool":
            return _max_pool(operator, x)
        case _:
            return x


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


def _max_pool(operator: Operator, x: Tensor) -> Tensor:
    return F.max_pool2d(x, operator.kernel_size, operator.stride, operator.padding)


def _step(params: QuantParams, own: IntegerWeights) -> Tensor:
    """Scale of the accumulators, float32 [C]."""
    return _f32(params.scale) * torch.from_numpy(own.scales)


def requantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of x, given in units of the scale, in its place: round half to even, then the zero point."""
    return x.round_().add_(params.zero_point).clamp_(0, NUM_CODES - 1)


def quantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of values."""
    return requantize(x / _f32(params.scale), params)


def dequantize(codes: Tensor, params: QuantParams) -> Tensor:
    """Values of codes."""
    return (codes - params.zero_point) * _f32(params.scale)


def _fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c rounded once to float32."""
    return a.to(torch.float64, copy=True).mul_(b).add_(c).float()


def _f32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
