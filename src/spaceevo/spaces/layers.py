"""Named layers and the only shape arithmetic of the package.

A network, a stage or a block is a tuple of `Layer`s in execution order. Everything else (costs, kernels, torch
modules, integer graphs) is read off that tuple.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "pool", "max_pool", "multiply", "add", "linear"]
Activation = Literal["relu", "relu6", "hard_swish", "swish", "hard_sigmoid", "sigmoid"]
Norm = Literal["batch_norm", "bias", "none"]

INPUT = "input"
#: Name, within its block, of the 1x1 convolution of a shortcut whose ends differ.
SHORTCUT = "shortcut"


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, never more than 10 % down.

    >>> make_divisible(22.4), make_divisible(3)
    (24, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: Unique within the network, for example "stage1/0/expand"; also names the tensor it puts out.
        kind: "conv" (convolution, norm, activation), "pool" (global average pool), "max_pool", "multiply"
            (a feature map by one gate per channel), "add" (then activation), "linear" (the logits; with a bias).
        inputs: Names of the layers read; `INPUT` is the network's input.
        in_channels: Channels of the first input.
        out_channels: Channels put out.
        in_size: Height = width of the first input.
        out_size: Height = width put out.
        kernel_size: Of a convolution or a max pool; padding is kernel_size // 2, unless `pad` says otherwise.
        stride: Of a convolution or a max pool.
        depthwise: One filter per channel instead of a dense convolution.
        norm: What follows a convolution's sum: batch norm, only a bias, or nothing.
        weights: Where a convolution's weights are kept, if not under its name: the last convolution of a stack of
            elastic depth has other weights at every depth, but one norm.
        pad: Padding of a convolution that crops its input's border; None for kernel_size // 2.
        activation: Applied last; None for none.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    kernel_size: int = 1
    stride: int = 1
    depthwise: bool = False
    norm: Norm = "batch_norm"
    weights: str | None = None
    pad: int | None = None
    activation: Activation | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; additions, pooling and activations count nothing."""
        if self.kind == "conv":
            channels = 1 if self.depthwise else self.in_channels
            return self.kernel_size**2 * channels * self.out_channels * self.out_size**2
        return self.in_channels * self.out_channels if self.kind == "linear" else 0

    @property
    def num_params(self) -> int:
        """Trained parameters: weights, and scale and shift of the batch norm or the bias."""
        if self.kind == "conv":
            channels = 1 if self.depthwise else self.in_channels
            per_channel = {"batch_norm": 2, "bias": 1, "none": 0}[self.norm]
            return (self.kernel_size**2 * channels + per_channel) * self.out_channels
        return (self.in_channels + 1) * self.out_channels if self.kind == "linear" else 0

    @property
    def num_activations(self) -> int:
        """Elements of the tensor put out, for one image."""
        return self.out_channels * self.out_size**2


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature map on its way through a declaration."""

    name: str
    channels: int
    size: int


class Tracer:
    """Collects the layers that a declaration calls for and works out their shapes."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self._scope = ""

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the name of every layer declared inside."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def conv(
        self,
        name: str,
        x: Feature,
        width: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        activation: Activation | None = None,
        norm: Norm = "batch_norm",
    ) -> Feature:
        """A dense convolution to `width` channels with batch norm (or what `norm` says), then the activation."""
        return self._conv(name, x, width, kernel_size, stride, False, norm, None, None, activation)

    def depthwise(
        self,
        name: str,
        x: Feature,
        *,
        kernel_size: int,
        stride: int = 1,
        activation: Activation | None = None,
        norm: Norm = "batch_norm",
        weights: str | None = None,
        pad: int | None = None,
    ) -> Feature:
        """A depthwise convolution with batch norm (or what `norm` says), then the activation."""
        return self._conv(name, x, x.channels, kernel_size, stride, True, norm, weights, pad, activation)

    def squeeze_excite(
        self, name: str, x: Feature, reduced: int, *, activation: Activation = "relu", gate: Activation = "hard_sigmoid"
    ) -> Feature:
        """Squeeze-and-excite: pool, 1x1 to `reduced` (activation), 1x1 back (gate), multiply; biases, no batch norm."""
        with self.scope(name):
            s = self.pool("pool", x)
            s = self.conv("reduce", s, reduced, activation=activation, norm="bias")
            s = self.conv("expand", s, x.channels, activation=gate, norm="bias")
            return self._put(
                Layer(self._scope + "scale", "multiply", (x.name, s.name), x.channels, x.channels, x.size, x.size)
            )

    def shortcut(self, x: Feature, source: Feature, *, stride: int, activation: Activation | None = None) -> Feature:
        """Add `source`: as it is where shapes agree, else through a 1x1 convolution with batch norm."""
        if stride != 1 or source.channels != x.channels:
            source = self.conv(SHORTCUT, source, x.channels, stride=stride)
        return self._add(x, source, activation)

    def residual(self, x: Feature, source: Feature, *, activation: Activation | None = None) -> Feature:
        """Add `source` where the shapes agree, then the activation; else `x` as it is."""
        return self._add(x, source, activation) if (x.channels, x.size) == (source.channels, source.size) else x

    def max_pool(self, name: str, x: Feature, *, kernel_size: int = 3, stride: int = 2) -> Feature:
        """The largest value of every window."""
        out_size = (x.size - 1) // stride + 1
        return self._put(
            Layer(self._scope + name, "max_pool", (x.name,), x.channels, x.channels, x.size, out_size,
                  kernel_size, stride)
        )  # fmt: skip

    def pool(self, name: str, x: Feature) -> Feature:
        """Global average pool."""
        return self._put(Layer(self._scope + name, "pool", (x.name,), x.channels, x.channels, x.size, 1))

    def linear(self, name: str, x: Feature, width: int) -> Feature:
        """A linear layer with a bias on a pooled feature."""
        return self._put(Layer(self._scope + name, "linear", (x.name,), x.channels, width, 1, 1))

    def _conv(
        self,
        name: str,
        x: Feature,
        width: int,
        kernel_size: int,
        stride: int,
        depthwise: bool,
        norm: Norm,
        weights: str | None,
        pad: int | None,
        activation: Activation | None,
    ) -> Feature:
        padding = kernel_size // 2 if pad is None else pad
        out_size = (x.size + 2 * padding - kernel_size) // stride + 1
        return self._put(
            Layer(
                self._scope + name,
                "conv",
                (x.name,),
                x.channels,
                width,
                x.size,
                out_size,
                kernel_size,
                stride,
                depthwise,
                norm,
                None if weights is None else self._scope + weights,
                pad,
                activation,
            )
        )

    def _add(self, x: Feature, source: Feature, activation: Activation | None) -> Feature:
        channels, size = x.channels, x.size
        inputs = (x.name, source.name)
        return self._put(
            Layer(self._scope + "add", "add", inputs, channels, channels, size, size, activation=activation)
        )

    def _put(self, layer: Layer) -> Feature:
        self.layers.append(layer)
        return Feature(layer.name, layer.out_channels, layer.out_size)


def peak_activation_bytes(layers: Sequence[Layer], bytes_per_element: int = 1) -> int:
    """Largest sum of tensors alive at once when the layers run in order, in bytes, for one image.

    A tensor lives from the layer that makes it to the last layer that reads it; the input counts.

    Args:
        layers: A whole network, or a stage whose input is `INPUT`.
        bytes_per_element: 1 for INT8, 4 for FP32.
    """
    last_read = {name: i for i, layer in enumerate(layers) for name in layer.inputs}
    sizes = {INPUT: layers[0].in_channels * layers[0].in_size ** 2}
    sizes |= {layer.name: layer.num_activations for layer in layers}
    alive = {INPUT}
    peak = 0
    for i, layer in enumerate(layers):
        alive.add(layer.name)
        peak = max(peak, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last_read.get(name, len(layers)) > i}
    return peak * bytes_per_element
