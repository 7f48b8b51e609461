"""The largest of every node over many programs: what a supernet holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Conv, Depthwise, Linear, Op
from spaceevo.graph.tensors import Shape, Tensor


def elementwise_maximum(programs: Iterable[Sequence[Node]]) -> dict[str, Node]:
    """For each id, the largest channels and kernel size over all programs.

    Weights that are kept under a name of their own get an entry under that name.
    """
    largest: dict[str, Node] = {}

    def grow(node: Node) -> None:
        known = largest.setdefault(node.id, node)
        if known is not node and known != node:
            knows_more = known if known.inputs else node  # a node knows more than mere weights
            largest[node.id] = replace(
                knows_more,
                op=_larger(knows_more.op, node.op if knows_more is known else known.op),
                in_shape=_wider(known.in_shape, node.in_shape, knows_more.in_shape),
                out=knows_more.out._replace(
                    shape=_wider(known.out_shape, node.out_shape, knows_more.out_shape),
                ),
            )

    for node in (node for program in programs for node in program):
        if node.weights is not None and isinstance(node.op, Depthwise):
            op = Depthwise(node.op.kernel_size, norm="none")
            grow(Node(node.weights, op, (), node.in_shape, Tensor(node.out_shape, "none"), node.role))
        grow(node)
    return largest


def _larger(op: Op, other: Op) -> Op:
    match op, other:
        case Conv(), Conv():
            return replace(op, width=max(op.width, other.width), kernel_size=max(op.kernel_size, other.kernel_size))
        case Depthwise(), Depthwise():
            return replace(op, kernel_size=max(op.kernel_size, other.kernel_size))
        case Linear(), Linear():
            return Linear(max(op.width, other.width))
    return op


def _wider(shape: Shape, other: Shape, kept: Shape) -> Shape:
    return kept._replace(channels=max(shape.channels, other.channels))
