"""Two executors of an integer graph: the golden reference for every exporter.

Shape suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spaceevo.graph.graphs import IntegerGraph
from spaceevo.graph.nodes import Node, last_reads
from spaceevo.graph.ops import Add, Conv, Depthwise, Linear
from spaceevo.nets.arithmetic import FakeQuantizedPass, IntegerPass, accumulate, dequantize
from spaceevo.records import Arithmetic, Unrounded

#: Called with each tensor's name and its codes (integer-valued float32 [B, C, H, W], 0 to 255).
Tap = Callable[[str, Tensor], None]

CONTRACT = Arithmetic()


@torch.no_grad()
def run_integer(
    graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None, arithmetic: Arithmetic = CONTRACT
) -> Tensor:
    """Run a quantized network in exact integer arithmetic.

    Args:
        graph: A network, or a part: without logits, the last tensor is returned, dequantized.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.
        arithmetic: A runtime's, to follow it code by code; without it the contract's, which is that of ONNX Runtime
            on x86.

    Returns:
        Logits, float32 [B, C].
    """
    return _run(images_BCHW, tap, _AsRuntime(IntegerPass(graph), arithmetic))


@torch.no_grad()
def run_fake_quantized(
    graph: IntegerGraph, images_BCHW: Tensor, tap: Tap | None = None, arithmetic: Arithmetic = CONTRACT
) -> Tensor:
    """Run a quantized network as training simulates it: in float32, every tensor quantized and dequantized.

    Sums are those of whole codes, exact as on devices, and additions and products keep the order of devices: another
    order flips a code in a million, and deep networks amplify it. What a runtime rounds otherwise than the contract is
    simulated too.

    Args:
        graph: A network, or a part: without logits, the last tensor is returned.
        images_BCHW: float32, preprocessed.
        tap: Sees the codes of every tensor, in order.
        arithmetic: A runtime's.

    Returns:
        Logits, float32 [B, C].
    """
    return _run(images_BCHW, tap, _AsRuntime(FakeQuantizedPass(graph), arithmetic))


class _AsRuntime:
    """What a runtime computes of each node: otherwise than the contract where its arithmetic says so."""

    def __init__(self, contract: IntegerPass, arithmetic: Arithmetic) -> None:
        self.contract, self.arithmetic, self.graph = contract, arithmetic, contract.graph
        self._added_unrounded = arithmetic.added_unrounded(self.graph.nodes)
        self._unrounded: dict[str, Unrounded] = {}  # what these convolutions put out, until it is added

    def apply(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """The codes that a node puts out; the logits of a linear layer."""
        special = self.arithmetic.codes.get(type(node.op))
        if special is not None:
            quant_params, y = self.graph.quant_params, self.graph.quant_params[node.id]
            names = [name if name in quant_params else node.id for name in node.inputs]  # the image has none
            pairs = [(x.numpy(), quant_params[name]) for x, name in zip(inputs, names, strict=True)]
            return torch.from_numpy(special(node, pairs, y))
        match node.op:
            case Conv() | Depthwise() as op if self.arithmetic.convolution is not None:
                x, weights = self.contract.params(node), self.graph.weights[node.id]
                sums = accumulate(op, inputs[0], x, replace(weights, bias=np.zeros_like(weights.bias))).float()
                value = self.arithmetic.convolution(sums.numpy(), x, weights)
                if node.id in self._added_unrounded:
                    self._unrounded[node.id] = value
                return torch.from_numpy(value.codes(self.graph.quant_params[node.id]))
            case Add() if any(name in self._unrounded for name in node.inputs):
                return self._sum(node, inputs)
        return self.contract.apply(node, inputs)

    def _sum(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Codes of an addition, one summand of which is not rounded before."""
        number = 0 if node.inputs[0] in self._unrounded else 1
        value, a = self._unrounded.pop(node.inputs[number]), self.contract.params(node, number)
        b, y = self.contract.params(node, 1 - number), self.graph.quant_params[node.id]
        return torch.from_numpy(value.codes_of_sum(a, inputs[1 - number].numpy(), b, y))


def _run(images_BCHW: Tensor, tap: Tap | None, compute: _AsRuntime) -> Tensor:
    graph = compute.graph
    reads = last_reads(graph.nodes)
    codes = {graph.nodes[0].inputs[0]: images_BCHW.contiguous(memory_format=torch.channels_last)}
    for index, node in enumerate(graph.nodes):
        inputs = [codes[name] for name in node.inputs]
        for name in node.inputs:
            if reads[name] == index:
                codes.pop(name, None)
        y = compute.apply(node, inputs)
        if isinstance(node.op, Linear):
            return y
        codes[node.id] = y
        if tap:
            tap(node.id, y)
    return dequantize(y, graph.quant_params[node.id])
