"""Tensors of a program: their shapes, and how the contract quantizes them."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: How a tensor is quantized: "free" (learned scale and zero point), "relu" (learned scale, zero point 0: the clamp is
#: the activation), "relu6" (also scale <= 6 / 255), a key of `FIXED_QUANTIZERS`, "offset" (as "free", in the reference
#: implementation's order of operations), "input" (that of the operator's first input), or "none" (float).
Quantizer = Literal["free", "relu", "relu6", "gate", "hard_sigmoid_input", "offset", "input", "none"]

NUM_CODES = 256
#: (scale, zero_point) of the quantizers that are not learned.
FIXED_QUANTIZERS: dict[str, tuple[float, int]] = {
    "gate": (1 / NUM_CODES, 0),  # values in [0, 1)
    "hard_sigmoid_input": (6 / NUM_CODES, NUM_CODES // 2),  # hard sigmoid is the identity on these codes
}
RELU6_MAX_SCALE = 6 / (NUM_CODES - 1)


class Shape(NamedTuple):
    """Shape of a tensor for one image.

    Attributes:
        channels: At least 1; the classes, where the tensor is logits.
        height: At least 1.
        width: At least 1; of a square tensor the height.
    """

    channels: int
    height: int = 1
    width: int = 1

    @property
    def num_positions(self) -> int:
        """Positions of the feature map: height times width."""
        return self.height * self.width

    @property
    def num_elements(self) -> int:
        """Elements for one image."""
        return self.channels * self.height * self.width


class Tensor(NamedTuple):
    """What an operator puts out.

    Attributes:
        shape: Of the tensor.
        quantizer: How the contract quantizes it.
        stays_float: Whether it is never quantized: the published placement quantizes only what convolutions and linear
            layers read.
    """

    shape: Shape
    quantizer: Quantizer
    stays_float: bool = False

    @property
    def is_learned(self) -> bool:
        """Whether scale (and zero point) are trained parameters."""
        return self.quantizer in ("free", "offset", "relu", "relu6") and not self.stays_float

    @property
    def is_quantized(self) -> bool:
        """Whether it has a quantizer of its own."""
        return self.quantizer not in ("input", "none") and not self.stays_float


def square(channels: int, size: int) -> Shape:
    """A shape of height = width.

    >>> square(3, 32)
    Shape(channels=3, height=32, width=32)
    """
    return Shape(channels, size, size)
