"""Post-training quantization of one trained network: ranges, weight scales, bias correction; no gradients.

The scales go into the contract's own quantizers, so that what comes out is exported, and fine-tuned by `train.loop`,
like any other quantized network. The float network's running statistics must be its own
(see `train.recalibration`), and stay as they are: a corrected bias belongs to them.

Shapes: N images, C channels, H height, W width.

More than 400 lines: the steps of one method, which share what they observe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from spaceevo.errors import DataError, TrainingError
from spaceevo.graph.graphs import FloatWeights
from spaceevo.graph.nodes import Node, Program, last_reads
from spaceevo.graph.ops import Convolution, Depthwise, Linear, Quantize
from spaceevo.graph.tensors import Quantizer
from spaceevo.nets.fake_quant import MAX_CODE, ActivationQuantizer, weight_codes
from spaceevo.nets.network import BATCH_NORM_EPS, Network, WeightedOperator, extract, present
from spaceevo.progress import ProgressCallback, silent
from spaceevo.settings import Settings
from spaceevo.train.batches import to_input, torch_generator

NUM_VALUES = 2**17  # sampled per tensor
MAX_ELEMENTS = 2**26  # of all tensors of one batch
MAX_BATCH = 128
MIN_WEIGHT_SCALE = 1e-8
#: Shares of the extreme that are tried as the end of a range, from 1 to 1/64.
SHRINK_RANGE = tuple(2 ** (-step / 8) for step in range(49))
#: Shares of a channel's largest weight, from 1 to 1/2 in steps of half a code or so.
SHRINK_WEIGHT = tuple(1 - step / 200 for step in range(101))
NUM_ROUNDS = 2


class PtqSettings(Settings):
    """Post-training quantization."""

    ranges: Literal["percentile", "mse"] = Field("mse", description="How activation ranges are set.")
    percentile: float = Field(
        99.98, gt=50, le=100, description="Upper end of a percentile range; 100 takes the extremes."
    )
    weight_scales: Literal["max", "mse"] = Field("mse", description="How weight scales are set, per channel.")
    bias_correction: bool = Field(True, description="Take the mean shift of every sum away from its bias.")
    calibration_images: int = Field(
        256, ge=1, le=1_000_000, description="Training images on which the network is observed."
    )


@dataclass(frozen=True, eq=False)
class Observed:
    """The values of one float tensor over some images.

    Attributes:
        values: [NUM_VALUES or fewer], an even share of every image, drawn at random.
        low: Smallest of all values.
        high: Largest of all values.
    """

    values: Tensor
    low: float
    high: float


def with_ranges(
    network: Network,
    program: Program,
    pixels: Tensor,
    settings: PtqSettings,
    *,
    seed: int,
    progress: ProgressCallback = silent,
) -> Network:
    """A quantized copy of a float network: activation ranges from images, weight scales from the weights.

    Args:
        network: Not quantized, in evaluation mode, with running statistics of its own.
        program: Operators of the network.
        pixels: Calibration images, uint8 [N, 3, size, size], N at least 1.
        settings: How ranges and weight scales are set, and on how many images.
        seed: Draws the values that stand for a tensor.
        progress: Called with tensors done and in all.

    Returns:
        The copy, in evaluation mode, biases not corrected: where LSQ+ fine-tuning starts.

    Raises:
        DataError: No images.
        TrainingError: The network puts out values that are not finite numbers.
    """
    observed = observe(network, program, pixels, seed)
    result = extract(network, program)
    for done, (name, tensor) in enumerate(observed.items(), start=1):
        quantizer = result.quantizers[name]
        assert isinstance(quantizer, ActivationQuantizer)
        if settings.ranges == "mse":
            quantizer.set_range(*mse_range(tensor, quantizer.quantizer))
        else:
            quantizer.set_range(*percentile_range(tensor, settings.percentile))
        progress(done, len(observed))
    for weighted in result.weighted_operators():
        if weighted.weight is not None:
            _set_weight_scale(weighted, settings.weight_scales, result.w_qmax)
    result.quantized = True
    return result.eval()


@torch.no_grad()
def observe(network: Network, program: Program, pixels: Tensor, seed: int) -> dict[str, Observed]:
    """Sample every float tensor whose range is learned, relu and relu6 applied.

    Args:
        network: Not quantized, in evaluation mode.
        program: Operators of the network.
        pixels: uint8 [N, 3, size, size], N at least 1.
        seed: Draws the values.

    Raises:
        DataError: No images.
        TrainingError: A tensor holds values that are not finite numbers.
    """
    names = [node.id for node in program if node.out.is_learned]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    extremes: dict[str, list[float]] = {name: [] for name in names}
    generator = torch_generator(seed, "ptq", "values")
    per_image = -(-NUM_VALUES // max(1, len(pixels)))
    for batch in _batches(program, pixels):
        _, tensors = network.run_with_taps(to_input(batch, program[0].in_shape.height), program, names)
        for name, tensor in zip(names, tensors, strict=True):
            flat = tensor.flatten()
            low, high = (end.item() for end in torch.aminmax(flat))
            if not torch.isfinite(torch.tensor([low, high])).all():
                raise TrainingError(
                    f"The float network puts out values at {name!r} that are not finite numbers",
                    found=f"from {low:g} to {high:g} on the calibration images",
                    remedy="Give weights of a network that was trained to the end",
                )
            extremes[name] += [low, high]
            count = per_image * len(batch)
            if len(flat) > count:
                flat = flat[torch.randint(len(flat), (count,), generator=generator)]
            parts[name].append(flat.clone())
    return {name: Observed(torch.cat(parts[name]), min(extremes[name]), max(extremes[name])) for name in names}


def percentile_range(tensor: Observed, percentile: float) -> tuple[float, float]:
    """The range between two quantiles, at equal distances from both ends.

    Args:
        tensor: What was observed.
        percentile: Of the upper end, above 50; 100 gives the extremes.

    >>> percentile_range(Observed(torch.arange(101.0), 0.0, 100.0), 90.0)
    (10.0, 90.0)
    """
    if percentile == 100:
        return tensor.low, tensor.high
    ends = torch.tensor([100 - percentile, percentile], dtype=torch.float64) / 100
    low, high = torch.quantile(tensor.values.double(), ends).tolist()
    return low, high


def mse_range(tensor: Observed, quantizer: Quantizer) -> tuple[float, float]:
    """The range whose quantization changes a tensor least, in mean squared error.

    Clipping costs the few large values and makes all steps finer (Banner et al., NeurIPS 2019, "Post training 4-bit
    quantization", Section 2, for known distributions; Choukroun et al., ICCV Workshops 2019, "Low-bit quantization",
    by search). Here by search over both ends, together and then in turn, with the quantizer's own arithmetic; the
    extremes are among what is tried.

    Args:
        tensor: What was observed.
        quantizer: Of the tensor, as in `graph.tensors.Quantizer`.
    """
    trial = ActivationQuantizer(quantizer)
    low, high = min(tensor.low, 0.0), max(tensor.high, 0.0)

    def error(ends: tuple[float, float]) -> float:
        trial.set_range(*ends)
        return quantization_error(tensor.values, *trial.quant_params())

    best = min(((low * share, high * share) for share in SHRINK_RANGE), key=error)
    if low < 0 < high:
        for _ in range(NUM_ROUNDS):
            best = min((best, *((low * share, best[1]) for share in SHRINK_RANGE)), key=error)
            best = min((best, *((best[0], high * share) for share in SHRINK_RANGE)), key=error)
    return best


def quantization_error(values: Tensor, scale: float, zero_point: int) -> float:
    """Mean squared error of fake quantization to 256 codes.

    >>> round(quantization_error(torch.tensor([0.0, 0.6, 300.0]), 1.0, 0), 3)
    675.053
    """
    codes = (values / scale).round_().clamp_(-zero_point, MAX_CODE - zero_point)
    error = codes.mul_(scale).sub_(values)
    return torch.dot(error, error).item() / len(values)


@torch.no_grad()
def weight_scale(weight: Tensor, w_qmax: int, how: str) -> Tensor:
    """A scale [out] per output channel.

    Args:
        weight: [out, ...].
        w_qmax: Largest absolute code.
        how: "max": the largest absolute weight gets the largest code; "mse": the scale, of that and of smaller ones,
            with the least squared error, as for `mse_range`.
    """
    highest = (weight.flatten(1).abs().amax(1) / w_qmax).clamp_min(MIN_WEIGHT_SCALE)
    if how == "max":
        return highest
    scales = torch.stack([highest * share for share in SHRINK_WEIGHT])
    errors = torch.stack([_weight_error(weight, scale, w_qmax) for scale in scales])
    return scales.gather(0, errors.argmin(0, keepdim=True))[0]


def bias_corrected(
    network: Network,
    float_network: Network,
    program: Program,
    pixels: Tensor,
    progress: ProgressCallback = silent,
) -> Network:
    """A copy whose every sum has the float network's mean per channel.

    Quantization moves the mean of a convolution's or linear layer's output; the shift, measured on images before
    the activation and with all earlier biases corrected, is taken away from the bias (Nagel et al., ICCV 2019,
    "Data-Free Quantization", Section 4.2, empirically as in Appendix D). A sum without a bias of its own is left as
    it is.

    Since a sum is linear, its mean over images is the sum of the mean input. The network is run piece by piece, a
    piece ending where one tensor is all that what follows reads; the codes of that tensor are kept for every image.

    Args:
        network: Quantized, see `with_ranges`.
        float_network: What it was made of.
        program: Operators of both networks.
        pixels: Calibration images, uint8 [N, 3, size, size], N at least 1.
        progress: Called with work done and in all.

    Raises:
        DataError: No images.
    """
    wanted = output_means(float_network, program, pixels)
    result = extract(network, program)
    cuts = _cuts(program)
    weighted = [index for index, node in enumerate(program) if node.has_weights]
    images = (to_input(batch, program[0].in_shape.height) for batch in _batches(program, pixels))
    stored = _stored(result, program[:1], images)
    means: dict[str, Tensor] = {}
    start = 0
    for done, index in enumerate(weighted, start=1):
        node = program[index]
        (source,) = node.inputs
        while (end := next((cut for cut in cuts if start < cut < index), None)) is not None:
            piece = _piece(program, start, end + 1)
            stored = _stored(result, piece, _values(result, program, start, stored))
            start, means = end, {}
        if source not in means:  # final once everything before it is corrected
            piece = _piece(program, start, index)
            means[source] = _mean_tensors(result, piece, [source], _values(result, program, start, stored))[source]
        bias = result.norm_of(node).bias
        if bias is not None:
            # Without the bias's rounding, which is another one afterwards.
            shift = _mean_sum(result, node, means[source], rounded_bias=False) - wanted[node.id]
            with torch.no_grad():
                bias[: node.out_shape.channels] -= shift.float()
        progress(done, len(weighted))
    return result


def output_means(network: Network, program: Program, pixels: Tensor) -> dict[str, Tensor]:
    """The mean of every convolution's and linear layer's output, before the activation, per channel.

    Args:
        network: In evaluation mode, float or quantized.
        program: Operators of the network.
        pixels: uint8 [N, 3, size, size], N at least 1.

    Returns:
        By node id, float64 [C].

    Raises:
        DataError: No images.
    """
    weighted = [node for node in program if node.has_weights]
    sources = list(dict.fromkeys(node.inputs[0] for node in weighted))
    images = (to_input(batch, program[0].in_shape.height) for batch in _batches(program, pixels))
    means = _mean_tensors(network, program, sources, images)
    return {node.id: _mean_sum(network, node, means[node.inputs[0]]) for node in weighted}


@torch.no_grad()
def unfold_norms(network: Network, program: Program, weights: Mapping[str, FloatWeights], pixels: Tensor) -> None:
    """Load weights with batch norm folded, and give every norm back the statistics of its sums.

    The network computes what the weights say, and can be fine-tuned, since batch norm by the batch alone is about the
    same again.

    Args:
        network: Fresh, of this program alone; left in evaluation mode.
        program: No two operators share weights.
        weights: By node id, of every convolution and linear layer.
        pixels: Training images, uint8 [N, 3, size, size], N at least 1.

    Raises:
        DataError: No images.
    """
    weighted = [node for node in program if node.has_weights]
    for node in weighted:
        present(network.weights_of(node).weight).copy_(torch.from_numpy(weights[node.id].weight))
        norm, bias = network.norm_of(node), torch.from_numpy(weights[node.id].bias)
        if norm.bias is not None:
            norm.bias.copy_(bias)
        if norm.running_var is not None:
            norm.running_var.fill_(1 - BATCH_NORM_EPS)  # does nothing, so far
    network.eval()
    normed = [(node, node.op) for node in weighted if isinstance(node.op, Convolution) and node.has_batch_norm]
    count = dict.fromkeys((node.id for node, _ in normed), 0)
    sums = {node.id: torch.zeros(2, node.out_shape.channels, dtype=torch.float64) for node, _ in normed}
    sources = list(dict.fromkeys(node.inputs[0] for node, _ in normed))
    for batch in _batches(program, pixels):
        _, tensors = network.run_with_taps(to_input(batch, program[0].in_shape.height), program, sources)
        values = dict(zip(sources, tensors, strict=True))
        for node, op in normed:
            weight = network.weights_of(node).sliced_weight(node)
            y_BCHW = _convolved(op, values[node.inputs[0]], weight, None).double()
            sums[node.id] += torch.stack([y_BCHW.sum((0, 2, 3)), y_BCHW.square().sum((0, 2, 3))])
            count[node.id] += y_BCHW.numel() // node.out_shape.channels
    for node, _ in normed:
        gamma, bias, running_mean, running_var = network.norm_of(node).norm(node)
        mean, square = sums[node.id] / count[node.id]
        running_mean.copy_(mean)
        running_var.copy_((square - mean.square()).clamp_min(0))
        gamma.copy_((running_var + BATCH_NORM_EPS).sqrt())
        bias.add_(running_mean)


@torch.no_grad()
def _mean_tensors(
    network: Network, program: Program, names: Sequence[str], batches: Iterable[Tensor]
) -> Mapping[str, Tensor]:
    """The mean over images of some tensors, float64 [C, H, W]."""
    totals: dict[str, Tensor] = {}
    count = 0
    for x_BCHW in batches:
        _, tensors = network.run_with_taps(x_BCHW, program, names)
        count += len(x_BCHW)
        for name, tensor in zip(names, tensors, strict=True):
            total = tensor.sum(0, dtype=torch.float64)
            totals[name] = totals[name] + total if name in totals else total
    return {name: total / count for name, total in totals.items()}


def _cuts(program: Program) -> list[int]:
    """Nodes whose output is all that the nodes after them read."""
    reads = last_reads(program)
    cuts, read_until = [], 0
    for index, node in enumerate(program):
        if node.out.is_learned and read_until <= index:
            cuts.append(index)
        read_until = max(read_until, reads.get(node.id, 0))
    return cuts


def _piece(program: Program, start: int, stop: int) -> Program:
    """The nodes between a cut and `stop`, which read the cut's tensor; quantizing it again changes nothing."""
    cut = program[start]
    first = replace(cut, op=Quantize(), inputs=(cut.id,), in_shape=cut.out_shape)
    return (first, *program[start + 1 : stop])


