"""The quantization contract as executable rules (docs/quantization.md): what a program and its numbers must be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import assert_never

import numpy as np

from spaceevo.errors import ExportError
from spaceevo.graph.graphs import IntegerGraph, QuantParams
from spaceevo.graph.nodes import INPUT, Node, Program
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
from spaceevo.graph.tensors import FIXED_QUANTIZERS, NUM_CODES, RELU6_MAX_SCALE, Quantizer, Shape

MAX_WEIGHT_CODE = 127


def check(graph: IntegerGraph, w_qmax: int = MAX_WEIGHT_CODE) -> None:
    """Refuse what breaks the contract.

    Args:
        graph: A whole network, or a part that begins with the quantization of its input.
        w_qmax: Largest absolute weight code that is allowed, 1 to 127.

    Raises:
        ExportError: The first rule that is broken, with the node.
    """
    for fault in faults(graph, w_qmax):
        raise ExportError(
            "A network breaks the quantization contract",
            found=fault,
            remedy="Report it to the authors of spaceevo, with the network",
        )


def faults(graph: IntegerGraph, w_qmax: int = MAX_WEIGHT_CODE) -> Iterator[str]:
    """What of a graph breaks the contract, in words; nothing where all is well."""
    yield from program_faults(graph.nodes)
    quantized = {node.id for node in graph.nodes if node.out.quantizer != "none"}
    weighted = {node.id for node in graph.nodes if node.has_weights}
    if (names := graph.quant_params.keys() ^ quantized) or (names := graph.weights.keys() ^ weighted):
        yield f"Numbers are missing, or there are too many, for {', '.join(sorted(names)[:3])}"
        return
    for node in graph.nodes:
        if node.id in quantized:
            yield from _quant_param_faults(node, graph)
        if node.id in weighted:
            yield from _weight_faults(node, graph, w_qmax)


@lru_cache(maxsize=1024)
def program_faults(program: Program) -> tuple[str, ...]:
    """What of a program, in the placement of devices, breaks the contract, in words."""
    return tuple(_program_faults(program))


def _program_faults(program: Program) -> Iterator[str]:
    if not program or not isinstance(program[0].op, Quantize) or program[0].inputs != (INPUT,):
        yield "The first node does not quantize the input"
        return
    shapes: dict[str, Shape] = {}
    quantizers: dict[str, Quantizer] = {}
    for number, node in enumerate(program):
        if node.id in shapes:
            yield f"{node.id} is there twice"
        if number and (unknown := [name for name in node.inputs if name not in shapes]):
            yield f"{node.id} reads {unknown[0]}, which no node before it puts out"
            return
        if len(node.inputs) != (2 if isinstance(node.op, Add | Multiply) else 1):
            yield f"{node.id} reads {len(node.inputs)} tensors"
            return
        if number and node.in_shape != shapes[node.inputs[0]]:
            yield f"{node.id} reads {_told(shapes[node.inputs[0]])}, not {_told(node.in_shape)}"
        if node.out.stays_float:
            yield f"{node.id} leaves its output in float"
        if fault := _window_fault(node.op):
            yield f"{node.id} has {fault}"
            return
        if min(node.out_shape) < 1 or node.out_shape != node.op.out_shape(node.in_shape):
            yield f"{node.id} does not put out {_told(node.out_shape)}"
        if node.out.quantizer not in _quantizers(node.op):
            yield f"{node.id} is a {type(node.op).__name__} with the quantizer {node.out.quantizer!r}"
        match node.op:
            case Quantize() if number:
                yield f"{node.id} quantizes what is quantized already"
            case Linear() if number != len(program) - 1:
                yield f"{node.id} puts out logits, and is not the last node"
            case Linear() if node.in_shape.num_positions != 1:
                yield f"{node.id} reads a feature that is not pooled"
            case Relabel() if quantizers[node.inputs[0]] != "hard_sigmoid_input":
                yield f"{node.id} relabels codes of {node.inputs[0]}, whose quantizer is not hard_sigmoid_input"
            case Add() | Multiply() as op:
                expected = node.in_shape
                if isinstance(op, Multiply) and op.per_channel:
                    expected = Shape(node.in_shape.channels)
                if shapes[node.inputs[1]] != expected:
                    yield f"{node.id} reads {_told(shapes[node.inputs[1]])} second, not {_told(expected)}"
        shapes[node.id], quantizers[node.id] = node.out_shape, node.out.quantizer


def _window_fault(op: Op) -> str:
    """What is wrong with the window of an operator that has one, "" for nothing."""
    match op:
        case Conv() | Depthwise() | MaxPool():
            if op.kernel_size < 1 or op.kernel_size % 2 == 0:
                return f"the kernel size {op.kernel_size}, which is not odd"
            if op.stride < 1:
                return f"the stride {op.stride}"
            if not 0 <= op.padding <= op.kernel_size // 2:
                return f"the padding {op.padding} around a kernel of {op.kernel_size}"
            return ""
        case Quantize() | Linear() | Pool() | Add() | Multiply() | Gate() | Sigmoid() | Relabel():
            return ""
        case _:
            assert_never(op)


def _quantizers(op: Op) -> tuple[Quantizer, ...]:
    """The quantizers that the output of an operator may have."""
    match op:
        case Quantize() | Multiply() | Pool():
            return ("free",)
        case Conv() | Depthwise():
            return ("free", "relu", "relu6", "hard_sigmoid_input")
        case Add():
            return ("free", "relu", "relu6")
        case Gate() | Sigmoid() | Relabel():
            return ("gate",)
        case MaxPool():
            return ("input",)
        case Linear():
            return ("none",)
        case _:
            assert_never(op)


def _quant_param_faults(node: Node, graph: IntegerGraph) -> Iterator[str]:
    params = graph.quant_params[node.id]
    if not 0 < params.scale < np.inf or float(np.float32(params.scale)) != params.scale:
        yield f"{node.id} has the scale {params.scale!r}, which is no positive float32 number"
    if not 0 <= params.zero_point < NUM_CODES:
        yield f"{node.id} has the zero point {params.zero_point}, outside of 0 to {NUM_CODES - 1}"
    match node.out.quantizer:
        case "relu" | "relu6" if params.zero_point:
            yield f"{node.id} has the zero point {params.zero_point}, where the clamp at 0 is the activation"
        case "relu6" if params.scale > np.float32(RELU6_MAX_SCALE):
            yield f"{node.id} has the scale {params.scale!r}: its codes go beyond 6"
        case "gate" | "hard_sigmoid_input" as fixed if params != QuantParams(*FIXED_QUANTIZERS[fixed]):
            yield f"{node.id} has {params}, where the contract has {FIXED_QUANTIZERS[fixed]}"
        case "input" if params != graph.quant_params[node.inputs[0]]:
            yield f"{node.id} has {params}, other than its input {node.inputs[0]}"


def _weight_faults(node: Node, graph: IntegerGraph, w_qmax: int) -> Iterator[str]:
    weights, channels = graph.weights[node.id], node.out_shape.channels
    for what, array, dtype, shape in (
        ("codes", weights.codes, np.int8, node.weight_shape),
        ("scales", weights.scales, np.float32, (channels,)),
        ("biases", weights.bias, np.int32, (channels,)),
    ):
        if array.dtype != dtype or array.shape != shape:
            yield f"{node.id} has {what} of {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}"
            return
    if weights.codes.size and max(int(weights.codes.max()), -int(weights.codes.min())) > w_qmax:
        yield f"{node.id} has weight codes from {weights.codes.min()} to {weights.codes.max()}, beyond {w_qmax}"
    if not ((weights.scales > 0) & (weights.scales < np.inf)).all():
        yield f"{node.id} has weight scales that are not positive and finite"


def _told(shape: Shape) -> str:
    return " x ".join(map(str, shape))
