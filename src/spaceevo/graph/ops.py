"""The operators that integer runtimes execute, one small type each; the only shape arithmetic of the package.

Every operator knows the shape that it puts out, its multiply-accumulates (for one image), the shape of its weights and
how many parameters are trained in it (without quantizers), given the shape of its first input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spaceevo.graph.tensors import Shape

Norm = Literal["batch_norm", "bias", "none"]
_PARAMS_OF_NORM: dict[Norm, int] = {"batch_norm": 2, "bias": 1, "none": 0}  # per channel


@dataclass(frozen=True, slots=True)
class _Elementwise:
    """An operator without weights that keeps the shape of its first input."""

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return x

    def weight_shape(self, x: Shape) -> tuple[int, ...]:
        """() for none."""
        return ()

    def macs(self, x: Shape) -> int:
        """Additions, pooling and activations count nothing."""
        return 0

    def num_params(self, x: Shape) -> int:
        """Nothing is trained."""
        return 0


@dataclass(frozen=True, slots=True)
class Quantize(_Elementwise):
    """The network's input, or, in the published placement, what a convolution reads, becomes codes."""


@dataclass(frozen=True, slots=True)
class Gate(_Elementwise):
    """x / 6 + 0.5, clamped to [0, 1]."""


@dataclass(frozen=True, slots=True)
class Sigmoid(_Elementwise):
    """The logistic function."""


@dataclass(frozen=True, slots=True)
class Relabel(_Elementwise):
    """The same codes, read with the gate's scale: a hard sigmoid of what has `hard_sigmoid_input`'s."""


@dataclass(frozen=True, slots=True)
class Add(_Elementwise):
    """The sum of two tensors of one shape."""


@dataclass(frozen=True, slots=True)
class Multiply(_Elementwise):
    """The product of two tensors.

    Attributes:
        per_channel: Whether the second one has one value per channel, [C, 1, 1]; else both have one shape.
    """

    per_channel: bool = False


@dataclass(frozen=True, slots=True)
class Pool(_Elementwise):
    """The average over all positions: [C, 1, 1]."""

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return Shape(x.channels)


@dataclass(frozen=True, slots=True)
class MaxPool(_Elementwise):
    """The largest value of every window.

    Attributes:
        kernel_size: Height = width of the window, odd.
        stride: In both directions.
    """

    kernel_size: int = 3
    stride: int = 2

    @property
    def padding(self) -> int:
        """Positions on each side that count as nothing."""
        return self.kernel_size // 2

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return _windows(x.channels, x, self)


@dataclass(frozen=True, slots=True)
class Conv:
    """A dense convolution, its norm folded into it.

    Attributes:
        width: Channels put out.
        kernel_size: Height = width of the kernel, odd.
        stride: In both directions.
        crop: By how much less than kernel_size // 2 each side is padded.
        norm: What follows the sum: batch norm, only a bias, or nothing.
    """

    width: int
    kernel_size: int = 1
    stride: int = 1
    crop: int = 0
    norm: Norm = "batch_norm"

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.kernel_size // 2 - self.crop

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return _windows(self.width, x, self)

    def weight_shape(self, x: Shape) -> tuple[int, ...]:
        """[out_channels, in_channels, kernel_size, kernel_size]."""
        return (self.width, x.channels, self.kernel_size, self.kernel_size)

    def macs(self, x: Shape) -> int:
        """Of every position put out."""
        return self.kernel_size**2 * x.channels * self.width * self.out_shape(x).num_positions

    def num_params(self, x: Shape) -> int:
        """Weights and norm."""
        return (self.kernel_size**2 * x.channels + _PARAMS_OF_NORM[self.norm]) * self.width


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A convolution with one filter per channel, its norm folded into it.

    Attributes:
        kernel_size: Height = width of the kernel, odd.
        stride: In both directions.
        crop: By how much less than kernel_size // 2 each side is padded.
        norm: What follows the sum: batch norm, only a bias, or nothing.
    """

    kernel_size: int = 1
    stride: int = 1
    crop: int = 0
    norm: Norm = "batch_norm"

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.kernel_size // 2 - self.crop

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return _windows(x.channels, x, self)

    def weight_shape(self, x: Shape) -> tuple[int, ...]:
        """[channels, 1, kernel_size, kernel_size]."""
        return (x.channels, 1, self.kernel_size, self.kernel_size)

    def macs(self, x: Shape) -> int:
        """Of every position put out."""
        return self.kernel_size**2 * x.channels * self.out_shape(x).num_positions

    def num_params(self, x: Shape) -> int:
        """Weights and norm."""
        return (self.kernel_size**2 + _PARAMS_OF_NORM[self.norm]) * x.channels


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer with a bias on a pooled feature; its output is the logits, in float.

    Attributes:
        width: Features put out.
    """

    width: int

    def out_shape(self, x: Shape) -> Shape:
        """Shape put out."""
        return Shape(self.width)

    def weight_shape(self, x: Shape) -> tuple[int, ...]:
        """[out_features, in_features]."""
        return (self.width, x.channels)

    def macs(self, x: Shape) -> int:
        """Of the weights."""
        return x.channels * self.width

    def num_params(self, x: Shape) -> int:
        """Weights and bias."""
        return (x.channels + 1) * self.width


Convolution = Conv | Depthwise
Weighted = Conv | Depthwise | Linear
Op = Quantize | Conv | Depthwise | Linear | Pool | MaxPool | Add | Multiply | Gate | Sigmoid | Relabel


def _windows(channels: int, x: Shape, op: Conv | Depthwise | MaxPool) -> Shape:
    shrink = op.kernel_size - 2 * op.padding
    return Shape(channels, (x.height - shrink) // op.stride + 1, (x.width - shrink) // op.stride + 1)