@torch.no_grad()
def _stored(network: Network, piece: Program, batches: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The codes of a piece's last tensor, uint8 [B, C, H, W] per batch."""
    scale, zero_point = network.quant_params(piece[-1].id)
    return tuple(
        (network(batch, piece) / scale).round_().add_(zero_point).clamp_(0, MAX_CODE).to(torch.uint8)
        for batch in batches
    )


def _values(network: Network, program: Program, start: int, stored: Sequence[Tensor]) -> Iterator[Tensor]:
    """What stored codes stand for, batch by batch."""
    scale, zero_point = network.quant_params(program[start].id)
    return ((codes.float() - zero_point) * scale for codes in stored)


@torch.no_grad()
def _mean_sum(network: Network, node: Node, mean_CHW: Tensor, rounded_bias: bool = True) -> Tensor:
    """The mean over positions of a node's folded sum, float64 [C], given the mean of its input."""
    if network.quantized:
        input_scale = network.quant_params(node.inputs[0])[0]
        codes, scales, bias = (tensor.double() for tensor in network.fold(node, input_scale))
        weight = codes * scales.view(-1, *[1] * (codes.dim() - 1))
        unrounded = network.norm_of(node).gain_and_bias(node)[1]
        bias = bias * (scales * input_scale) if rounded_bias else unrounded.double()
    else:
        weight, bias = (tensor.double() for tensor in network.fold_float(node))
    x_BCHW = mean_CHW.unsqueeze(0)
    if isinstance(node.op, Linear):
        return F.linear(x_BCHW.flatten(1), weight, bias)[0]
    assert isinstance(node.op, Convolution), node.op
    return _convolved(node.op, x_BCHW, weight, bias).mean((0, 2, 3))


def _convolved(op: Convolution, x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    groups = len(weight) if isinstance(op, Depthwise) else 1
    return F.conv2d(x_BCHW, weight, bias, op.stride, op.padding, 1, groups)


def _batches(program: Program, pixels: Tensor) -> tuple[Tensor, ...]:
    """Parts so small that all tensors of a run fit the memory together."""
    if not len(pixels):
        raise DataError("There are no images to calibrate on", remedy="Take at least one training image")
    elements = sum(node.out_shape.num_elements for node in program)
    return torch.split(pixels, max(1, min(MAX_BATCH, MAX_ELEMENTS // elements)))


@torch.no_grad()
def _set_weight_scale(weighted: WeightedOperator, how: str, w_qmax: int) -> None:
    scale, weight = present(weighted.weight_scale), present(weighted.weight)
    scale.copy_(weight_scale(weight.reshape(len(scale), -1), w_qmax, how))  # 1 where all channels share it


def _weight_error(weight: Tensor, scale: Tensor, w_qmax: int) -> Tensor:
    shape = (-1, *[1] * (weight.dim() - 1))
    return (weight_codes(weight, scale, w_qmax) * scale.view(shape) - weight).square().flatten(1).sum(1)
