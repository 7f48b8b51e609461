"""Two executors of an integer graph: the golden reference for every exporter.

Shape suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from spaceevo.graph.graphs import IntegerGraph
from spaceevo.graph.nodes import Node, last_reads
from spaceevo.graph.ops import Add, Conv, Depthwise, Linear
from spaceevo.nets import fused_additions
from spaceevo.nets.arithmetic import FakeQuantizedPass, IntegerPass, dequantize
from spaceevo.records import Arithmetic

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
        self._fused = _fused_convolutions(self.graph.nodes) if arithmetic.fused_additions else frozenset()
        self._branches: dict[str, fused_additions.Value] = {}  # what fused convolutions put out, as floats

    def apply(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """The codes that a node puts out; the logits of a linear layer."""
        special = self.arithmetic.codes.get(type(node.op))
        if special is not None:
            quant_params, y = self.graph.quant_params, self.graph.quant_params[node.id]
            names = [name if name in quant_params else node.id for name in node.inputs]  # the image has none
            pairs = [(x.numpy(), quant_params[name]) for x, name in zip(inputs, names, strict=True)]
            return torch.from_numpy(special(node, pairs, y))
        if self.arithmetic.fused_additions:
            match node.op:
                case Conv() | Depthwise() as op:
                    value = fused_additions.value_of(
                        op, inputs[0], self.contract.params(node), self.graph.weights[node.id]
                    )
                    if node.id in self._fused:
                        self._branches[node.id] = value
                    return fused_additions.codes_of(value, self.graph.quant_params[node.id])
                case Add() if any(name in self._branches for name in node.inputs):
                    return self._fused_sum(node, inputs)
        return self.contract.apply(node, inputs)

    def _fused_sum(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        branch = 0 if node.inputs[0] in self._branches else 1
        value, a = self._branches.pop(node.inputs[branch]), self.contract.params(node, branch)
        b, y = self.contract.params(node, 1 - branch), self.graph.quant_params[node.id]
        return fused_additions.codes_of_sum(value, a, inputs[1 - branch], b, y)


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


_fused_convolutions = lru_cache(maxsize=1024)(fused_additions.fused_convolutions)
