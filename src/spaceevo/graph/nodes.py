"""A program: nodes in execution order, each with its operator, its output and its place in the architecture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from spaceevo.graph.ops import Conv, Depthwise, Gate, Multiply, Op
from spaceevo.graph.tensors import Shape, Tensor

#: Name of a program's input, and of the node that quantizes it.
INPUT = "input"


class Role(NamedTuple):
    """Which part of an architecture a node belongs to; several nodes may be one layer.

    Attributes:
        stage: Name of the stage, `HEAD` for what follows them, "" for none.
        block: Number of the block within the stage; None where there are no blocks.
        layer: Name of the layer within the block, for example "expand" or "se/reduce".
    """

    stage: str
    block: int | None
    layer: str

    @property
    def part(self) -> str:
        """What the ids of the nodes of its block, or of its stage, begin with."""
        return part_of(self.stage, self.block)


def part_of(stage: str, block: int | None) -> str:
    """What the ids of a block's nodes begin with, or, where there are no blocks, of a stage's; "" for no stage.

    >>> part_of("stage1", 0), part_of("head", None), part_of("", None)
    ('stage1/0/', 'head/', '')
    """
    if block is not None:
        return f"{stage}/{block}/"
    return f"{stage}/" if stage else ""


#: `Role.stage` of what follows the stages.
HEAD = "head"
#: `Role.layer` of the 1x1 convolution of a shortcut whose ends differ.
SHORTCUT = "shortcut"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a program.

    Attributes:
        id: Unique within the program; also names the tensor put out. A layer's last node has the layer's name.
        op: What is computed.
        inputs: Ids of the tensors read; `INPUT` is the program's input.
        in_shape: Shape of the first of them.
        out: The tensor put out.
        role: Which part of the architecture the node belongs to.
        weights: The layer under whose name the weights are kept, if not the node's: the last convolution of a stack of
            elastic depth has other weights at every depth, but one norm.
    """

    id: str
    op: Op
    inputs: tuple[str, ...]
    in_shape: Shape
    out: Tensor
    role: Role
    weights: str | None = None

    @property
    def out_shape(self) -> Shape:
        """Shape of the tensor put out."""
        return self.out.shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the weights, for one image."""
        return self.op.macs(self.in_shape)

    @property
    def num_params(self) -> int:
        """Trained parameters: weights, and scale and shift of the batch norm or the bias; without quantizers."""
        return self.op.num_params(self.in_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weights, () for none."""
        return self.op.weight_shape(self.in_shape)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights."""
        return self.weight_shape != ()

    @property
    def has_batch_norm(self) -> bool:
        """Whether a batch norm follows the sum."""
        return isinstance(self.op, (Conv, Depthwise)) and self.op.norm == "batch_norm"

    @property
    def weights_id(self) -> str:
        """The name under which the weights are kept."""
        return self.id if self.weights is None else self.role.part + self.weights


Program = tuple[Node, ...]


def layers(program: Sequence[Node]) -> Iterator[tuple[Node, ...]]:
    """The nodes of each layer in turn; the last node of a layer puts out its result."""
    for _, nodes in groupby(program, key=lambda node: node.role):
        yield tuple(nodes)


def blocks(program: Sequence[Node]) -> Iterator[tuple[Node, ...]]:
    """The nodes of each block in turn; what belongs to no block stands alone."""
    for (_, block), nodes in groupby(program, key=lambda node: node.role[:2]):
        if block is None:
            yield from ((node,) for node in nodes)
        else:
            yield tuple(nodes)


@lru_cache(maxsize=1024)
def last_reads(program: Program) -> dict[str, int]:
    """For each tensor, the number of the last node that reads it."""
    return {name: index for index, node in enumerate(program) for name in node.inputs}


@lru_cache(maxsize=1024)
def hard_swish_gates(program: Program) -> frozenset[str]:
    """Ids of the gates that are half of a hard-swish, which runtimes have as one operator.

    Nothing reads such a gate but the product with the tensor that the gate reads itself.
    """
    readers: dict[str, list[tuple[type[Op], tuple[str, ...]]]] = {}
    for node in program:
        for name in node.inputs:
            readers.setdefault(name, []).append((type(node.op), node.inputs))
    return frozenset(
        node.id
        for node in program
        if isinstance(node.op, Gate) and readers.get(node.id) == [(Multiply, (*node.inputs, node.id))]
    )


def peak_activation_bytes(program: Sequence[Node], bytes_per_element: int = 1) -> int:
    """Largest sum of tensors alive at once when the layers run in order, in bytes, for one image.

    A layer with its activation counts as one operation. A tensor lives from the layer that makes it to the last layer
    that reads it; the input counts.

    Args:
        program: A whole network, or a stage; begins with the quantization of its input, which counts as that.
        bytes_per_element: 1 for INT8, 4 for FP32.
    """
    first, *rest = layers(program)
    last_read = {name: number for number, layer in enumerate(rest) for node in layer for name in node.inputs}
    sizes = {INPUT: first[-1].out_shape.num_elements}
    alive = {INPUT}
    peak = 0
    for number, layer in enumerate(rest):
        result = layer[-1]
        sizes[result.id] = result.out_shape.num_elements
        alive.add(result.id)
        peak = max(peak, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last_read.get(name, len(rest)) > number}
    return peak * bytes_per_element
