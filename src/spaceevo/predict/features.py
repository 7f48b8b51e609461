"""What the latency of an operator depends on: one function, for fitting and for predicting."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import log2

from spaceevo.spaces.operators import Operator

# Integer kernels compute in tiles: rows are positions, columns are output channels, products come in fours.
_CHANNEL_TILE = 16
_PRODUCT_TILE = 4
_POSITION_TILES = (1, 4, 8)


@lru_cache(maxsize=262144)
def features(operator: Operator) -> tuple[str, tuple[float, ...]]:
    """The group of an operator, and its features within the group.

    The latency of an operator is a sum of its features, each times a coefficient of its group that is not
    negative.

    Returns:
        The name of the group, for example "conv1x1", and numbers of work, all >= 0: 1 for the call; for
        convolutions padded MACs with positions rounded up to several tiles, elements put out and weights;
        otherwise elements read. The features are empty where an operator costs nothing (it only relabels
        codes).

    >>> features(Operator("a", "add", ("x", "y"), 8, 8, 6, 6, "free"))
    ('add', (1.0, 288.0))
    """
    match operator.kind:
        case "relabel":
            return "relabel", ()
        case "conv" | "linear":
            return _convolution(operator)
        case "multiply" if operator.inputs[1] != f"{operator.name}:gate":
            return "scale", _elementwise(operator)  # one gate per channel: squeeze-and-excite
        case _:
            return operator.kind, _elementwise(operator)


@lru_cache(maxsize=262144)
def kernel(operator: Operator) -> Operator:
    """The operator without what its latency does not depend on: names, inputs, where the weights are kept."""
    gated = operator.kind == "multiply" and operator.inputs[1] == f"{operator.name}:gate"
    inputs = ("x", ":gate") if gated else ("x",)
    if operator.kind == "multiply" and not gated:
        inputs = ("x", "scale")
    return replace(operator, name="", inputs=inputs, norm="batch_norm", weights=None)


def place(operator: Operator) -> tuple[float, ...]:
    """Where an operator lies among the others of its group: operators that lie close have like errors.

    Returns:
        Octaves of channels read, channels put out and size, kernel size in steps of 2, and stride.
    """
    return (
        log2(operator.in_channels),
        log2(operator.out_channels),
        log2(operator.out_size),
        operator.kernel_size / 2,
        float(operator.stride),
    )


def _elementwise(operator: Operator) -> tuple[float, ...]:
    return 1.0, float(operator.in_channels * operator.in_size**2)


def _convolution(operator: Operator) -> tuple[str, tuple[float, ...]]:
    positions = operator.out_size**2
    channels = _round_up(operator.out_channels, _CHANNEL_TILE)
    if operator.depthwise:
        products = operator.kernel_size**2
    else:
        products = _round_up(operator.in_channels * operator.kernel_size**2, _PRODUCT_TILE)
    weights = float(products * channels)
    macs = (weights * _round_up(positions, tile) for tile in _POSITION_TILES)
    return _convolution_group(operator), (1.0, *macs, float(channels * positions), weights)


def _convolution_group(operator: Operator) -> str:
    if operator.kind == "linear":
        return "linear"
    if operator.depthwise:
        return f"depthwise{operator.kernel_size}x{operator.kernel_size}"
    if operator.kernel_size > 1:
        return "conv kxk"  # all become one matrix product; together they need fewer networks to fit
    if operator.in_size == 1:
        return "conv1x1 on a pooled feature"
    return "conv1x1" if operator.stride == 1 else "conv1x1 strided"


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
