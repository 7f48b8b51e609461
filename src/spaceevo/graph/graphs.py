"""Programs with their numbers: what a device executes, and its FP32 twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spaceevo.graph.nodes import Program


@dataclass(frozen=True, slots=True)
class QuantParams:
    """How uint8 codes stand for values: value = scale * (code - zero_point).

    Attributes:
        scale: Positive; a float32 value.
        zero_point: In [0, 255].
    """

    scale: float
    zero_point: int


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """Quantized weights and bias of a convolution or a linear layer, batch norm folded.

    Attributes:
        codes: int8, the node's `weight_shape`, within [-w_qmax, w_qmax].
        scales: float32 [out_channels], positive.
        bias: int32 [out_channels], on the grid input scale * scales.
    """

    codes: np.ndarray
    scales: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class FloatWeights:
    """Weights (the node's `weight_shape`) and bias [out_channels], float32, batch norm folded."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """A quantized network, complete: what a device executes, number by number.

    Attributes:
        nodes: In execution order; the first quantizes the input, the last puts out the logits.
        quant_params: By node id, for every tensor but the logits.
        weights: By node id.
    """

    nodes: Program
    quant_params: Mapping[str, QuantParams]
    weights: Mapping[str, IntegerWeights]


@dataclass(frozen=True, eq=False)
class FloatGraph:
    """The FP32 twin of an integer graph: the same nodes, relu and relu6 as activations.

    Attributes:
        nodes: As in `IntegerGraph`.
        weights: By node id.
    """

    nodes: Program
    weights: Mapping[str, FloatWeights]
