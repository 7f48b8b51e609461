"""Two executors of an integer graph: the golden reference for every exporter.

Shape suffixes: B images, C channels, H = W size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from spaceevo.nets import fused_additions
from spaceevo.nets.arithmetic import accumulate, dequantize, integer_operator, max_pool, quantize, sum_scales
from spaceevo.records import Arithmetic, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.spaces.operators import Operator

#: Called with each tensor's name and its codes (integer-valued float32 [B, C, H, W], 0 to 255).
Tap = Callable[[str, Tensor], None]
_Inputs = list[tuple[Tensor, QuantParams]]
_OperatorFunction = Callable[[Operator, _Inputs, QuantParams, IntegerWeights | None], Tensor]

CONTRACT = Arithmetic()


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
    return _run(graph, images_BCHW, tap, arithmetic, integer_operator)


@torch.no_grad()
def run_fake_quantized(
    graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None, arithmetic: Arithmetic = CONTRACT
) -> Tensor:
    """Run a quantized network as training simulates it: in float32, every tensor quantized and dequantized.

    Sums are those of whole codes, exact as on devices, and additions and products keep the order of devices: another
    order flips a code in a million, and deep networks amplify it. What a runtime rounds otherwise than the contract is
    simulated too.

    Args:
        graph: A network, or a part: without "linear", the last tensor is returned.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.
        arithmetic: A runtime's.

    Returns:
        Logits, float32 [B, C].
    """
    return _run(graph, images_BCHW, tap, arithmetic, _fake_quantized_operator)


def _run(
    graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None, arithmetic: Arithmetic, compute: _OperatorFunction
) -> Tensor:
    codes: dict[str, Tensor] = {}
    last_reads = _last_reads(graph.operators)
    fused = _fused_convolutions(graph.operators) if arithmetic.fused_additions else frozenset()
    branches: dict[str, fused_additions.Value] = {}  # what fused convolutions put out, as floats
    for index, operator in enumerate(graph.operators):
        inputs = [(codes[name], graph.quant_params[name]) for name in operator.inputs if name in codes]
        for name in operator.inputs:
            if last_reads[name] == index:
                codes.pop(name, None)
        own = graph.weights.get(operator.name)
        if operator.kind == "linear" and own is not None:
            x, params = inputs[0]
            return accumulate(operator, x, params, own).float() * sum_scales(params, own)
        y_params = graph.quant_params[operator.name]
        if operator.kind == "quantize":
            inputs = [(images_BCHW.contiguous(memory_format=torch.channels_last), y_params)]
        if (special := arithmetic.codes.get(operator.kind)) is not None:
            y = torch.from_numpy(special(operator, [(a.numpy(), params) for a, params in inputs], y_params))
        elif operator.kind == "quantize":
            y = quantize(inputs[0][0], y_params)
        elif own is not None and arithmetic.fused_additions:
            value = fused_additions.value_of(operator, *inputs[0], own)
            y = fused_additions.codes_of(value, y_params)
            if operator.name in fused:
                branches[operator.name] = value
        elif operator.kind == "add" and (branch := next((n for n in operator.inputs if n in branches), None)):
            a, b = inputs if branch == operator.inputs[0] else inputs[::-1]
            y = fused_additions.codes_of_sum(branches.pop(branch), a[1], *b, y_params)
        else:
            y = compute(operator, inputs, y_params, own)
        codes[operator.name] = y
        if tap:
            tap(operator.name, y)
    return dequantize(y, y_params)


def _fake_quantized_operator(operator: Operator, inputs: _Inputs, y: QuantParams, own: IntegerWeights | None) -> Tensor:
    if own is not None or operator.kind in ("add", "multiply"):
        return integer_operator(operator, inputs, y, own)
    return quantize(float_operator(operator, dequantize(*inputs[0])), y)


def float_operator(operator: Operator, x: Tensor) -> Tensor:
    """What an operator of one input, without weights, computes in float before it is quantized."""
    match operator.kind:
        case "gate" | "relabel":
            return x / 6 + 0.5
        case "sigmoid":
            return x.sigmoid()
        case "pool":
            return x.mean(dim=(2, 3), keepdim=True)
        case "max_pool":
            return max_pool(operator, x)
        case _:
            return x


_fused_convolutions = lru_cache(maxsize=1024)(fused_additions.fused_convolutions)


@lru_cache(maxsize=1024)
def _last_reads(operators: tuple[Operator, ...]) -> dict[str, int]:
    return {name: index for index, operator in enumerate(operators) for name in operator.inputs}
