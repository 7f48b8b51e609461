"""What a declaration calls for, as nodes: layers lowered to the operators that integer runtimes execute.

relu and relu6 cost nothing: they are the clamp of the quantizer. hard-swish becomes a gate and a product, swish a
sigmoid and a product; a hard sigmoid only relabels its input's codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache
from typing import Literal, NamedTuple, assert_never

from spaceevo.graph.nodes import INPUT, SHORTCUT, Node, Program, Role, part_of
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Norm,
    Op,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import Quantizer, Shape, Tensor

Activation = Literal["relu", "relu6", "hard_swish", "swish", "hard_sigmoid", "sigmoid"]
Placement = Literal["device", "published"]


class Feature(NamedTuple):
    """A feature map on its way through a declaration.

    Attributes:
        id: Of the node that puts it out.
        shape: Of one image.
    """

    id: str
    shape: Shape

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.shape.channels


def input_node(shape: Shape) -> Node:
    """The first node of every program: it quantizes the input."""
    return Node(INPUT, Quantize(), (INPUT,), shape, Tensor(shape, "free"), Role("", None, INPUT))


class Tracer:
    """Collects the nodes that a declaration calls for.

    Args:
        shape: Of the program's input.

    Attributes:
        input: The program's input, quantized.
        nodes: Those that were called for, up to now.
    """

    def __init__(self, shape: Shape) -> None:
        self.input = Feature(INPUT, shape)
        self.nodes: list[Node] = []
        self._stage: tuple[str, int | None] = ("", None)
        self._outer = self._scope = ""  # before a layer's name in an id, and of that what the role tells otherwise

    @property
    def program(self) -> Program:
        """The quantization of the input, and the nodes."""
        return (input_node(self.input.shape), *self.nodes)

    @contextmanager
    def part(self, stage: str, block: int | None = None) -> Iterator[None]:
        """What is declared inside belongs to a stage, and to a block of it."""
        outer = self._stage, self._outer
        self._stage, self._outer = (stage, block), part_of(stage, block)
        try:
            yield
        finally:
            self._stage, self._outer = outer

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the name of every layer declared inside."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = outer

    def conv(
        self,
        name: str,
        x: Feature,
        width: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        activation: Activation | None = None,
        norm: Norm = "batch_norm",
    ) -> Feature:
        """A dense convolution to `width` channels with batch norm (or what `norm` says), then the activation."""
        return self._layer(name, Conv(width, kernel_size, stride, norm=norm), (x,), activation)

    def depthwise(
        self,
        name: str,
        x: Feature,
        *,
        kernel_size: int,
        stride: int = 1,
        crop: int = 0,
        activation: Activation | None = None,
        norm: Norm = "batch_norm",
        weights: str | None = None,
    ) -> Feature:
        """A depthwise convolution with batch norm (or what `norm` says), then the activation.

        Args:
            name: Of the layer.
            x: Its input.
            kernel_size: Height = width of the kernel.
            stride: In both directions.
            crop: By how much less than kernel_size // 2 each side is padded.
            activation: Applied last.
            norm: What follows the sum.
            weights: Name of the layer under which the weights are kept, if not this one's.
        """
        return self._layer(name, Depthwise(kernel_size, stride, crop, norm), (x,), activation, weights)

    def squeeze_excite(
        self, name: str, x: Feature, reduced: int, *, activation: Activation = "relu", gate: Activation = "hard_sigmoid"
    ) -> Feature:
        """Squeeze-and-excite: pool, 1x1 to `reduced` (activation), 1x1 back (gate), multiply; biases, no batch norm."""
        with self.scope(name):
            s = self.pool("pool", x)
            s = self.conv("reduce", s, reduced, activation=activation, norm="bias")
            s = self.conv("expand", s, x.channels, activation=gate, norm="bias")
            return self._layer("scale", Multiply(per_channel=True), (x, s))

    def shortcut(self, x: Feature, source: Feature, *, stride: int, activation: Activation | None = None) -> Feature:
        """Add `source`: as it is where shapes agree, else through a 1x1 convolution with batch norm."""
        if stride != 1 or source.channels != x.channels:
            source = self.conv(SHORTCUT, source, x.channels, stride=stride)
        return self._layer("add", Add(), (x, source), activation)

    def residual(self, x: Feature, source: Feature, *, activation: Activation | None = None) -> Feature:
        """Add `source` where the shapes agree, then the activation; else `x` as it is."""
        return self._layer("add", Add(), (x, source), activation) if x.shape == source.shape else x

    def max_pool(self, name: str, x: Feature, *, kernel_size: int = 3, stride: int = 2) -> Feature:
        """The largest value of every window."""
        return self._layer(name, MaxPool(kernel_size, stride), (x,))

    def pool(self, name: str, x: Feature) -> Feature:
        """Global average pool."""
        return self._layer(name, Pool(), (x,))

    def linear(self, name: str, x: Feature, width: int) -> Feature:
        """A linear layer with a bias on a pooled feature."""
        return self._layer(name, Linear(width), (x,))

    def _layer(
        self,
        name: str,
        op: Op,
        inputs: tuple[Feature, ...],
        activation: Activation | None = None,
        weights: str | None = None,
    ) -> Feature:
        """One layer, lowered: its last node has the layer's name."""
        name, prefix = self._scope + name, self._outer
        role, layer_id = Role(*self._stage, name), prefix + name
        kept = None if weights is None else self._scope + weights
        ids, x = tuple([feature.id for feature in inputs]), inputs[0].shape
        shape = op.out_shape(x)
        quantizer, gate, is_factor = (_quantizer(op), None, False) if activation is None else _activated(activation)
        node_id = f"{layer_id}:linear" if gate else layer_id
        self.nodes.append(Node(node_id, op, ids, x, Tensor(shape, quantizer), role, kept))
        if gate:
            gate_id = f"{layer_id}:gate" if is_factor else layer_id
            self.nodes.append(Node(gate_id, gate, (node_id,), shape, Tensor(shape, "gate"), role))
            if is_factor:
                product = Tensor(shape, "free")
                self.nodes.append(Node(layer_id, Multiply(), (node_id, gate_id), shape, product, role))
        return Feature(layer_id, shape)


