"""Integer arithmetic of the quantization contract, on codes that are integer-valued float32 tensors.

Shape suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spaceevo.graph.graphs import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import (
    Add,
    Conv,
    Convolution,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import NUM_CODES

EXACT_FLOAT32 = 2**24  # integers below are exact in float32, whatever the order of summation


class IntegerPass(Interpreter[Tensor]):
    """The codes that every node puts out, by the contract; the linear layer's logits are values.

    Args:
        graph: The network.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph

    def params(self, node: Node, number: int = 0) -> QuantParams:
        """Parameters of an input of a node."""
        return self.graph.quant_params[node.inputs[number]]

    def quantize(self, node: Node, op: Quantize, x: Tensor) -> Tensor:
        """Of the image."""
        return to_codes(x, self.graph.quant_params[node.id])

    def conv(self, node: Node, op: Conv, x: Tensor) -> Tensor:
        """Sums of products, requantized per channel."""
        return self._convolution(node, op, x)

    def depthwise(self, node: Node, op: Depthwise, x: Tensor) -> Tensor:
        """Sums of products, requantized per channel."""
        return self._convolution(node, op, x)

    def linear(self, node: Node, op: Linear, x: Tensor) -> Tensor:
        """Logits, float32 [B, C]."""
        params, weights = self.params(node), self.graph.weights[node.id]
        return accumulate(op, x, params, weights).float() * sum_scales(params, weights)

    def pool(self, node: Node, op: Pool, x: Tensor) -> Tensor:
        """A sum of codes, requantized."""
        x_params, y = self.params(node), self.graph.quant_params[node.id]
        count = node.in_shape.num_positions
        total = x.sum(dim=(2, 3), keepdim=True) - count * x_params.zero_point
        return requantize(total * (f32(x_params.scale) / (f32(y.scale) * count)), y)

    def max_pool(self, node: Node, op: MaxPool, x: Tensor) -> Tensor:
        """Codes of the input."""
        return F.max_pool2d(x, op.kernel_size, op.stride, op.padding)

    def multiply(self, node: Node, op: Multiply, a: Tensor, b: Tensor) -> Tensor:
        """A product of codes less their zero points."""
        a_params, b_params, y = self.params(node), self.params(node, 1), self.graph.quant_params[node.id]
        scale = f32(a_params.scale) * f32(b_params.scale) / f32(y.scale)
        product = (a - a_params.zero_point).mul_(b - b_params.zero_point).mul_(scale)
        return product.add_(y.zero_point).round_().clamp_(0, NUM_CODES - 1)

    def add(self, node: Node, op: Add, a: Tensor, b: Tensor) -> Tensor:
        """Two fused multiply-adds, rounded once each to float32."""
        a_params, b_params, y = self.params(node), self.params(node, 1), self.graph.quant_params[node.id]
        ratio_a, ratio_b = f32(a_params.scale) / f32(y.scale), f32(b_params.scale) / f32(y.scale)
        zero_points = torch.tensor([a_params.zero_point, b_params.zero_point], dtype=torch.float32)
        offset = y.zero_point - fused_multiply_add(zero_points[0], ratio_a, zero_points[1] * ratio_b)
        total = fused_multiply_add(a, ratio_a, fused_multiply_add(b, ratio_b, offset))
        return total.round_().clamp_(0, NUM_CODES - 1)

    def gate(self, node: Node, op: Gate, x: Tensor) -> Tensor:
        """x / 6 + 0.5."""
        x_params, y = self.params(node), self.graph.quant_params[node.id]
        ratio = f32(x_params.scale / 6) / f32(y.scale)
        offset = NUM_CODES // 2 - ratio * x_params.zero_point
        return fused_multiply_add(x, ratio, offset).round_().clamp_(0, NUM_CODES - 1)

    def sigmoid(self, node: Node, op: Sigmoid, x: Tensor) -> Tensor:
        """Of the values that the codes stand for."""
        return to_codes(dequantize(x, self.params(node)).sigmoid(), self.graph.quant_params[node.id])

    def relabel(self, node: Node, op: Relabel, x: Tensor) -> Tensor:
        """The same codes."""
        return x

    def _convolution(self, node: Node, op: Convolution, x: Tensor) -> Tensor:
        params, y, weights = self.params(node), self.graph.quant_params[node.id], self.graph.weights[node.id]
        scales = (sum_scales(params, weights) / f32(y.scale)).view(-1, 1, 1)
        return requantize(accumulate(op, x, params, weights).float() * scales, y)


class FakeQuantizedPass(IntegerPass):
    """As training simulates: where no sum or product depends on an order, values instead of codes are computed."""

    def pool(self, node: Node, op: Pool, x: Tensor) -> Tensor:
        """Mean of values."""
        return self._of_values(node, self._values(node, x).mean(dim=(2, 3), keepdim=True))

    def max_pool(self, node: Node, op: MaxPool, x: Tensor) -> Tensor:
        """Largest value."""
        return self._of_values(node, super().max_pool(node, op, self._values(node, x)))

    def gate(self, node: Node, op: Gate, x: Tensor) -> Tensor:
        """x / 6 + 0.5."""
        return self._of_values(node, self._values(node, x) / 6 + 0.5)

    def relabel(self, node: Node, op: Relabel, x: Tensor) -> Tensor:
        """x / 6 + 0.5."""
        return self._of_values(node, self._values(node, x) / 6 + 0.5)

    def _values(self, node: Node, codes: Tensor) -> Tensor:
        return dequantize(codes, self.params(node))

    def _of_values(self, node: Node, values: Tensor) -> Tensor:
        return to_codes(values, self.graph.quant_params[node.id])


def accumulate(op: Convolution | Linear, codes: Tensor, params: QuantParams, weights: IntegerWeights) -> Tensor:
    """The int32 accumulators with bias, as integer-valued floats wide enough to be exact."""
    weight, bias = torch.from_numpy(weights.codes), torch.from_numpy(weights.bias)
    up, down = weight.flatten(1).long().clamp(min=0).sum(1), weight.flatten(1).long().clamp(max=0).sum(1)
    high, low = NUM_CODES - 1 - params.zero_point, -params.zero_point  # of a code less the zero point
    largest = torch.maximum(up * high + down * low, -(up * low + down * high)) + bias.long().abs()
    dtype = torch.float32 if int(largest.max()) < EXACT_FLOAT32 else torch.float64
    x, weight, bias = (codes - params.zero_point).to(dtype), weight.to(dtype), bias.to(dtype)
    if isinstance(op, Linear):
        return F.linear(x.flatten(1), weight, bias)
    groups = len(weight) if isinstance(op, Depthwise) else 1
    with torch.backends.nnpack.flags(enabled=False):  # its Winograd convolutions are not exact
        return F.conv2d(x, weight, bias, op.stride, op.padding, groups=groups)


def sum_scales(params: QuantParams, weights: IntegerWeights) -> Tensor:
    """Scale of the accumulators, float32 [C]."""
    return f32(params.scale) * torch.from_numpy(weights.scales)


def requantize(x: Tensor, params: QuantParams) -> Tensor:
    """Codes of x, given in units of the scale, in its place: round half to even, then the zero point."""
    return x.round_().add_(params.zero_point).clamp_(0, NUM_CODES - 1)


def to_codes(x: Tensor, params: QuantParams) -> Tensor:
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
