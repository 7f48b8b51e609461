"""What training computes of a program, operator by operator: in float, or fake-quantized.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

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
from spaceevo.nets.fake_quant import ActivationQuantizer


class FloatLayers(Protocol):
    """The parameters that a pass in float reads."""

    def convolve(self, node: Node, op: Convolution, x_BCHW: Tensor) -> Tensor:
        """The convolution, without the norm."""
        ...

    def classify(self, node: Node, x_BCHW: Tensor) -> Tensor:
        """The linear layer."""
        ...

    def normalize(self, node: Node, y_BCHW: Tensor) -> Tensor:
        """The batch norm, where there is one."""
        ...

    def observe(self, node: Node, value: Tensor) -> None:
        """Sees every float tensor whose scale is learned."""
        ...


class Layers(FloatLayers, Protocol):
    """The parameters that a fake-quantized pass reads."""

    def quantize_normalized(self, node: Node, y_BCHW: Tensor) -> Tensor:
        """The batch norm, where there is one, and the quantizer of the output."""
        ...

    def quantizer(self, node_id: str) -> ActivationQuantizer:
        """The quantizer of a tensor."""
        ...


class FloatPass(Interpreter[Tensor]):
    """In float: relu and relu6 as activations.

    Args:
        layers: The parameters.
    """

    def __init__(self, layers: FloatLayers) -> None:
        self.layers = layers

    def quantize(self, node: Node, op: Quantize, x: Tensor) -> Tensor:
        """The image as it is."""
        return self._activated(node, x)

    def conv(self, node: Node, op: Conv, x: Tensor) -> Tensor:
        """Convolution, norm and activation."""
        return self._convolution(node, op, x)

    def depthwise(self, node: Node, op: Depthwise, x: Tensor) -> Tensor:
        """Convolution, norm and activation."""
        return self._convolution(node, op, x)

    def linear(self, node: Node, op: Linear, x: Tensor) -> Tensor:
        """The logits [B, C]."""
        return self.layers.classify(node, x)

    def pool(self, node: Node, op: Pool, x: Tensor) -> Tensor:
        """The mean [B, C, 1, 1]."""
        return self._activated(node, x.mean((2, 3), keepdim=True))

    def max_pool(self, node: Node, op: MaxPool, x: Tensor) -> Tensor:
        """Of values that are codes already."""
        return F.max_pool2d(x, op.kernel_size, op.stride, op.padding)

    def add(self, node: Node, op: Add, a: Tensor, b: Tensor) -> Tensor:
        """The sum and its activation."""
        return self._activated(node, a + b)

    def multiply(self, node: Node, op: Multiply, a: Tensor, b: Tensor) -> Tensor:
        """The product."""
        return self._activated(node, a * b)

    def gate(self, node: Node, op: Gate, x: Tensor) -> Tensor:
        """x / 6 + 0.5 within [0, 1]."""
        return F.hardsigmoid(x)

    def sigmoid(self, node: Node, op: Sigmoid, x: Tensor) -> Tensor:
        """The logistic function."""
        return torch.sigmoid(x)

    def relabel(self, node: Node, op: Relabel, x: Tensor) -> Tensor:
        """The hard sigmoid."""
        return F.hardsigmoid(x)

    def _convolution(self, node: Node, op: Convolution, x: Tensor) -> Tensor:
        y = self.layers.convolve(node, op, x).float()  # of bfloat16 under autocast
        return self._activated(node, self.layers.normalize(node, y))

    def _activated(self, node: Node, y: Tensor) -> Tensor:
        # In the memory of a sum or a norm, which nothing else reads
        if node.out.quantizer == "relu":
            y = F.relu_(y)
        elif node.out.quantizer == "relu6":
            y = F.hardtanh_(y, 0.0, 6.0)
        if node.out.is_learned:
            self.layers.observe(node, y)
        return y


class _QuantizedPass(FloatPass):
    layers: Layers

    def __init__(self, layers: Layers) -> None:
        super().__init__(layers)


class PublishedPass(_QuantizedPass):
    """The published placement: what convolutions and linear layers read is fake-quantized, all else is float."""

    def quantize(self, node: Node, op: Quantize, x: Tensor) -> Tensor:
        """What a convolution or a linear layer reads."""
        y: Tensor = self.layers.quantizer(node.id)(x)
        return y


class FakeQuantPass(_QuantizedPass):
    """The placement of devices: every tensor is fake-quantized."""

    def quantize(self, node: Node, op: Quantize, x: Tensor) -> Tensor:
        """The image."""
        return self._quantized(node, x)

    def pool(self, node: Node, op: Pool, x: Tensor) -> Tensor:
        """The mean [B, C, 1, 1]."""
        return self._quantized(node, x.mean((2, 3), keepdim=True))

    def add(self, node: Node, op: Add, a: Tensor, b: Tensor) -> Tensor:
        """The sum."""
        return self.layers.quantizer(node.id).of_sum(a, b)

    def multiply(self, node: Node, op: Multiply, a: Tensor, b: Tensor) -> Tensor:
        """The product."""
        return self.layers.quantizer(node.id).of_product(a, b)

    def gate(self, node: Node, op: Gate, x: Tensor) -> Tensor:
        """x / 6 + 0.5 within the gate's codes."""
        return self.layers.quantizer(node.id).of_gate(x)

    def sigmoid(self, node: Node, op: Sigmoid, x: Tensor) -> Tensor:
        """The logistic function."""
        return self._quantized(node, torch.sigmoid(x))

    def relabel(self, node: Node, op: Relabel, x: Tensor) -> Tensor:
        """The same codes at another scale."""
        return x * (1 / 6) + 0.5

    def _convolution(self, node: Node, op: Convolution, x: Tensor) -> Tensor:
        y = self.layers.convolve(node, op, x).float()  # of bfloat16 under autocast
        return self.layers.quantize_normalized(node, y)

    def _quantized(self, node: Node, y: Tensor) -> Tensor:
        quantized: Tensor = self.layers.quantizer(node.id)(y)
        return quantized
