"""What the latency of a kernel depends on: one function, for fitting and for predicting."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import log2
from typing import NamedTuple, assert_never

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
from spaceevo.graph.tensors import Shape, Tensor

# Integer kernels compute in tiles: rows are positions, columns are output channels, products come in fours.
_CHANNEL_TILE = 16
_PRODUCT_TILE = 4
_POSITION_TILES = (1, 4, 8)


class Kernel(NamedTuple):
    """A node without what its latency does not depend on: ids, where the weights are kept, and the norm.

    Attributes:
        op: As if a batch norm followed.
        in_shape: Shape of its first input.
        out: What it puts out.
    """

    op: Op
    in_shape: Shape
    out: Tensor


def kernel(node: Node) -> Kernel:
    """The kernel that a node is."""
    return Kernel(_without_norm(node.op), node.in_shape, node.out)


@lru_cache(maxsize=65536)
def features(kernel: Kernel) -> tuple[str, tuple[float, ...]]:
    """The group of a kernel, and its features within the group.

    The latency of a kernel is a sum of its features, each times a coefficient of its group that is not negative.

    Returns:
        The name of the group, for example "conv1x1", and numbers of work, all >= 0: 1 for the call; for
        convolutions padded MACs with positions rounded up to several tiles, elements put out and weights;
        otherwise elements read. The features are empty where a kernel costs nothing (it only relabels codes).

    >>> features(Kernel(Add(), Shape(8, 6, 6), Tensor(Shape(8, 6, 6), "free")))
    ('add', (1.0, 288.0))
    """
    elementwise = (1.0, float(kernel.in_shape.num_elements))
    match kernel.op:
        case Relabel():
            return "relabel", ()
        case Conv() as op:
            products = _round_up(kernel.in_shape.channels * op.kernel_size**2, _PRODUCT_TILE)
            return _dense_group(op, kernel.in_shape), _convolution(kernel, products)
        case Depthwise() as op:
            return f"depthwise{op.kernel_size}x{op.kernel_size}", _convolution(kernel, op.kernel_size**2)
        case Linear():
            return "linear", _convolution(kernel, _round_up(kernel.in_shape.channels, _PRODUCT_TILE))
        case Multiply() as op:  # one gate per channel: squeeze-and-excite
            return ("scale" if op.per_channel else "multiply"), elementwise
        case Add():
            return "add", elementwise
        case Gate():
            return "gate", elementwise
        case Sigmoid():
            return "sigmoid", elementwise
        case Pool():
            return "pool", elementwise
        case MaxPool():
            return "max_pool", elementwise
        case Quantize():
            return "quantize", elementwise
        case op:
            assert_never(op)


def place(kernel: Kernel) -> tuple[float, ...]:
    """Where a kernel lies among the others of its group: kernels that lie close have like errors.

    Returns:
        Octaves of channels read, of channels put out and of the side of what is put out (the geometric mean of height
        and width), kernel size in steps of 2, and stride.
    """
    op, out = kernel.op, kernel.out.shape
    kernel_size, stride = (op.kernel_size, op.stride) if isinstance(op, (Conv, Depthwise, MaxPool)) else (1, 1)
    return (
        log2(kernel.in_shape.channels),
        log2(out.channels),
        (log2(out.height) + log2(out.width)) / 2,
        kernel_size / 2,
        float(stride),
    )


@lru_cache(maxsize=4096)
def _without_norm(op: Op) -> Op:
    return replace(op, norm="batch_norm") if isinstance(op, (Conv, Depthwise)) else op


def _convolution(kernel: Kernel, products: int) -> tuple[float, ...]:
    positions = kernel.out.shape.num_positions
    channels = _round_up(kernel.out.shape.channels, _CHANNEL_TILE)
    weights = float(products * channels)
    macs = (weights * _round_up(positions, tile) for tile in _POSITION_TILES)
    return (1.0, *macs, float(channels * positions), weights)


def _dense_group(op: Conv, in_shape: Shape) -> str:
    if op.kernel_size > 1:
        return "conv kxk"  # all become one matrix product; together they need fewer networks to fit
    if in_shape.num_positions == 1:
        return "conv1x1 on a pooled feature"
    return "conv1x1" if op.stride == 1 else "conv1x1 strided"


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
