"""The FP32 files of LiteRT, in the form that it runs fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.graph.graphs import FloatGraph
from spaceevo.graph.nodes import Node, hard_swish_gates
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Linear, MaxPool, Multiply, Pool, Quantize, Relabel, Sigmoid
from spaceevo.graph.tensors import Shape
from spaceevo.runtimes.litert.flatbuffer import LOGITS, MARK
from spaceevo.runtimes.litert.writer import Writer, in_litert_order


def export_fp32(graph: FloatGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the FP32 twin of a quantized network, in the form that LiteRT runs fastest.

    Args:
        graph: A whole network, or a part.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: XNNPACK does not take its numbers.
        NoSpaceError: The file cannot be written.
        TargetError: LiteRT is not installed.
    """
    write_atomically(path, _Fp32Writer(graph).content(metadata))


class _Fp32Writer(Writer):
    """Every tensor is named after its node and holds floats, activation applied."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph
        self.zero_is_lowest = set()
        for node in graph.nodes:
            if node.out.quantizer in ("relu", "relu6") or (
                node.out.quantizer == "input" and node.inputs[0] in self.zero_is_lowest
            ):
                self.zero_is_lowest.add(node.id)
        self.hard_swish_gates = hard_swish_gates(graph.nodes)

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        self.index[node.id] = self.index[x]
        return node.id

    def conv(self, node: Node, op: Conv, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node), output, self.activation(node))

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node), output, self.activation(node))

    def gate(self, node: Node, op: Gate, x: str) -> str:
        # Of a hard-swish there is no tensor: its product reads what the gate would
        return x if node.id in self.hard_swish_gates else self.hard_sigmoid(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        return self.hard_sigmoid(node, x)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        return self.node("LOGISTIC", [x], self.add_output(node))

    def pool(self, node: Node, op: Pool, x: str) -> str:
        return self.mean(node, x, self.add_output(node))

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        return self.pick_largest(node, op, x, self.add_output(node))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        output = self.add_output(node)
        if node.inputs[1] in self.hard_swish_gates:
            return self.node("HARD_SWISH", [a], output)
        return self.node("MUL", [a, b], output, self.schema.MulOptionsT())

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        return self.node("ADD", [a, b], self.add_output(node), self.schema.AddOptionsT(self.activation(node)))

    def linear(self, node: Node, op: Linear, x: str) -> str:
        output = self.tensor(node.id, [1, op.width], "FLOAT32", 0)
        return self.node("FULLY_CONNECTED", [x, *self.weights(node)], output, self.schema.FullyConnectedOptionsT())

    def put_out(self, last: Node, value: str) -> None:
        self.index[LOGITS] = self.index[value]
        self.tensors[self.index[LOGITS]].name = LOGITS

    def hard_sigmoid(self, node: Node, x: str) -> str:
        """(x + 3) clamped to [0, 6], times a sixth."""
        schema, output = self.schema, self.add_output(node)
        clamped = self.add_map(f"{node.id}{MARK}six", node.out_shape, "FLOAT32")
        three, sixth = (np.array([value], np.float32) for value in (3, 1 / 6))
        relu6 = schema.AddOptionsT(schema.ActivationFunctionType.RELU6)
        self.node("ADD", [x, self.constant(f"{node.id}{MARK}three", three)], clamped, relu6)
        factor = self.constant(f"{node.id}{MARK}sixth", sixth)
        return self.node("MUL", [clamped, factor], output, schema.MulOptionsT())

    def activation(self, node: Node) -> int:
        """LiteRT's number of the activation that a node ends with."""
        kinds = self.schema.ActivationFunctionType
        return int({"relu": kinds.RELU, "relu6": kinds.RELU6}.get(node.out.quantizer, kinds.NONE))

    def add_output(self, node: Node) -> str:
        """Add the tensor that a node puts out; returns its name."""
        return self.add_map(node.id, node.out_shape, "FLOAT32")

    def like(self, name: str, source: str, shape: Shape) -> str:
        return self.add_map(name, shape, "FLOAT32")

    def identity(self, channels: int, name: str, source: str) -> Sequence[str]:
        ones = np.ones((1, 1, 1, channels), np.float32)
        bias = np.zeros(channels, np.float32)
        return [self.constant(f"{name}{MARK}w", ones), self.constant(f"{name}{MARK}b", bias)]

    def weights(self, node: Node) -> list[str]:
        weights, mark = self.graph.weights[node.id], node.id + MARK
        weight = weights.weight.astype(np.float32)
        if isinstance(node.op, Conv | Depthwise):
            weight = in_litert_order(weight, isinstance(node.op, Depthwise))
        return [self.constant(f"{mark}w", weight), self.constant(f"{mark}b", weights.bias.astype(np.float32))]
