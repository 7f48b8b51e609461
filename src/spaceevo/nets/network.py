"""One module class for supernets, subnets and stages: parameters by operator, architecture as an argument.

Shapes: B batch, C channels, H = W size. `forward` takes the program to run, so that asking for another subnet
touches no state; a program's operators use the leading channels and the centre of the kernel of the stored weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.errors import ExportError
from spaceevo.nets.arithmetic import dequantize
from spaceevo.nets.depthwise import depthwise_convolution
from spaceevo.nets.executors import CONTRACT, run_integer
from spaceevo.nets.fake_quant import ActivationQuantizer, fake_quantize_weight, weight_codes
from spaceevo.records import Arithmetic, FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.spaces.layers import SHORTCUT
from spaceevo.spaces.operators import Operator, Placement, elementwise_maximum, operators
from spaceevo.spaces.subnet import Subnet, network_layers

BATCH_NORM_EPS = 1e-5
Program = tuple[Operator, ...]


class _Part(torch.autograd.Function):
    """Part of a parameter. Where that has a gradient, the part's is added in place: the rest is not touched."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: tuple[slice, ...]) -> Tensor:
        ctx.part = part
        ctx.save_for_backward(x)
        return x[part]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        if x.grad is not None:
            x.grad[ctx.part] += gradient
            return None, None
        whole = x.new_zeros(x.shape)
        whole[ctx.part] = gradient
        return whole, None


_part: Callable[..., Tensor] = _Part.apply


class WeightedOperator(nn.Module):
    """Weight with its learned scales, and norm, of a convolution or a linear layer.

    Weights kept under a name of their own make two of these: one has the weight, the other the norm. Convolutions start
    from He's normal distribution, but those of shortcuts between blocks of one stage start as an identity.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, operator: Operator, generator: torch.Generator, per_channel: bool = True) -> None:
        super().__init__()
        channels = operator.out_channels
        if operator.weights is None:
            fan = channels // operator.groups * operator.kernel_size**2
            std = 0.01 if operator.kind == "linear" else (2 / fan) ** 0.5
            self.weight = nn.Parameter(torch.randn(operator.weight_shape, generator=generator) * std)
            if operator.name.endswith(f"/{SHORTCUT}") and operator.in_channels == channels and operator.stride == 1:
                # Largest and smallest subnet do without it; as noise it would spoil the others until it is learnt
                nn.init.dirac_(self.weight)
        if operator.kind == "linear" or operator.norm != "none":
            self.bias = nn.Parameter(torch.zeros(channels))
        if operator.weights is None:
            self.weight_scale = nn.Parameter(torch.ones(channels if per_channel else 1))
        if operator.has_batch_norm:
            self.gamma = nn.Parameter(torch.ones(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def sliced_weight(self, operator: Operator) -> Tensor:
        """The leading channels and the centre of the kernel: the operator's `weight_shape`."""
        shape = operator.weight_shape
        if shape == self.weight.shape:
            return self.weight
        # From 0, but for the centre of a convolution's kernel
        starts = (0, 0, *((whole - own) // 2 for whole, own in zip(self.weight.shape[2:], shape[2:], strict=True)))
        part = tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))
        return _part(self.weight, part)

    def positive_scale(self, operator: Operator) -> Tensor:
        """The weight scale, [out] or [1] for all; the parameter itself may cross zero in training."""
        return self.weight_scale[: operator.out_channels].abs().clamp_min(1e-9)

    def sliced_bias(self, operator: Operator) -> Tensor | None:
        """The bias [out] that is added to the sum where there is no batch norm, None for none."""
        if operator.has_batch_norm or not hasattr(self, "bias"):
            return None
        return self.bias[: operator.out_channels]

    def gain_and_bias(self, operator: Operator) -> tuple[Tensor | None, Tensor]:
        """What the norm does to the sum, per output channel: times gain (None: 1), plus bias."""
        if not operator.has_batch_norm:
            bias = self.sliced_bias(operator)
            return None, torch.zeros(operator.out_channels) if bias is None else bias
        names = ("gamma", "bias", "running_mean", "running_var")
        gamma, bias, mean, var = (getattr(self, name)[: operator.out_channels] for name in names)
        gain = gamma / torch.sqrt(var + BATCH_NORM_EPS)
        return gain, bias - mean * gain


