"""Extracted networks, and how a runtime's integers differ from the contract's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from spaceevo.graph.graphs import FloatGraph, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import Op


@dataclass(frozen=True, eq=False)
class ExtractedNetwork:
    """A trained network, ready to be written for any runtime.

    Attributes:
        integer: As quantization-aware training left it.
        floating: Its FP32 twin.
        metadata: What every exported file tells: encoding, class names, preprocessing, profile, ...
    """

    integer: IntegerGraph
    floating: FloatGraph
    metadata: Mapping[str, str]


#: (node, (codes, parameters) of every input, parameters of the output) -> codes. Codes are integers in float32
#: arrays [B, C, H, W], 0 to 255; `Quantize` is given the image.
CodesFunction = Callable[[Node, Sequence[tuple[np.ndarray, QuantParams]], QuantParams], np.ndarray]


class Unrounded(Protocol):
    """What a convolution of a runtime puts out before it is rounded to codes, which are as of `CodesFunction`."""

    def codes(self, y: QuantParams) -> np.ndarray:
        """Its codes.

        Args:
            y: Parameters of what the convolution puts out.
        """
        ...

    def codes_of_sum(self, a: QuantParams, b_codes: np.ndarray, b: QuantParams, y: QuantParams) -> np.ndarray:
        """Codes of an addition whose other summand has been rounded.

        Args:
            a: Parameters of what the convolution puts out.
            b_codes: The other summand.
            b: Its parameters.
            y: Parameters of the sum.
        """
        ...


#: (exact sums of products, without bias, float32 [B, C, H, W], parameters of the input, weights) -> what is put out.
ConvolutionFunction = Callable[[np.ndarray, QuantParams, IntegerWeights], Unrounded]


def added_rounded(program: Program) -> frozenset[str]:
    """No convolution of a program is added before it is rounded."""
    return frozenset()


@dataclass(frozen=True)
class Arithmetic:
    """Where the integer results of a runtime differ from the contract's (see `nets.executors`).

    Attributes:
        codes: By type of operator (one without weights), what computes its output.
        convolution: What computes the output of convolutions, depthwise ones included; None where the contract does.
        added_unrounded: Ids of a program's convolutions that an addition reads unrounded; of no effect without a
            `convolution`.
    """

    codes: Mapping[type[Op], CodesFunction] = field(default_factory=dict)
    convolution: ConvolutionFunction | None = None
    added_unrounded: Callable[[Program], frozenset[str]] = added_rounded
