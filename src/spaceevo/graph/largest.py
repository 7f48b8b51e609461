"""The largest of every node over many programs: what a supernet holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from spaceevo.graph.nodes import Node
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
from spaceevo.graph.tensors import Tensor


@dataclass(slots=True)
class _Extent:
    """A node, and how large it is in any program."""

    node: Node
    in_channels: int = 0
    out_channels: int = 0
    kernel_size: int = 0

    def grow(self, node: Node) -> None:
        if not self.node.inputs:
            self.node = node  # a node knows more than mere weights
        self.in_channels = max(self.in_channels, node.in_shape.channels)
        self.out_channels = max(self.out_channels, node.out.shape.channels)
        if isinstance(node.op, (Conv, Depthwise)):
            self.kernel_size = max(self.kernel_size, node.op.kernel_size)

    def largest(self) -> Node:
        node = self.node
        in_shape = node.in_shape._replace(channels=self.in_channels)
        out = node.out._replace(shape=node.out.shape._replace(channels=self.out_channels))
        return replace(node, op=self._op(node.op), in_shape=in_shape, out=out)

    def _op(self, op: Op) -> Op:
        match op:
            case Conv():
                return replace(op, width=self.out_channels, kernel_size=self.kernel_size)
            case Depthwise():
                return replace(op, kernel_size=self.kernel_size)
            case Linear():
                return replace(op, width=self.out_channels)
            case Quantize() | Pool() | MaxPool() | Add() | Multiply() | Gate() | Sigmoid() | Relabel():
                return op  # has no parameters
            case _:
                assert_never(op)


def elementwise_maximum(programs: Iterable[Sequence[Node]]) -> dict[str, Node]:
    """For each id, the largest channels and kernel size over all programs.

    Weights that are kept under a name of their own get an entry under that name.
    """
    extents: dict[str, _Extent] = {}

    def grow(node: Node) -> None:
        extent = extents.get(node.id)
        if extent is None:
            extent = extents[node.id] = _Extent(node)
        extent.grow(node)

    for node in (node for program in programs for node in program):
        if node.weights is not None and isinstance(node.op, Depthwise):
            op = Depthwise(node.op.kernel_size, norm="none")
            role = node.role._replace(layer=node.weights)
            grow(Node(node.weights_id, op, (), node.in_shape, Tensor(node.out.shape, "none"), role))
        grow(node)
    return {node_id: extent.largest() for node_id, extent in extents.items()}