class Network(nn.Module):
    """All parameters that the programs of a space need, and the interpreter that runs one of them.

    Args:
        largest: By operator name the largest operator over all programs (`SearchSpace.maximal_operators`);
            for a single network simply its own operators.
        w_qmax: Largest weight code of the target.
        generator: Draws the initial weights.
        per_channel: Whether each output channel of a weight learns a scale of its own, or all share one. The folded
            weights are per channel either way: gamma is.

    Attributes:
        quantized: False in the FP32 phase; True from `start_quantization` on.
        batch_norm_momentum: None normalizes by the batch alone; a number also updates the running statistics
            (only meaningful for a single network, see `train.recalibration`).
        arithmetic: What evaluation rounds as, once quantized: a runtime's, so that it computes what that runtime will.
    """

    def __init__(
        self, largest: Mapping[str, Operator], w_qmax: int, generator: torch.Generator, per_channel: bool = True
    ) -> None:
        super().__init__()
        self.w_qmax = w_qmax
        self.per_channel = per_channel
        self.quantized = False
        self.batch_norm_momentum: float | None = None
        self.arithmetic: Arithmetic = CONTRACT
        self.weighted = nn.ModuleDict(
            {o.name: WeightedOperator(o, generator, per_channel) for o in largest.values() if o.has_weights}
        )
        self.quantizers = nn.ModuleDict(
            {o.name: ActivationQuantizer(o.quantizer) for o in largest.values() if o.is_quantized}
        )
        self._same_quantizer = {o.name: o.inputs[0] for o in largest.values() if o.quantizer == "input"}
        self._branch_ends = {_last_norm(o.inputs[0], largest) for o in largest.values() if o.kind == "add"}
        self._observer: Callable[[Operator, Tensor], None] | None = None

    def forward(
        self, x_BCHW: Tensor, program: Program, taps: Sequence[str] = (), dropout: Tensor | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Run a program.

        Args:
            x_BCHW: Input of the program, float.
            program: Its operators.
            taps: Names of tensors to return beside the output.
            dropout: What the input of the linear layer is multiplied with, [B, C, 1, 1]; in training only.

        Returns:
            The last operator's output; with taps also the tapped tensors.
        """
        if self.quantized and not self.training and not _is_published(program):
            output, tapped = self._evaluate(x_BCHW, program, taps)
            return (output, tapped) if taps else output
        last_reads = _last_reads(program)
        values = {program[0].inputs[0]: x_BCHW.contiguous(memory_format=torch.channels_last)}
        for index, operator in enumerate(program):
            inputs = [values[name] for name in operator.inputs]
            if operator.kind == "linear" and dropout is not None:
                inputs = [inputs[0] * dropout]
            for name in operator.inputs:
                if last_reads[name] == index and name not in taps:
                    values.pop(name, None)
            values[operator.name] = self._run(operator, inputs)
        output = values[program[-1].name]
        return (output, [values[name] for name in taps]) if taps else output

    def evaluator(self, program: Program) -> Callable[[Tensor], Tensor]:
        """What `forward` computes of a program in evaluation, for many batches: weights are folded once.

        Args:
            program: Its operators. Parameters that change afterwards may or may not count.

        Returns:
            From inputs [B, 3, H, W] to the last operator's output.
        """
        if self.quantized and not self.training and not _is_published(program):
            try:
                graph = self.integer_graph(program)
            except ExportError:  # `forward` says what comes out then
                return lambda x_BCHW: self(x_BCHW, program)
            return lambda x_BCHW: run_integer(graph, x_BCHW, None, self.arithmetic)
        return lambda x_BCHW: self(x_BCHW, program)

    @torch.no_grad()
    def set_branch_gain(self, gain: float) -> None:
        """Set gamma of every batch norm that ends a residual branch; shortcuts keep theirs."""
        for name in self._branch_ends:
            nn.init.constant_(self.weighted[name].get_parameter("gamma"), gain)

    @torch.no_grad()
    def _evaluate(self, x_BCHW: Tensor, program: Program, taps: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """What a device computes (`nets.executors.run_integer`), or NaN where a parameter is not a finite number."""
        tapped: dict[str, Tensor] = {}

        def tap(name: str, codes: Tensor) -> None:
            if name in taps:
                tapped[name] = dequantize(codes, graph.quant_params[name])

        try:
            graph = self.integer_graph(program)
        except ExportError:
            shapes = {o.name: (len(x_BCHW), o.out_channels, o.out_size, o.out_size) for o in program}
            output, *values = (x_BCHW.new_full(shapes[name], torch.nan) for name in (program[-1].name, *taps))
            return (output.flatten(1) if program[-1].kind == "linear" else output), values
        output = run_integer(graph, x_BCHW, tap if taps else None, self.arithmetic)
        return output, [tapped[name] for name in taps]

    def integer_graph(self, program: Program) -> IntegerGraph:
        """The integer graph that every exporter writes out: trained scales, zero points and codes, batch norm folded.

        Args:
            program: What to extract.

        Raises:
            ExportError: A scale or a weight is not a finite number.
        """
        quant_params = {}
        for operator in program:
            if operator.quantizer != "none":
                quantizer = self._quantizer(operator.name)
                if not all(math.isfinite(value.item()) for value in (*quantizer.parameters(), *quantizer.buffers())):
                    raise ExportError(
                        f"The quantizer of {operator.name} has a scale or a zero point that is not a finite number",
                        remedy="Train again with a lower learning rate",
                    )
                quant_params[operator.name] = QuantParams(*quantizer.quant_params())
        weights = {}
        for operator in program:
            if operator.has_weights:
                folded = self.fold(operator, quant_params[operator.inputs[0]].scale)
                weight = self.weights_of(operator).sliced_weight(operator)
                if not all(bool(torch.isfinite(tensor).all()) for tensor in (*folded, weight)):
                    raise ExportError(
                        f"Operator {operator.name} has weights that are not finite numbers",
                        remedy="Train again with a lower learning rate",
                    )
                codes, scales, bias = (tensor.numpy() for tensor in folded)
                weights[operator.name] = IntegerWeights(codes.astype(np.int8), scales, bias.astype(np.int32))
        return IntegerGraph(program, quant_params, weights)

    def float_graph(self, program: Program) -> FloatGraph:
        """The FP32 graph of a program, batch norm folded."""
        weights = {}
        for operator in program:
            if operator.has_weights:
                weight, bias = self.fold_float(operator)
                weights[operator.name] = FloatWeights(weight.detach().numpy().copy(), bias.detach().numpy().copy())
        return FloatGraph(program, weights)

    @torch.no_grad()
    def start_quantization(self, batches: Sequence[tuple[Tensor, Program]]) -> None:
        """Switch to fake quantization, its ranges started from float runs of some programs.

        Args:
            batches: (input, program) pairs; a range is the mean over the runs that contain the tensor.
        """
        ranges: dict[str, list[tuple[float, float]]] = {}

        def observe(operator: Operator, value: Tensor) -> None:
            ranges.setdefault(operator.name, []).append(_robust_range(value))

        self._observer = observe
        for x_BCHW, program in batches:
            self(x_BCHW, program)
        self._observer = None
        for name, observed in ranges.items():
            low, high = (sum(ends) / len(observed) for ends in zip(*observed, strict=True))
            self._quantizer(name).set_range(low, high)
        for weighted in self.weighted.values():
            assert isinstance(weighted, WeightedOperator)
            if hasattr(weighted, "weight"):
                highest = weighted.weight.flatten(1).abs().amax(1)
                highest = highest if self.per_channel else highest.amax(0, keepdim=True)
                weighted.weight_scale.copy_((highest / self.w_qmax).clamp_min(1e-8))
        self.quantized = True

    def quant_params(self, name: str) -> tuple[float, int]:
        """(scale, zero_point) of the tensor that a quantized operator puts out."""
        return self._quantizer(name).quant_params()

    def _quantizer(self, name: str) -> ActivationQuantizer:
        quantizer = self.quantizers[self._same_quantizer.get(name, name)]
        assert isinstance(quantizer, ActivationQuantizer)
        return quantizer

    def weights_of(self, operator: Operator) -> WeightedOperator:
        """Weights of one operator."""
        weighted = self.weighted[operator.weights_name]
        assert isinstance(weighted, WeightedOperator)
        return weighted

    def norm_of(self, operator: Operator) -> WeightedOperator:
        """Norm of one operator."""
        weighted = self.weighted[operator.name]
        assert isinstance(weighted, WeightedOperator)
        return weighted

    @torch.no_grad()
    def fold(self, operator: Operator, input_scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Fold the norm exactly into integer weights (see the quantization contract).

        Returns:
            (codes, scales [out], bias [out]): codes and bias are integers in float tensors; the bias is on the
            grid input_scale * scales. The codes are those of training; a negative gamma flips their signs.
        """
        weighted = self.weights_of(operator)
        weight, scale = weighted.sliced_weight(operator), weighted.positive_scale(operator)
        codes = weight_codes(weight, scale, self.w_qmax)
        gain, bias = self.norm_of(operator).gain_and_bias(operator)
        if gain is not None:
            codes = codes * gain.sign().view(-1, 1, 1, 1)
            scale = scale * gain.abs()
        # A dead channel has gain 0: it needs some positive scale on which its bias fits 32 bits.
        lowest = (bias.abs() / (input_scale * 2**30)).clamp_min(torch.finfo(torch.float32).tiny * 2**24)
        ratio = torch.where(scale < lowest, scale / lowest, torch.ones_like(scale))
        codes = (codes * ratio.view(-1, *[1] * (codes.dim() - 1))).round_()
        scale = torch.maximum(scale, lowest)
        return codes, scale, (bias / (input_scale * scale)).round_()

    @torch.no_grad()
    def fold_float(self, operator: Operator) -> tuple[Tensor, Tensor]:
        """Fold the norm into a float weight and bias."""
        weight = self.weights_of(operator).sliced_weight(operator)
        gain, bias = self.norm_of(operator).gain_and_bias(operator)
        return weight if gain is None else weight * gain.view(-1, 1, 1, 1), bias

    def _run(self, operator: Operator, inputs: list[Tensor]) -> Tensor:
        quantized = self.quantized and not operator.stays_float
        quantizer = self._quantizer(operator.name) if quantized and operator.is_quantized else None
        match operator.kind:
            case "quantize":
                y = inputs[0]
            case "conv":
                y = self._convolve(operator, inputs[0]).float()  # of bfloat16 under autocast
                if operator.has_batch_norm:
                    if quantizer is not None and not self._tracks and y.numel() > y.shape[1]:
                        norm, channels = self.norm_of(operator), operator.out_channels
                        return quantizer.of_normalized(y, norm.gamma[:channels], norm.bias[:channels], BATCH_NORM_EPS)
                    y = self._normalize(operator, y)
            case "linear":
                y = self._convolve(operator, inputs[0])
            case "gate":
                if quantizer is not None:
                    return quantizer.of_gate(inputs[0])
                y = F.hardsigmoid(inputs[0])
            case "relabel":
                return inputs[0] * (1 / 6) + 0.5 if quantized else F.hardsigmoid(inputs[0])
            case "sigmoid":
                y = torch.sigmoid(inputs[0])
            case "multiply":
                if quantizer is not None:
                    return quantizer.of_product(*inputs)
                y = inputs[0] * inputs[1]
            case "add":
                if quantizer is not None:
                    return quantizer.of_sum(*inputs)
                y = inputs[0] + inputs[1]
            case "pool":
                y = inputs[0].mean((2, 3), keepdim=True)
            case "max_pool":
                y = F.max_pool2d(inputs[0], operator.kernel_size, operator.stride, operator.padding)
        if operator.quantizer in ("input", "none"):
            return y
        if quantizer is not None:
            result: Tensor = quantizer(y)
            return result
        # In the memory of a sum or a norm, which nothing else reads
        if operator.quantizer == "relu":
            y = F.relu_(y)
        elif operator.quantizer == "relu6":
            y = F.hardtanh_(y, 0.0, 6.0)
        if self._observer is not None and operator.is_learned:
            self._observer(operator, y)
        return y

    def _convolve(self, operator: Operator, x_BCHW: Tensor) -> Tensor:
        """The convolution or linear layer, without the norm."""
        weighted, norm = self.weights_of(operator), self.norm_of(operator)
        weight = weighted.sliced_weight(operator)
        if self.quantized:
            w_qmin = -self.w_qmax - 1 if operator.stays_float else -self.w_qmax  # the published range is not symmetric
            weight = fake_quantize_weight(weight, weighted.positive_scale(operator), self.w_qmax, w_qmin)
        if operator.kind == "linear":
            return F.linear(x_BCHW.flatten(1), weight, norm.bias)
        bias = norm.sliced_bias(operator)
        if operator.depthwise and bias is None:
            return depthwise_convolution(x_BCHW, weight, operator.stride, operator.padding)
        return F.conv2d(x_BCHW, weight, bias, operator.stride, operator.padding, 1, operator.groups)

    @property
    def _tracks(self) -> bool:
        """Whether batch norm reads or writes the running statistics."""
        return not self.training or self.batch_norm_momentum is not None

    def _normalize(self, operator: Operator, y_BCHW: Tensor) -> Tensor:
        norm, channels = self.norm_of(operator), operator.out_channels
        return F.batch_norm(
            y_BCHW,
            norm.running_mean[:channels] if self._tracks else None,
            norm.running_var[:channels] if self._tracks else None,
            norm.gamma[:channels],
            norm.bias[:channels],
            self.training,
            self.batch_norm_momentum or 0.0,
            BATCH_NORM_EPS,
        )


def program_of(subnet: Subnet, placement: Placement = "device") -> Program:
    """The program of a whole network."""
    return operators(network_layers(subnet), placement)


def single_network(program: Program, w_qmax: int, generator: torch.Generator, per_channel: bool = True) -> Network:
    """A network with the parameters of one program only."""
    return Network(elementwise_maximum([program]), w_qmax, generator, per_channel)


@torch.no_grad()
def extract(supernet: Network, program: Program) -> Network:
    """The static network of one program: its slice of the supernet's parameters, copied.

    Running statistics are copied too, but mean nothing before they are recalibrated.
    """
    network = single_network(program, supernet.w_qmax, torch.Generator(), supernet.per_channel)
    for operator in program:
        if operator.has_weights:
            source, target = supernet.weights_of(operator), network.weights_of(operator)
            target.weight.copy_(source.sliced_weight(operator))
            target.weight_scale.copy_(source.weight_scale[: operator.out_channels])
            source, target = supernet.norm_of(operator), network.norm_of(operator)
            for name in ("bias", "gamma", "running_mean", "running_var"):
                if hasattr(source, name):
                    getattr(target, name).copy_(getattr(source, name)[: operator.out_channels])
        if operator.name in network.quantizers:
            state = supernet.quantizers[operator.name].state_dict()
            network.quantizers[operator.name].load_state_dict(state)
    network.quantized, network.arithmetic = supernet.quantized, supernet.arithmetic
    return network.train(supernet.training)


@lru_cache(maxsize=1024)
def _is_published(program: Program) -> bool:
    return any(operator.stays_float or operator.quantizer == "offset" for operator in program)


@lru_cache(maxsize=1024)
def _last_reads(program: Program) -> dict[str, int]:
    return {name: index for index, operator in enumerate(program) for name in operator.inputs}


def _last_norm(name: str, operators: Mapping[str, Operator]) -> str:
    """The nearest operator with batch norm on the way back from one, along first inputs."""
    while not operators[name].has_batch_norm:
        name = operators[name].inputs[0]
    return name


def _robust_range(value: Tensor, share: float = 0.9998, sample: int = 20_000) -> tuple[float, float]:
    flat = value.detach().flatten()
    flat = flat[:: max(1, flat.numel() // sample)]
    low, high = torch.quantile(flat, torch.tensor([1 - share, share], device=flat.device)).tolist()
    return low, high
