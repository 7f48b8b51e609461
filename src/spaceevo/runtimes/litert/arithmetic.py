"""How XNNPACK computes in integers: what it takes exactly, and where it rounds otherwise than the contract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spaceevo.errors import ExportError
from spaceevo.graph.graphs import QuantParams
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Add, Gate, Multiply, Pool, Quantize
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic

OFFSET = 128  # of our codes over LiteRT's
MAX_WEIGHT = 127
MAX_BIAS = 2**30


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor: 127 on all of them.

    XNNPACK multiplies s8 by s8. Without VNNI, its x86 kernels widen both to 16 bit and add pairs of products in
    32 bit (`_mm256_madd_epi16`); with VNNI they use the instruction that does not saturate (`vpdpbusd`). On ARM,
    products are 16 bit, and at most two of them are added before they are widened: 2 * 128 * 127 < 2**15.
    """
    return MAX_WEIGHT


def half(node: Node, x: QuantParams) -> tuple[int, np.float32, int]:
    """x / 6 + 0.5 as a 1x1 depthwise convolution: weight code, weight scale and bias.

    Of the weight codes, which are all equal, that on whose grid 0.5 is rounded least.
    """
    step = np.float32(x.scale)
    codes = np.arange(1, MAX_WEIGHT + 1)
    scales = (1 / (6 * codes)).astype(np.float32)
    steps = (step * scales).astype(np.float64)
    with np.errstate(all="ignore"):  # of a scale that is 0 or no number
        biases = np.rint(0.5 / steps)
        errors = np.where(biases <= MAX_BIAS, abs(biases * steps - 0.5), np.inf)
    best = int(errors.argmin())
    if not np.isfinite(errors[best]):
        raise ExportError(
            f"LiteRT cannot compute {node.id}",
            found=f"its input {node.inputs[0]} has a scale of {x.scale}",
            remedy="Train again with a lower lr_int8",
        )
    return int(codes[best]), scales[best], int(biases[best])


def _quantize_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """Codes of the image: times the reciprocal of the scale, where the contract divides."""
    return _requantize(inputs[0][0] * (np.float32(1) / np.float32(y.scale)), y)


def _add_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A sum in fixed point: the larger of both factors has 21 bits, halves are rounded up."""
    ratios = [np.float32(params.scale) / np.float32(y.scale) for _, params in inputs]
    shift = 21 - int(np.frexp(max(ratios))[1])
    terms = [
        (codes.astype(np.int64) - params.zero_point) * int(np.rint(np.ldexp(ratio, shift)))
        for (codes, params), ratio in zip(inputs, ratios, strict=True)
    ]
    half = 1 << (shift - 1)
    return _clamp((terms[0] + terms[1] + half >> shift) + y.zero_point)


def _multiply_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A product, rounded before the zero point is added."""
    (a, a_params), (b, b_params) = inputs
    scale = np.float32(a_params.scale) * np.float32(b_params.scale) / np.float32(y.scale)
    return _requantize((a - a_params.zero_point) * (b - b_params.zero_point) * scale, y)


def _pool_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A mean: the sum of int8 codes times a factor, plus an offset with both zero points, in float32."""
    ((codes, x),) = inputs
    size = codes.shape[2] * codes.shape[3]
    total = (codes - OFFSET).sum(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    scale = np.float32(x.scale) / np.float32(y.scale) * (np.float32(1) / np.float32(size))
    offset = np.float32(y.zero_point - OFFSET) - np.float32((x.zero_point - OFFSET) * size) * scale
    return _clamp(np.rint(total * scale + offset) + OFFSET)


def _gate_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """x / 6 + 0.5 as the convolution that the exported file has for it."""
    ((codes, x),) = inputs
    weight, scale, bias = half(node, x)
    total = ((codes.astype(np.int64) - x.zero_point) * weight + bias).astype(np.float32)
    return _requantize(total * (np.float32(x.scale) * scale / np.float32(y.scale)), y)


def _requantize(values: np.ndarray, y: QuantParams) -> np.ndarray:
    return _clamp(np.rint(values) + y.zero_point)


def _clamp(codes: np.ndarray) -> np.ndarray:
    return codes.clip(0, NUM_CODES - 1).astype(np.float32)


#: As XNNPACK computes on x86, code by code: found in its source and confirmed on inputs that lie next to ties. Its
#: convolutions, sigmoids and max pools are the contract's. On ARM it also multiplies in fixed point, so that a tie may
#: be rounded otherwise.
ARITHMETIC = Arithmetic(
    codes={
        Quantize: _quantize_codes,
        Add: _add_codes,
        Multiply: _multiply_codes,
        Pool: _pool_codes,
        Gate: _gate_codes,
    }
)
