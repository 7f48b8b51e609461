"""What a declaration calls for, as nodes: layers lowered to the operators that integer runtimes execute.

relu and relu6 cost nothing: they are the clamp of the quantizer. hard-swish becomes a gate and a product, swish a
sigmoid and a product; a hard sigmoid only relabels its input's codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple, assert_never

from spaceevo.graph.nodes import INPUT, SHORTCUT, Node, Program, Role
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
_UNACTIVATED: dict[type[Op], Quantizer] = {Linear: "none", MaxPool: "input"}  # else "free"


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


class Tracer:
    """Collects the nodes that a declaration calls for.

    Args:
        shape: Of the program's input.

    Attributes:
        input: The program's input, quantized.
    """

    def __init__(self, shape: Shape) -> None:
        self._nodes = [Node(INPUT, Quantize(), (INPUT,), shape, Tensor(shape, "free"), Role("", None, INPUT))]
        self._stage: tuple[str, int | None] = ("", None)
        self._outer = self._scope = ""  # before a layer's name in an id, and of that what the role tells otherwise
        self.input = Feature(INPUT, shape)

    @property
    def program(self) -> Program:
        """The nodes up to now; the first quantizes the input."""
        return tuple(self._nodes)

    @contextmanager
    def part(self, stage: str, block: int | None = None) -> Iterator[None]:
        """What is declared inside belongs to a stage, and to a block of it."""
        outer = self._stage, self._outer
        self._stage, self._outer = (stage, block), f"{stage}/" if block is None else f"{stage}/{block}/"
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
        kept = None if weights is None else prefix + self._scope + weights
        ids, x = tuple(feature.id for feature in inputs), inputs[0].shape
        shape = op.out_shape(x)

        def put(suffix: str, op: Op, ids: tuple[str, ...], x: Shape, quantizer: Quantizer) -> str:
            node_id = layer_id + suffix
            kept_here = kept if isinstance(op, Depthwise) else None
            self._nodes.append(Node(node_id, op, ids, x, Tensor(shape, quantizer), role, kept_here))
            return node_id

        match activation:
            case None:
                put(
                    "", op, ids, x, "none" if isinstance(op, Linear) else "input" if isinstance(op, MaxPool) else "free"
                )
            case "relu" | "relu6":
                put("", op, ids, x, activation)
            case "hard_sigmoid":
                linear = put(":linear", op, ids, x, "hard_sigmoid_input")
                put("", Relabel(), (linear,), shape, "gate")
            case "sigmoid":
                linear = put(":linear", op, ids, x, "free")
                put("", Sigmoid(), (linear,), shape, "gate")
            case "hard_swish" | "swish":
                linear = put(":linear", op, ids, x, "free")
                gate = put(":gate", Gate() if activation == "hard_swish" else Sigmoid(), (linear,), shape, "gate")
                put("", Multiply(), (linear, gate), shape, "free")
            case _:
                assert_never(activation)
        return Feature(layer_id, shape)


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
