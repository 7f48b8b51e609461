"""The INT8 files of LiteRT: codes, and the forms in which XNNPACK computes all of them exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.graph.graphs import IntegerGraph, QuantParams
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Linear, MaxPool, Multiply, Pool, Quantize, Relabel, Sigmoid
from spaceevo.graph.tensors import NUM_CODES, Shape
from spaceevo.runtimes import check_placement
from spaceevo.runtimes.litert.arithmetic import OFFSET, half
from spaceevo.runtimes.litert.flatbuffer import LOGITS, MARK
from spaceevo.runtimes.litert.writer import Writer, in_litert_order


def export_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a quantized network as a TFLite flatbuffer, with exactly the graph's parameters.

    The logits are not quantized. The only integer kernel of XNNPACK with such an output quantizes the classifier's
    input itself, over the input's range. So two features are appended, with weights 0: the values of the codes 0 and
    255. Over their range it finds the very codes again, and computes exact integers. (With weights in float, 1280
    features and 1000 classes took 0.08 ms instead of 0.012 ms on an x86 server, and four times the space.)

    Args:
        graph: A whole network, or a part: without logits, the output is the last tensor, dequantized.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: A scale is not a positive number, or too far from those of its neighbours; or the graph is not
            quantized as devices compute.
        NoSpaceError: The file cannot be written.
        TargetError: LiteRT is not installed.
    """
    check_placement(graph.nodes)
    write_atomically(path, _Int8Writer(graph).content(metadata))


class _Int8Writer(Writer):
    """Every tensor is named after its node and holds codes."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph
        self.zero_is_lowest = {name for name, params in graph.quant_params.items() if params.zero_point == 0}

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        return self.node("QUANTIZE", [x], self.add_output(node), self.schema.QuantizeOptionsT())

    def conv(self, node: Node, op: Conv, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node, depthwise=False), output)

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node, depthwise=True), output)

    def gate(self, node: Node, op: Gate, x: str) -> str:
        return self.shift_and_scale(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        return self.shift_and_scale(node, x)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        return self.node("LOGISTIC", [x], self.add_output(node))

    def pool(self, node: Node, op: Pool, x: str) -> str:
        return self.mean(node, x, self.add_output(node))

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        return self.pick_largest(node, op, x, self.add_output(node))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        return self.node("MUL", [a, b], self.add_output(node), self.schema.MulOptionsT())

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        return self.node("ADD", [a, b], self.add_output(node), self.schema.AddOptionsT())

    def linear(self, node: Node, op: Linear, x: str) -> str:
        schema, mark = self.schema, node.id + MARK
        weights, x_params = self.graph.weights[node.id], self.graph.quant_params[node.inputs[0]]
        scales = weights.scales.astype(np.float32)
        ends = np.array([-OFFSET, NUM_CODES - 1 - OFFSET], np.int8)
        wider = Shape(node.in_shape.channels + len(ends))
        end = self.tensor(
            f"{mark}ends", [1, 1, 1, len(ends)], "INT8", self.buffer(ends.tobytes()), self.per_tensor(x_params)
        )
        codes = self.add_codes(f"{mark}codes", wider, x_params)
        self.node("CONCATENATION", [x, end], codes, schema.ConcatenationOptionsT(axis=3))
        values = self.add_map(f"{mark}x", wider, "FLOAT32")
        self.node("DEQUANTIZE", [codes], values, schema.DequantizeOptionsT())
        padded = np.pad(weights.codes, ((0, 0), (0, len(ends))))
        bias = weights.bias.astype(np.float32) * (np.float32(x_params.scale) * scales)
        inputs = [values, self.constant(f"{mark}w", padded, scales), self.constant(f"{mark}b", bias)]
        self.tensor(LOGITS, [1, op.width], "FLOAT32", 0)
        options = schema.FullyConnectedOptionsT(asymmetricQuantizeInputs=True)
        return self.node("FULLY_CONNECTED", inputs, LOGITS, options)

    def put_out(self, last: Node, value: str) -> None:
        if not isinstance(last.op, Linear):
            self.add_map(LOGITS, last.out_shape, "FLOAT32")
            self.node("DEQUANTIZE", [value], LOGITS, self.schema.DequantizeOptionsT())

    def shift_and_scale(self, node: Node, x: str) -> str:
        """x / 6 + 0.5, for which XNNPACK has no operator, as a convolution."""
        output, params = self.add_output(node), self.graph.quant_params[node.inputs[0]]
        code, scale, bias = half(node, params)
        ones = np.ones(node.out_shape.channels)
        codes = (ones * code).astype(np.int8).reshape(-1, 1, 1, 1)
        constants = self.quantized(node.id, codes, ones * scale, (ones * bias).astype(np.int32), params, True)
        return self.convolve(node, Depthwise(), x, constants, output)

    def per_tensor(self, params: QuantParams) -> Any:
        return self.quantization(np.array([params.scale]), np.array([params.zero_point - OFFSET]))

    def add_output(self, node: Node) -> str:
        """Add the tensor that a node puts out; returns its name."""
        return self.add_codes(node.id, node.out_shape, self.graph.quant_params[node.id])

    def add_codes(self, name: str, shape: Shape, params: QuantParams) -> str:
        return self.add_map(name, shape, "INT8", self.per_tensor(params))

    def like(self, name: str, source: str, shape: Shape) -> str:
        return self.add_map(name, shape, "INT8", self.tensors[self.index[source]].quantization)

    def weights(self, node: Node, *, depthwise: bool) -> list[str]:
        weights, x = self.graph.weights[node.id], self.graph.quant_params[node.inputs[0]]
        return self.quantized(node.id, weights.codes, weights.scales, weights.bias, x, depthwise)

    def identity(self, channels: int, name: str, source: str) -> Sequence[str]:
        ones, x = np.ones(channels), self.graph.quant_params[source]
        codes = ones.astype(np.int8).reshape(-1, 1, 1, 1)
        return self.quantized(name, codes, ones, np.zeros(channels, np.int32), x, True)

    def quantized(
        self, name: str, codes: np.ndarray, scales: np.ndarray, bias: np.ndarray, x: QuantParams, depthwise: bool
    ) -> list[str]:
        """Weights [out, in, K, K] and bias of a convolution that reads `x`."""
        scales = scales.astype(np.float32)
        ordered, axis = in_litert_order(codes, depthwise), 3 if depthwise else 0
        return [
            self.constant(f"{name}{MARK}w", ordered, scales, axis),
            self.constant(f"{name}{MARK}b", bias, np.float32(x.scale) * scales),
        ]
