"""One module class for supernets, subnets and stages: parameters by node, architecture as an argument.

Shapes: B batch, C channels, H height, W width. `forward` takes the program to run, so that asking for another subnet
touches no state; a program's nodes use the leading channels and the centre of the kernel of the stored weights.

More than 400 lines: one class is supernet and subnet, and its parts read its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.errors import ExportError
from spaceevo.graph import trace
from spaceevo.graph.graphs import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.largest import elementwise_maximum
from spaceevo.graph.nodes import HEAD, SHORTCUT, Node, Program, last_reads
from spaceevo.graph.ops import Add, Convolution, Depthwise, Linear, Weighted
from spaceevo.graph.trace import Placement, published
from spaceevo.nets.arithmetic import dequantize
from spaceevo.nets.depthwise import depthwise_convolution
from spaceevo.nets.executors import CONTRACT, run_integer
from spaceevo.nets.fake_quant import ActivationQuantizer, fake_quantize_weight, weight_codes
from spaceevo.nets.passes import FakeQuantPass, FloatPass, PublishedPass
from spaceevo.records import Arithmetic
from spaceevo.spaces.subnet import Subnet, network_program

BATCH_NORM_EPS = 1e-5
#: Keys of a state dict: of all weights and norms, and of the classifier's weights.
WEIGHTED = "weighted."
LOGITS_WEIGHT = f"{WEIGHTED}{HEAD}/logits.weight"
WEIGHT_SCALE = "weight_scale"
T = TypeVar("T")


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
    """Weight with its learned scales, and norm, of a convolution or a linear layer; None for what it has not.

    Weights kept under a name of their own make two of these: one has the weight, the other the norm. Convolutions start
    from He's normal distribution, but those of shortcuts between blocks of one stage start as an identity.

    Attributes:
        node: The largest node that reads it.
        weight: The node's `weight_shape`.
        weight_scale: [out], or [1] for all channels; its absolute value counts.
        bias: [out]: of the sum, or of the batch norm.
        gamma: [out], of the batch norm.
        running_mean: [out], of the batch norm.
        running_var: [out], of the batch norm.
    """

    weight: nn.Parameter | None
    weight_scale: nn.Parameter | None
    bias: nn.Parameter | None
    gamma: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, node: Node, generator: torch.Generator, per_channel: bool = True) -> None:
        super().__init__()
        self.node = node
        channels, has_weight = node.out_shape.channels, node.weights is None
        assert isinstance(node.op, Weighted), node.op
        has_norm = node.has_batch_norm
        has_bias = isinstance(node.op, Linear) or node.op.norm != "none"
        self.register_parameter("weight", nn.Parameter(_initial_weight(node, generator)) if has_weight else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if has_bias else None)
        scales = torch.ones(channels if per_channel else 1)
        self.register_parameter("weight_scale", nn.Parameter(scales) if has_weight else None)
        self.register_parameter("gamma", nn.Parameter(torch.ones(channels)) if has_norm else None)
        self.register_buffer("running_mean", torch.zeros(channels) if has_norm else None)
        self.register_buffer("running_var", torch.ones(channels) if has_norm else None)

    def sliced_weight(self, node: Node) -> Tensor:
        """The leading channels and the centre of the kernel: the node's `weight_shape`."""
        weight, shape = present(self.weight), node.weight_shape
        if shape == weight.shape:
            return weight
        # From 0, but for the centre of a convolution's kernel
        starts = (0, 0, *((whole - part) // 2 for whole, part in zip(weight.shape[2:], shape[2:], strict=True)))
        part = tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))
        return _part(weight, part)

    def positive_scale(self, node: Node) -> Tensor:
        """The weight scale, [out] or [1] for all; the parameter itself may cross zero in training."""
        return present(self.weight_scale)[: node.out_shape.channels].abs().clamp_min(1e-9)

    def sliced_bias(self, node: Node) -> Tensor | None:
        """The bias [out] that is added to the sum where there is no batch norm, None for none."""
        if node.has_batch_norm or self.bias is None:
            return None
        return self.bias[: node.out_shape.channels]

    def norm(self, node: Node) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a batch norm gamma, bias, running mean and running variance, [out] each."""
        channels = node.out_shape.channels
        parts = (self.gamma, self.bias, self.running_mean, self.running_var)
        gamma, bias, mean, var = (present(part)[:channels] for part in parts)
        return gamma, bias, mean, var

    def gain_and_bias(self, node: Node) -> tuple[Tensor | None, Tensor]:
        """What the norm does to the sum, per output channel: times gain (None: 1), plus bias."""
        if not node.has_batch_norm:
            bias = self.sliced_bias(node)
            return None, torch.zeros(node.out_shape.channels) if bias is None else bias
        gamma, bias, mean, var = self.norm(node)
        gain = gamma / torch.sqrt(var + BATCH_NORM_EPS)
        return gain, bias - mean * gain


def _initial_weight(node: Node, generator: torch.Generator) -> Tensor:
    op, channels = node.op, node.out_shape.channels
    if isinstance(op, Linear):
        return torch.randn(node.weight_shape, generator=generator) * 0.01
    assert isinstance(op, Convolution), op
    fan = (1 if isinstance(op, Depthwise) else channels) * op.kernel_size**2
    weight: Tensor = torch.randn(node.weight_shape, generator=generator) * (2 / fan) ** 0.5
    if node.role.layer == SHORTCUT and node.in_shape.channels == channels and op.stride == 1:
        # Largest and smallest subnet do without it; as noise it would spoil the others until it is learnt
        nn.init.dirac_(weight)
    return weight


class Network(nn.Module):
    """All parameters that the programs of a space need, and what runs one of them.

    Args:
        largest: By id the largest node over all programs (`SearchSpace.largest_nodes`); for a single network simply its
            own nodes.
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
        self, largest: Mapping[str, Node], w_qmax: int, generator: torch.Generator, per_channel: bool = True
    ) -> None:
        super().__init__()
        self.w_qmax = w_qmax
        self.per_channel = per_channel
        self.quantized = False
        self.batch_norm_momentum: float | None = None
        self.arithmetic: Arithmetic = CONTRACT
        nodes = largest.values()
        self.weighted = nn.ModuleDict(
            {node.id: WeightedOperator(node, generator, per_channel) for node in nodes if node.has_weights}
        )
        self.quantizers = nn.ModuleDict(
            {node.id: ActivationQuantizer(node.out.quantizer) for node in nodes if node.out.is_quantized}
        )
        self._same_quantizer = {node.id: node.inputs[0] for node in nodes if node.out.quantizer == "input"}
        self._branch_ends = {_last_norm(node.inputs[0], largest) for node in nodes if isinstance(node.op, Add)}
        self._observer: Callable[[Node, Tensor], None] | None = None

    def forward(self, x_BCHW: Tensor, program: Program, dropout: Tensor | None = None) -> Tensor:
        """Run a program.

        Args:
            x_BCHW: Input of the program, float.
            program: What is run.
            dropout: What the input of the linear layer is multiplied with, [B, C, 1, 1]; in training only.

        Returns:
            The last node's output.
        """
        return self.run_with_taps(x_BCHW, program, (), dropout)[0]

    def run_with_taps(
        self, x_BCHW: Tensor, program: Program, taps: Sequence[str], dropout: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a program and look at some of its tensors.

        Args:
            x_BCHW: Input of the program, float.
            program: What is run.
            taps: Ids of the nodes whose outputs are wanted.
            dropout: As in `forward`.

        Returns:
            The last node's output, and the tapped tensors.
        """
        if self.quantized and not self.training and not is_published(program):
            return self._evaluate(x_BCHW, program, taps)
        reads = last_reads(program)
        values = {program[0].inputs[0]: x_BCHW.contiguous(memory_format=torch.channels_last)}
        compute = self._pass(program).apply
        for index, node in enumerate(program):
            inputs = [values[name] for name in node.inputs]
            if dropout is not None and isinstance(node.op, Linear):
                inputs = [inputs[0] * dropout]
            for name in node.inputs:
                if reads[name] == index and name not in taps:
                    values.pop(name, None)
            values[node.id] = compute(node, inputs)
        return values[program[-1].id], [values[name] for name in taps]

    def evaluator(self, program: Program) -> Callable[[Tensor], Tensor]:
        """What `forward` computes of a program in evaluation, for many batches: weights are folded once.

        Args:
            program: What is run. Parameters that change afterwards may or may not count.

        Returns:
            From inputs [B, 3, H, W] to the last node's output.
        """
        if self.quantized and not self.training and not is_published(program):
            try:
                graph = self.integer_graph(program)
            except ExportError:  # `forward` says what comes out then
                return lambda x_BCHW: self.forward(x_BCHW, program)
            return lambda x_BCHW: run_integer(graph, x_BCHW, None, self.arithmetic)
        return lambda x_BCHW: self.forward(x_BCHW, program)

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
            shapes = {node.id: (len(x_BCHW), *node.out_shape) for node in program}
            output, *values = (x_BCHW.new_full(shapes[name], torch.nan) for name in (program[-1].id, *taps))
            return (output.flatten(1) if isinstance(program[-1].op, Linear) else output), values
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
        for node in program:
            if node.out.quantizer != "none":
                quantizer = self.quantizer(node.id)
                if not all(math.isfinite(value.item()) for value in (*quantizer.parameters(), *quantizer.buffers())):
                    raise ExportError(
                        f"The quantizer of {node.id} has a scale or a zero point that is not a finite number",
                        remedy="Train again with a lower learning rate",
                    )
                quant_params[node.id] = QuantParams(*quantizer.quant_params())
        weights = {}
        for node in program:
            if node.has_weights:
                folded = self.fold(node, quant_params[node.inputs[0]].scale)
                weight = self.weights_of(node).sliced_weight(node)
                if not all(bool(torch.isfinite(tensor).all()) for tensor in (*folded, weight)):
                    raise ExportError(
                        f"Operator {node.id} has weights that are not finite numbers",
                        remedy="Train again with a lower learning rate",
                    )
                codes, scales, bias = (tensor.numpy() for tensor in folded)
                weights[node.id] = IntegerWeights(codes.astype(np.int8), scales, bias.astype(np.int32))
        return IntegerGraph(program, quant_params, weights)

    def float_graph(self, program: Program) -> FloatGraph:
        """The FP32 graph of a program, batch norm folded."""
        weights = {}
        for node in program:
            if node.has_weights:
                weight, bias = self.fold_float(node)
                weights[node.id] = FloatWeights(weight.detach().numpy().copy(), bias.detach().numpy().copy())
        return FloatGraph(program, weights)

    @torch.no_grad()
    def start_quantization(self, batches: Sequence[tuple[Tensor, Program]]) -> None:
        """Switch to fake quantization, its ranges started from float runs of some programs.

        Args:
            batches: (input, program) pairs; a range is the mean over the runs that contain the tensor.
        """
        ranges: dict[str, list[tuple[float, float]]] = {}

        def keep_range(node: Node, value: Tensor) -> None:
            ranges.setdefault(node.id, []).append(_robust_range(value))

        self._observer = keep_range
        for x_BCHW, program in batches:
            self.forward(x_BCHW, program)
        self._observer = None
        for name, observed in ranges.items():
            low, high = (sum(ends) / len(observed) for ends in zip(*observed, strict=True))
            self.quantizer(name).set_range(low, high)
        for weighted in self.weighted_operators():
            if weighted.weight is not None:
                highest = weighted.weight.flatten(1).abs().amax(1)
                highest = highest if self.per_channel else highest.amax(0, keepdim=True)
                present(weighted.weight_scale).copy_((highest / self.w_qmax).clamp_min(1e-8))
        self.quantized = True

    def quant_params(self, name: str) -> tuple[float, int]:
        """(scale, zero_point) of the tensor that a quantized node puts out."""
        return self.quantizer(name).quant_params()

    def quantizer(self, name: str) -> ActivationQuantizer:
        """The quantizer of the tensor that a quantized node puts out."""
        quantizer = self.quantizers[self._same_quantizer.get(name, name)]
        assert isinstance(quantizer, ActivationQuantizer)
        return quantizer

    def weighted_operators(self) -> Iterator[WeightedOperator]:
        """All weights and norms."""
        for weighted in self.weighted.values():
            assert isinstance(weighted, WeightedOperator)
            yield weighted

    def float_parameters(self) -> dict[str, Tensor]:
        """By the keys of the state dict, what is trained in the FP32 phase: weights, biases and gammas."""
        parts = ((f"{WEIGHTED}{weighted_id}", weighted) for weighted_id, weighted in self.weighted.items())
        return {
            f"{key}.{name}": parameter
            for key, weighted in parts
            for name, parameter in weighted.named_parameters()
            if name != WEIGHT_SCALE
        }

    def weights_of(self, node: Node) -> WeightedOperator:
        """Weights of a node."""
        weighted = self.weighted[node.weights_id]
        assert isinstance(weighted, WeightedOperator)
        return weighted

    def norm_of(self, node: Node) -> WeightedOperator:
        """Norm of a node."""
        weighted = self.weighted[node.id]
        assert isinstance(weighted, WeightedOperator)
        return weighted

    @torch.no_grad()
    def fold(self, node: Node, input_scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Fold the norm exactly into integer weights (see the quantization contract).

        Returns:
            (codes, scales [out], bias [out]): codes and bias are integers in float tensors; the bias is on the
            grid input_scale * scales. The codes are those of training; a negative gamma flips their signs.
        """
        weighted = self.weights_of(node)
        weight, scale = weighted.sliced_weight(node), weighted.positive_scale(node)
        codes = weight_codes(weight, scale, self.w_qmax)
        gain, bias = self.norm_of(node).gain_and_bias(node)
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
    def fold_float(self, node: Node) -> tuple[Tensor, Tensor]:
        """Fold the norm into a float weight and bias."""
        weight = self.weights_of(node).sliced_weight(node)
        gain, bias = self.norm_of(node).gain_and_bias(node)
        return weight if gain is None else weight * gain.view(-1, 1, 1, 1), bias

    def convolve(self, node: Node, op: Convolution, x_BCHW: Tensor) -> Tensor:
        """A convolution, its weights fake-quantized once the network is; without batch norm."""
        weight, bias = self._weight(node), self.norm_of(node).sliced_bias(node)
        if not isinstance(op, Depthwise):
            return F.conv2d(x_BCHW, weight, bias, op.stride, op.padding)
        if bias is None:
            return depthwise_convolution(x_BCHW, weight, op.stride, op.padding)
        return F.conv2d(x_BCHW, weight, bias, op.stride, op.padding, 1, len(weight))

    def classify(self, node: Node, x_BCHW: Tensor) -> Tensor:
        """The linear layer, its weights fake-quantized once the network is."""
        return F.linear(x_BCHW.flatten(1), self._weight(node), self.norm_of(node).bias)

    def normalize(self, node: Node, y_BCHW: Tensor) -> Tensor:
        """The batch norm of a convolution, where it has one."""
        if not node.has_batch_norm:
            return y_BCHW
        gamma, bias, mean, var = self.norm_of(node).norm(node)
        return F.batch_norm(
            y_BCHW,
            mean if self._tracks else None,
            var if self._tracks else None,
            gamma,
            bias,
            self.training,
            self.batch_norm_momentum or 0.0,
            BATCH_NORM_EPS,
        )

    def quantize_normalized(self, node: Node, y_BCHW: Tensor) -> Tensor:
        """The batch norm of a convolution, where it has one, fake-quantized."""
        quantizer = self.quantizer(node.id)
        if node.has_batch_norm and not self._tracks and y_BCHW.numel() > y_BCHW.shape[1]:
            gamma, bias, _, _ = self.norm_of(node).norm(node)
            return quantizer.of_normalized(y_BCHW, gamma, bias, BATCH_NORM_EPS)
        quantized: Tensor = quantizer(self.normalize(node, y_BCHW))
        return quantized

    def observe(self, node: Node, value: Tensor) -> None:
        """Tell `start_quantization` of a float tensor whose scale is learned."""
        if self._observer is not None:
            self._observer(node, value)

    def _pass(self, program: Program) -> FloatPass:
        if not self.quantized:
            return FloatPass(self)
        return PublishedPass(self) if is_published(program) else FakeQuantPass(self)

    def _weight(self, node: Node) -> Tensor:
        weighted = self.weights_of(node)
        weight = weighted.sliced_weight(node)
        if not self.quantized:
            return weight
        w_qmin = -self.w_qmax - 1 if node.out.stays_float else -self.w_qmax  # the published range is not symmetric
        return fake_quantize_weight(weight, weighted.positive_scale(node), self.w_qmax, w_qmin)

    @property
    def _tracks(self) -> bool:
        """Whether batch norm reads or writes the running statistics."""
        return not self.training or self.batch_norm_momentum is not None


def present(part: T | None) -> T:
    """A part of a `WeightedOperator` that it has."""
    assert part is not None
    return part


def program_of(subnet: Subnet, placement: Placement = "device") -> Program:
    """The program of a whole network."""
    program = network_program(subnet)
    return published(program) if placement == "published" else program


def single_network(program: Program, w_qmax: int, generator: torch.Generator, per_channel: bool = True) -> Network:
    """A network with the parameters of one program only."""
    return Network(elementwise_maximum([program]), w_qmax, generator, per_channel)


@torch.no_grad()
def extract(supernet: Network, program: Program) -> Network:
    """The static network of one program: its slice of the supernet's parameters, copied.

    Running statistics are copied too, but mean nothing before they are recalibrated.
    """
    network = single_network(program, supernet.w_qmax, torch.Generator(), supernet.per_channel)
    for node in program:
        if node.has_weights:
            channels = node.out_shape.channels
            source, target = supernet.weights_of(node), network.weights_of(node)
            present(target.weight).copy_(source.sliced_weight(node))
            present(target.weight_scale).copy_(present(source.weight_scale)[:channels])
            source, target = supernet.norm_of(node), network.norm_of(node)
            for part, whole in (
                (target.bias, source.bias),
                (target.gamma, source.gamma),
                (target.running_mean, source.running_mean),
                (target.running_var, source.running_var),
            ):
                if part is not None:
                    part.copy_(present(whole)[:channels])
        if node.id in network.quantizers:
            state = supernet.quantizers[node.id].state_dict()
            network.quantizers[node.id].load_state_dict(state)
    network.quantized, network.arithmetic = supernet.quantized, supernet.arithmetic
    return network.train(supernet.training)


is_published = lru_cache(maxsize=1024)(trace.is_published)


def _last_norm(name: str, nodes: Mapping[str, Node]) -> str:
    """The nearest node with batch norm on the way back from one, along first inputs."""
    while not nodes[name].has_batch_norm:
        name = nodes[name].inputs[0]
    return name


def _robust_range(value: Tensor, share: float = 0.9998, sample: int = 20_000) -> tuple[float, float]:
    flat = value.detach().flatten()
    flat = flat[:: max(1, flat.numel() // sample)]
    low, high = torch.quantile(flat, torch.tensor([1 - share, share], device=flat.device)).tolist()
    return low, high
