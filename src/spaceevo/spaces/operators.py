"""The quantization contract as a program: layers lowered to the operators that integer runtimes execute.

Every operator puts out one tensor and says how that tensor is quantized. The same program is read by the torch
modules (float and fake-quantized), by the integer executors, by every exporter and by the latency features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from spaceevo.spaces.layers import INPUT, Layer, Norm

OperatorKind = Literal[
    "quantize", "conv", "gate", "sigmoid", "relabel", "multiply", "add", "pool", "max_pool", "linear"
]
Quantizer = Literal["free", "relu", "relu6", "gate", "hard_sigmoid_input", "offset", "input", "none"]
Placement = Literal["device", "published"]

NUM_CODES = 256
#: (scale, zero_point) of the quantizers that are not learned.
FIXED_QUANTIZERS: dict[str, tuple[float, int]] = {
    "gate": (1 / NUM_CODES, 0),  # values in [0, 1)
    "hard_sigmoid_input": (6 / NUM_CODES, NUM_CODES // 2),  # hard sigmoid is the identity on these codes
}
RELU6_MAX_SCALE = 6 / (NUM_CODES - 1)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a program.

    Attributes:
        name: Unique; also the name of the tensor put out. A layer's last operator has the layer's name.
        kind: "quantize" (the network's input), "conv" (with its norm folded), "gate" (x / 6 + 0.5 clamped to
            [0, 1]), "sigmoid", "relabel" (the same codes read with the gate's scale), "multiply" (the second
            input may have size 1), "add", "pool" (global average), "max_pool",
            "linear" (float logits).
        inputs: Names of the tensors read.
        in_channels: Channels of the first input.
        out_channels: Channels put out.
        in_size: Height = width of the first input.
        out_size: Height = width put out.
        quantizer: "free" (learned scale and zero point), "relu" (learned scale, zero point 0: the clamp is the
            activation), "relu6" (also scale <= 6 / 255), a key of `FIXED_QUANTIZERS`, "offset" (as "free", in the
            reference implementation's order of operations), "input" (that of the first
            input), or "none" (float).
        kernel_size: Of a convolution or a max pool; padding is kernel_size // 2.
        stride: Of a convolution or a max pool.
        depthwise: Of a convolution.
        norm: Of a convolution, as in `Layer`.
        pad: Of a convolution, as in `Layer`.
        weights: Where the weights are kept, if not under the operator's name, as in `Layer`.
        stays_float: Whether the output is never quantized: the published placement quantizes only what
            convolutions and linear layers read.
    """

    name: str
    kind: OperatorKind
    inputs: tuple[str, ...]
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    quantizer: Quantizer
    kernel_size: int = 1
    stride: int = 1
    depthwise: bool = False
    norm: Norm = "batch_norm"
    weights: str | None = None
    pad: int | None = None
    stays_float: bool = False

    @property
    def is_learned(self) -> bool:
        """Whether the scale (and zero point) of the output are trained parameters."""
        return self.quantizer in ("free", "offset", "relu", "relu6") and not self.stays_float

    @property
    def has_weights(self) -> bool:
        """Whether the operator has weights and a bias."""
        return self.kind in ("conv", "linear")

    @property
    def has_batch_norm(self) -> bool:
        """Whether a batch norm follows the sum."""
        return self.kind == "conv" and self.norm == "batch_norm"

    @property
    def weights_name(self) -> str:
        """The name under which the weights are kept."""
        return self.weights or self.name

    @property
    def is_quantized(self) -> bool:
        """Whether the output has a quantizer of its own."""
        return self.quantizer not in ("input", "none") and not self.stays_float

    @property
    def padding(self) -> int:
        """Padding on each side of a convolution (zeros) or a max pool (nothing)."""
        return self.kernel_size // 2 if self.pad is None else self.pad

    @property
    def groups(self) -> int:
        """Groups of a convolution."""
        return self.in_channels if self.depthwise else 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """[out_channels, in_channels / groups, kernel_size, kernel_size]; linear: [out, in]."""
        if self.kind == "linear":
            return (self.out_channels, self.in_channels)
        return (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the weights, for one image."""
        if not self.has_weights:
            return 0
        return self.kernel_size**2 * self.in_channels // self.groups * self.out_channels * self.out_size**2


@lru_cache(maxsize=65536)
def operators(layers: tuple[Layer, ...], placement: Placement = "device") -> tuple[Operator, ...]:
    """Lower layers to a program.

    "device" is the quantization contract: every tensor between two kernels is quantized. "published" quantizes what
    each convolution and linear layer reads, each with its own quantizer, as the reference implementation trained.

    relu and relu6 cost nothing: they are the clamp of the quantizer. hard-swish becomes a gate and a product,
    swish a sigmoid and a product; a hard sigmoid only relabels its input's codes.
    """
    first = layers[0]
    channels, size = first.in_channels, first.in_size
    program = [Operator(INPUT, "quantize", (INPUT,), channels, channels, size, size, "free")]
    for layer in layers:
        program += _lower(layer)
    return tuple(program if placement == "device" else _published(program[1:]))


def elementwise_maximum(programs: Iterable[Sequence[Operator]]) -> dict[str, Operator]:
    """For each operator name, the largest channels and kernel size over all programs.

    Weights that are kept under a name of their own get an entry under that name.
    """
    largest: dict[str, Operator] = {}

    def grow(operator: Operator) -> None:
        known = largest.setdefault(operator.name, operator)
        if known != operator:
            largest[operator.name] = replace(
                known if known.inputs else operator,  # an operator knows more than mere weights
                in_channels=max(known.in_channels, operator.in_channels),
                out_channels=max(known.out_channels, operator.out_channels),
                kernel_size=max(known.kernel_size, operator.kernel_size),
            )

    for operator in (operator for program in programs for operator in program):
        if operator.weights is not None:
            kept = Operator(operator.weights, "conv", (), operator.in_channels, operator.out_channels, 1, 1, "none",
                            operator.kernel_size, depthwise=operator.depthwise, norm="none")  # fmt: skip
            grow(kept)
        grow(operator)
    return largest


def _published(program: list[Operator]) -> Iterator[Operator]:
    for operator in program:
        if operator.has_weights:
            (source,) = operator.inputs
            channels, size = operator.in_channels, operator.in_size
            quantize = Operator(f"{operator.weights_name}:input", "quantize", (source,), channels, channels, size, size,
                                "offset")  # fmt: skip
            yield quantize
            operator = replace(operator, inputs=(quantize.name,))
        yield replace(operator, stays_float=True)


def _lower(layer: Layer) -> list[Operator]:
    if layer.kind == "linear":
        return [_operator(layer, layer.name, "none")]
    if layer.kind == "max_pool":
        return [_operator(layer, layer.name, "input")]
    match layer.activation:
        case None:
            return [_operator(layer, layer.name, "free")]
        case "relu" | "relu6":
            return [_operator(layer, layer.name, layer.activation)]
        case "hard_sigmoid":
            linear = _operator(layer, f"{layer.name}:linear", "hard_sigmoid_input")
            return [linear, _pointwise(layer, layer.name, "relabel", (linear.name,), "gate")]
        case "sigmoid":
            linear = _operator(layer, f"{layer.name}:linear", "free")
            return [linear, _pointwise(layer, layer.name, "sigmoid", (linear.name,), "gate")]
        case "hard_swish" | "swish":
            linear = _operator(layer, f"{layer.name}:linear", "free")
            kind: OperatorKind = "gate" if layer.activation == "hard_swish" else "sigmoid"
            gate = _pointwise(layer, f"{layer.name}:gate", kind, (linear.name,), "gate")
            inputs = (linear.name, gate.name)
            return [linear, gate, _pointwise(layer, layer.name, "multiply", inputs, "free")]


def _operator(layer: Layer, name: str, quantizer: Quantizer) -> Operator:
    return Operator(name, layer.kind, layer.inputs, layer.in_channels, layer.out_channels, layer.in_size,
                    layer.out_size, quantizer, layer.kernel_size, layer.stride, layer.depthwise, layer.norm,
                    layer.weights, layer.pad)  # fmt: skip


def _pointwise(layer: Layer, name: str, kind: OperatorKind, inputs: tuple[str, ...], quantizer: Quantizer) -> Operator:
    channels, size = layer.out_channels, layer.out_size
    return Operator(name, kind, inputs, channels, channels, size, size, quantizer)
