"""Two executors of an integer graph: the golden reference for every exporter.

Shape suffixes: B images, C channels, H = W size, K kernel size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from spaceevo.records import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.spaces.operators import NUM_CODES, Operator

#: Called with each tensor's name and its codes (integer-valued float32 [B, C, H, W], 0 to 255).
Tap = Callable[[str, Tensor], None]

EXACT_FLOAT32 = 2**24  # integers below are exact in float32, whatever the order of summation


@torch.no_grad()
def run_integer(graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None) -> Tensor:
    """Run a quantized network in exact integer arithmetic, as ONNX Runtime on x86 does, code by code.

    On ARM, ONNX Runtime adds and pools in fixed point, so that a code may differ by one now and then.

    Args:
        graph: A network, or a part: without "linear", the last tensor is returned, dequantized.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.

    Returns:
        Logits, float32 [B, C].
    """
    codes: dict[str, Tensor] = {}
    for operator in graph.operators:
        inputs = [(codes[name], graph.quant_params[name]) for name in operator.inputs if name in codes]
        if operator.kind == "linear":
            x, params = inputs[0]
            own = graph.weights[operator.name]
            return _accumulate(operator, x, params, own).float() * _step(params, own)
        y_params = graph.quant_params[operator.name]
        if operator.kind == "quantize":
            y = _quantize(images_BCHW, y_params)
        else:
            y = _integer(operator, inputs, y_params, graph.weights.get(operator.name))
        codes[operator.name] = y
        if tap:
            tap(operator.name, y)
    return _dequantize(y, y_params)


@torch.no_grad()
def run_fake_quantized(graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None) -> Tensor:
    """Run a quantized network as training simulates it: in float32, every tensor quantized and dequantized.

    Args:
        graph: A network, or a part: without "linear", the last tensor is returned.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.

    Returns:
        Logits, float32 [B, C].
    """
    values: dict[str, Tensor] = {}
    x = images_BCHW
    for operator in graph.operators:
        inputs = [values.get(name, images_BCHW) for name in operator.inputs]
        own = graph.weights.get(operator.name)
        x = _float(operator, inputs, own, graph.quant_params.get(operator.inputs[0]))
        if operator.kind == "linear":
            break
        params = graph.quant_params[operator.name]
        codes = _quantize(x, params)
        x = values[operator.name] = _dequantize(codes, params)
        if tap:
            tap(operator.name, codes)
    return x


def _integer(
    operator: Operator, inputs: list[tuple[Tensor, QuantParams]], y: QuantParams, own: IntegerWeights | None
) -> Tensor:
    (a, a_params), *rest = inputs
    match operator.kind:
        case "conv" if own is not None:
            scales = (_step(a_params, own) / _f32(y.scale)).view(-1, 1, 1)
            return _requantize(_accumulate(operator, a, a_params, own).float() * scales, y)
        case "pool":
            size = operator.in_size**2
            total = a.sum(dim=(2, 3), keepdim=True) - size * a_params.zero_point
            return _requantize(total * (_f32(a_params.scale) / (_f32(y.scale) * size)), y)
        case "multiply":
            b, b_params = rest[0]
            scale = _f32(a_params.scale) * _f32(b_params.scale) / _f32(y.scale)
            product = (a - a_params.zero_point) * (b - b_params.zero_point) * scale
            return (product + y.zero_point).round().clamp(0, NUM_CODES - 1)
        case "add":
            b, b_params = rest[0]
            ratio_a, ratio_b = _f32(a_params.scale) / _f32(y.scale), _f32(b_params.scale) / _f32(y.scale)
            zero_points = torch.tensor([a_params.zero_point, b_params.zero_point], dtype=torch.float32)
            offset = y.zero_point - _fused_multiply_add(zero_points[0], ratio_a, zero_points[1] * ratio_b)
            total = _fused_multiply_add(a, ratio_a, _fused_multiply_add(b, ratio_b, offset))
            return total.round().clamp(0, NUM_CODES - 1)
        case "gate":
            ratio = _f32(a_params.scale / 6) / _f32(y.scale)
            offset = NUM_CODES // 2 - ratio * a_params.zero_point
            return _fused_multiply_add(a, ratio, offset).round().clamp(0, NUM_CODES - 1)
        case "sigmoid":
            return _quantize(_dequantize(a, a_params).sigmoid(), y)
        case "relabel":
            return a
        case "max_pool":
            return _max_pool(operator, a)
        case _:
            raise AssertionError(operator.kind)


def _float(
    operator: Operator, inputs: list[Tensor], own: IntegerWeights | None, x_params: QuantParams | None
) -> Tensor:
    x = inputs[0]
    if own is not None and x_params is not None:
        codes = torch.from_numpy(own.codes).float()
        weight = codes * torch.from_numpy(own.scales).view(-1, *[1] * (codes.ndim - 1))
        bias = torch.from_numpy(own.bias).float() * _step(x_params, own)
        if operator.kind == "linear":
            return F.linear(x.flatten(1), weight, bias)
        return F.conv2d(x, weight, bias, operator.stride, operator.padding, groups=operator.groups)
    match operator.kind:
        case "gate" | "relabel":
            return x / 6 + 0.5
        case "sigmoid":
            return x.sigmoid()
        case "multiply":
            return x * inputs[1]
        case "add":
            return x + inputs[1]
        case "pool":
            return x.mean(dim=(2, 3), keepdim=True)
        case "max_pool":
            return _max_pool(operator, x)
        case _:
            return x


def _accumulate(operator: Operator, codes: Tensor, params: QuantParams, own: IntegerWeights) -> Tensor:
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


def _requantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of x, given in units of the scale: round half to even, then the zero point."""
    return x.round().add_(params.zero_point).clamp_(0, NUM_CODES - 1)


def _quantize(x: Tensor, params: QuantParams) -> Tensor:
    return _requantize(x / _f32(params.scale), params)


def _dequantize(codes: Tensor, params: QuantParams) -> Tensor:
    return (codes - params.zero_point) * _f32(params.scale)


def _fused_multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c rounded once to float32."""
    return (a.double() * b.double() + c.double()).float()


def _f32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
