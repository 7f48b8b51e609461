"""How OpenVINO computes in integers: what it takes exactly, and where it rounds otherwise than the contract.

What OpenVINO makes of INT8 files: every convolution and fully connected layer in 8 bit. A convolution and the addition
after it become one kernel, which does not round between them. Gates and products of an activation become one kernel
that reads and puts out codes, and computes in float registers; a product of squeeze-and-excite whose first input has a
zero point reads floats from memory: dequantized codes. Whether a scale becomes part of the weights, of another scale
or of the limits of quantization decides the last bit of its float32 number, and that decides codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaceevo.graph.graphs import QuantParams
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Gate, Multiply, Pool, Quantize
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic

LARGEST = np.float32(NUM_CODES - 1)
_Inputs = Sequence[tuple[np.ndarray, QuantParams]]


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor.

    Measured with oneDNN held to AVX2 and to AVX-512 without VNNI: with codes up to 127, a third of a per cent of the
    codes that convolutions put out are wrong, by up to 98; depthwise ones stay exact. With 63 none is wrong.
    """
    return 63 if profile.pair_sums_saturate else 127


def _quantize_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """Codes of the image."""
    return _codes(inputs[0][0], *_limits(y))


def _multiply_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A product of dequantized codes; without a zero point, both scales are the second input's."""
    (a_codes, a), (b_codes, b) = inputs
    a_codes, b_codes = a_codes - np.float32(a.zero_point), b_codes - np.float32(b.zero_point)
    a_scale, b_scale = np.float32(a.scale), np.float32(b.scale)
    if a.zero_point:
        return _codes((a_codes * a_scale) * (b_codes * b_scale), *_limits(y))
    return _codes(a_codes * (b_codes * (a_scale * b_scale)), *_limits(y))


def _gate_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A gate: its scale and its half become part of the limits of quantization."""
    a_codes, a = inputs[0]
    sixth = np.float32(a.scale / 6)
    half = np.float32(0.5) / sixth
    low, high = (limit / sixth - half for limit in _limits(y))
    return _codes(a_codes - np.float32(a.zero_point), low, high)


def _pool_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A mean of codes: scale and zero point become part of the quantization, which rounds once."""
    a_codes, a = inputs[0]
    mean = a_codes.sum((2, 3), keepdims=True) / np.float32(node.in_shape.num_positions)
    low, high = (limit / np.float32(a.scale) for limit in _limits(y))
    factor = LARGEST / (high - low)
    shift = -low * LARGEST / (high - low) - np.float32(a.zero_point) * factor
    return _rounded((mean.astype(np.float64) * factor + shift).astype(np.float32))


def _limits(params: QuantParams) -> tuple[np.float32, np.float32]:
    """Least and largest value that codes stand for."""
    scale = np.float32(params.scale)
    return np.float32(-params.zero_point) * scale, np.float32(NUM_CODES - 1 - params.zero_point) * scale


def _codes(values: np.ndarray, low: np.float32, high: np.float32) -> np.ndarray:
    """Times a factor, where the contract divides, and the zero point, but for rounding, before rounding."""
    factor = LARGEST / (high - low)
    return _rounded(values * factor - low * factor)


def _rounded(codes: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(codes).clip(0, NUM_CODES - 1)
    return rounded


#: As OpenVINO computes on x86, code by code: found in its source, in its graph of execution, and in what it puts out
#: where every code lies between two others. Its sigmoids are the contract's.
ARITHMETIC = Arithmetic(
    {Quantize: _quantize_codes, Multiply: _multiply_codes, Gate: _gate_codes, Pool: _pool_codes},
    fused_additions=True,
)