class Counter(Tracer):
    """Counts what a declaration calls for, without making nodes: several times as fast.

    Attributes:
        macs: Multiply-accumulates for one image.
        num_params: Trained parameters, without quantizers.
        num_weighted: Convolutions and linear layers.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.macs = self.num_params = self.num_weighted = 0

    def _layer(
        self,
        name: str,
        op: Op,
        inputs: tuple[Feature, ...],
        activation: Activation | None = None,
        weights: str | None = None,
    ) -> Feature:
        shape = inputs[0].shape
        if op.weight_shape(shape):  # activations, as all operators without weights, count nothing
            self.macs += op.macs(shape)
            self.num_params += op.num_params(shape)
            self.num_weighted += 1
        return Feature(name, op.out_shape(shape))


@cache
def _activated(activation: Activation) -> tuple[Quantizer, Op | None, bool]:
    """The quantizer of what is activated, the operator that follows, and whether its result is multiplied with that."""
    match activation:
        case "relu" | "relu6":
            return activation, None, False
        case "hard_sigmoid":
            return "hard_sigmoid_input", Relabel(), False
        case "sigmoid":
            return "free", Sigmoid(), False
        case "hard_swish":
            return "free", Gate(), True
        case "swish":
            return "free", Sigmoid(), True
        case _:
            assert_never(activation)


def _quantizer(op: Op) -> Quantizer:
    """The quantizer of what an operator puts out where no activation follows."""
    match op:
        case Conv() | Depthwise() | Pool() | Add() | Multiply() | Quantize():
            return "free"
        case Linear():
            return "none"
        case MaxPool():
            return "input"
        case Gate() | Sigmoid() | Relabel():
            return "gate"
        case _:
            assert_never(op)


@lru_cache(maxsize=4096)
def published(program: Program) -> Program:
    """A program in the published placement: what each convolution and linear layer reads is quantized, all else float.

    So the reference implementation trained. Each has a quantizer of its own; the input has none.
    """
    nodes: list[Node] = []
    for node in program[1:]:
        if node.has_weights:
            (source,) = node.inputs
            quantize = Node(f"{node.weights_id}:input", Quantize(), (source,), node.in_shape,
                            Tensor(node.in_shape, "offset"), node.role)  # fmt: skip
            nodes.append(quantize)
            node = replace(node, inputs=(quantize.id,))
        nodes.append(replace(node, out=node.out._replace(stays_float=True)))
    return tuple(nodes)


def is_published(program: Program) -> bool:
    """Whether a program has the published placement."""
    return any(node.out.stays_float or node.out.quantizer == "offset" for node in program)
