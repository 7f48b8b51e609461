"""How OpenVINO computes in integers: what it takes exactly, and where it rounds otherwise than the contract.

What OpenVINO makes of INT8 files: every convolution and fully connected layer in 8 bit. A convolution and the addition
after it become one kernel, which does not round between them. Gates and products of an activation become one kernel
that reads and puts out codes, and computes in float registers; a product of squeeze-and-excite whose first input has a
zero point reads floats from memory: dequantized codes. Whether a scale becomes part of the weights, of another scale
or of the limits of quantization decides the last bit of its float32 number, and that decides codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spaceevo.graph.graphs import IntegerWeights, QuantParams
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Multiply, Pool, Quantize
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic

LARGEST = np.float32(NUM_CODES - 1)
SAME_SHIFT = 5e-5  # shifts of channels that differ by less count as the first one
NEGLIGIBLE = 1e-5  # share of the range below which a shift counts as none
_Inputs = Sequence[tuple[np.ndarray, QuantParams]]


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor.

    Measured with oneDNN held to AVX2 and to AVX-512 without VNNI: with codes up to 127, a third of a per cent of the
    codes that convolutions put out are wrong, by up to 98; depthwise ones stay exact. With 63 none is wrong.
    """
    return 63 if profile.pair_sums_saturate else 127


@lru_cache(maxsize=1024)
def added_unrounded(program: Program) -> frozenset[str]:
    """The convolutions that go on to add: the first summand of an addition that is one and has no other reader.

    The sum overwrites the other summand. So the convolution does not read it, and whatever else reads it comes
    before the sum.
    """
    readers: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}  # all that a node's result depends on, itself included
    by_id = {node.id: node for node in program}
    for node in program:
        before[node.id] = {node.id}.union(*(before.get(name, ()) for name in node.inputs))
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.id)
    found = set()
    for addition in (node for node in program if isinstance(node.op, Add)):
        for name, other in (addition.inputs, addition.inputs[::-1]):
            if isinstance(by_id[name].op, (Conv, Depthwise)) and readers[name] == {addition.id}:
                if other not in by_id[name].inputs and readers[other] <= before[addition.id]:
                    found.add(name)
                break
    return frozenset(found)


@dataclass(frozen=True, eq=False)
class Convolved:
    """What a convolution puts out before quantization.

    The order of operations is OpenVINO's, so that every constant is the same float32 number.

    Attributes:
        numbers: float32 [B, C, H, W]: sums and bias; sums alone if every bias is 0.
        step: Of these sums [C, 1, 1], which OpenVINO then makes part of the constants of quantization; else None.
    """

    numbers: np.ndarray
    step: np.ndarray | None

    def codes(self, y: QuantParams) -> np.ndarray:
        """Rounded."""
        scale, shift = _scale_and_shift(y, self.step)
        if not shift.any() and scale.size == 1:
            scale = _reciprocal_twice(scale)
        return _rounded(self._scaled(scale, shift))

    def codes_of_sum(self, a: QuantParams, b_codes: np.ndarray, b: QuantParams, y: QuantParams) -> np.ndarray:
        """Plus a tensor: the value is clamped to its range, in units of the tensor's codes."""
        a_scale, b_scale = np.float32(a.scale), np.float32(b.scale)
        ratio, offset = a_scale / b_scale, np.float32(a.zero_point) + np.float32(b.zero_point) * b_scale / a_scale
        low, high = -offset * ratio, (LARGEST - offset) * ratio
        unit = (high - low) / LARGEST
        scale, shift = _scale_and_shift(a, self.step)
        shift = np.asarray(shift * unit + low)
        if shift.size == 1 and np.abs(shift) < (LARGEST * unit) * NEGLIGIBLE:
            shift = np.zeros_like(shift)
        branch = self._scaled(scale * unit, shift).clip(low, LARGEST * unit + low)
        y_low, y_high = (limit / b_scale for limit in _limits(y))
        scale, shift = np.asarray(LARGEST / (y_high - y_low)), np.asarray(-y_low * LARGEST / (y_high - y_low))
        return _rounded(_fused_multiply_add(branch + b_codes, scale if shift else _reciprocal_twice(scale), shift))

    def _scaled(self, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Times scale plus shift, rounded once; twice where the scale became part of the weights."""
        if scale.size == shift.size == 1:
            return _fused_multiply_add(self.numbers, scale, shift)
        scaled: np.ndarray = self.numbers * scale + shift
        return scaled


def convolved(sums: np.ndarray, x: QuantParams, weights: IntegerWeights) -> Convolved:
    """What a convolution puts out before quantization, of its exact sums without bias."""
    step = (np.float32(x.scale) * weights.scales).reshape(-1, 1, 1)
    if not weights.bias.any():
        return Convolved(sums, step)
    return Convolved(sums * step + weights.bias.astype(np.float32).reshape(-1, 1, 1) * step, None)


def _scale_and_shift(params: QuantParams, step: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) that take values to codes, 0-d if they are the same for every channel, else [C, 1, 1]."""
    low, high = (limit if step is None else limit / step for limit in _limits(params))
    scale, shift = np.asarray(LARGEST / (high - low)), np.asarray(-low * LARGEST / (high - low))
    if step is None:
        return scale, shift
    if np.abs(shift - shift[0]).max() < SAME_SHIFT:
        shift = shift[0, 0, 0, ...]
    return (scale[0, 0, 0, ...] if (scale == scale[0]).all() else scale), shift


def _fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c rounded once to float32."""
    total = a.astype(np.float64)
    total *= b
    total += c
    return total.astype(np.float32)


def _reciprocal_twice(scale: np.ndarray) -> np.ndarray:
    """Without a shift, kernels divide by a scale of the output."""
    return np.asarray(1 / (1 / scale))


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


#: As OpenVINO computes on x86, code by code: found in its source, its choice of kernels and its graph of execution, and
#: in what it puts out where every code lies between two others. Its sigmoids are the contract's.
ARITHMETIC = Arithmetic(
    {Quantize: _quantize_codes, Multiply: _multiply_codes, Gate: _gate_codes, Pool: _pool_codes},
    convolved,
    added_unrounded,
)
