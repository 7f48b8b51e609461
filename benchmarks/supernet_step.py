"""One training step of a supernet, ours against plain PyTorch: images per second, memory, losses, and scaling.

A step is a sandwich (largest, smallest, random subnets) on one batch, with clipping and SGD. Plain is what one would
write first: slices made contiguous, LSQ+ composed of elementary operations with straight-through roundings, float32
in NCHW, a forward and a backward pass per subnet. Both start from the same weights and see the same batches and
subnets. The losses of the first steps are compared, beside those of plain in another memory layout: rounding grows from
step to step, and this shows how fast. Times are processor times, by turns in one process; memory is the growth of the
peak resident set of a fresh process.
Scaling: time per step against the MACs of its subnets, for more random subnets and for higher resolutions.

Run: python benchmarks/supernet_step.py [--space onnxw-151122-023231 --resolutions 96 128 160] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import assert_never

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spaceevo.config import TrainingSettings
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)
from spaceevo.graph.tensors import FIXED_QUANTIZERS, RELU6_MAX_SCALE
from spaceevo.nets.network import BATCH_NORM_EPS, Network, program_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.train.batches import to_input
from spaceevo.train.loop import _optimizer, _step
from spaceevo.train.schedule import CLIP_VALUE

PHASES = ("fp32", "lsq+")
STEPPERS = ("plain", "ours")
W_QMAX = 127
NUM_CLASSES = 100
NUM_COMPARED = 20
SETTINGS = TrainingSettings()
LR = 0.002  # of warm-up, as first steps have
Step = Callable[[Sequence[Program], Tensor, Tensor], list[float]]


# ---- plain PyTorch


def rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    return x * factor + (x * (1 - factor)).detach()


class PlainSupernet(nn.Module):
    """The parameters of a network of ours, run the textbook way."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.quantized = network.quantized
        self.values = nn.ParameterDict(
            {name.replace(".", " "): parameter.detach().clone() for name, parameter in network.named_parameters()}
        )

    def value(self, node_id: str, name: str) -> Tensor:
        return self.values[f"weighted {node_id} {name}"]

    def vector(self, node: Node, name: str) -> Tensor:
        return self.value(node.id, name)[: node.out_shape.channels].contiguous()

    def forward(self, x: Tensor, program: Program) -> Tensor:
        tensors = {program[0].inputs[0]: x}
        for node in program:
            y = self.computed(node, *(tensors[name] for name in node.inputs))
            tensors[node.id] = self.activation(node, y)
        return tensors[program[-1].id]

    def computed(self, node: Node, x: Tensor, other: Tensor | None = None) -> Tensor:
        match node.op:
            case Conv() | Depthwise() as op:
                bias = None if op.norm == "none" else self.vector(node, "bias")
                shape = (op.stride, op.padding, 1, x.shape[1] if isinstance(op, Depthwise) else 1)
                if op.norm != "batch_norm":
                    return F.conv2d(x, self.weight(node), bias, *shape)
                y = F.conv2d(x, self.weight(node), None, *shape)
                return F.batch_norm(y, None, None, self.vector(node, "gamma"), bias, True, 0.0, BATCH_NORM_EPS)
            case Linear():
                return F.linear(x.flatten(1), self.weight(node), self.value(node.id, "bias"))
            case Gate() | Relabel():
                return x / 6 + 0.5 if self.quantized else F.hardsigmoid(x)
            case Sigmoid():
                return x.sigmoid()
            case Multiply():
                return x * other
            case Add():
                return x + other
            case Pool():
                return x.mean((2, 3), keepdim=True)
            case MaxPool() as op:
                return F.max_pool2d(x, op.kernel_size, op.stride, op.padding)
            case Quantize():
                return x
            case op:
                assert_never(op)

    def weight(self, node: Node) -> Tensor:
        out_channels, in_channels, *kernel = node.weight_shape
        weight = self.value(node.weights_id, "weight")[:out_channels, :in_channels]
        if kernel:
            start = (weight.shape[-1] - kernel[0]) // 2
            centre = slice(start, start + kernel[0])
            weight = weight[:, :, centre, centre]
        weight = weight.contiguous()
        if not self.quantized:
            return weight
        scale = self.value(node.weights_id, "weight_scale")[:out_channels].abs().clamp_min(1e-9)
        factor = (weight[0].numel() * W_QMAX) ** -0.5
        scale = scaled_gradient(scale, factor).view(-1, *[1] * (weight.dim() - 1))
        return rounded(F.hardtanh(weight / scale, -W_QMAX, W_QMAX)) * scale

    def activation(self, node: Node, y: Tensor) -> Tensor:
        quantizer = node.out.quantizer
        if quantizer in ("none", "input"):
            return y
        if not self.quantized:
            if quantizer == "relu":
                return F.relu(y)
            return F.relu6(y) if quantizer == "relu6" else y
        if quantizer in FIXED_QUANTIZERS:
            fixed, zero = FIXED_QUANTIZERS[quantizer]
            return (rounded(F.hardtanh(y / fixed + zero, 0.0, 255.0)) - zero) * fixed
        factor = (y.numel() / len(y) * 255) ** -0.5
        scale = self.values[f"quantizers {node.id} scale"]
        if quantizer == "relu6":
            scale = scale - (scale - RELU6_MAX_SCALE).clamp_min(0).detach()
        scale = scaled_gradient(scale, factor)
        beta = scaled_gradient(self.values[f"quantizers {node.id} beta"], factor)
        zero_point = rounded(-beta / scale) if quantizer == "free" else 0.0
        return (rounded(F.hardtanh(y / scale + zero_point, 0.0, 255.0)) - zero_point) * scale


def plain_step(network: Network, channels_last: bool = False) -> Step:
    plain = PlainSupernet(network)
    weights = [value for name, value in plain.values.items() if name.endswith(" weight")]
    others = [value for name, value in plain.values.items() if not name.endswith(" weight")]
    groups = [{"params": weights, "weight_decay": SETTINGS.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9, nesterov=True)

    def step(programs: Sequence[Program], pixels: Tensor, labels: Tensor) -> list[float]:
        optimizer.zero_grad()
        losses, soft = [], None
        for program in programs:
            x = to_input(pixels, program[0].in_shape.height)
            logits = plain(x.contiguous(memory_format=torch.channels_last) if channels_last else x, program)
            if soft is None:
                loss = F.cross_entropy(logits, labels, label_smoothing=SETTINGS.label_smoothing)
                soft = logits.detach().softmax(1)
            else:
                loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits, soft)) / 2
            loss.backward()
            losses.append(loss.item())
        nn.utils.clip_grad_value_(plain.parameters(), CLIP_VALUE)
        optimizer.step()
        return losses

    return step


# ---- ours


def our_step(network: Network) -> Step:
    optimizer = _optimizer(network, SETTINGS)
    for group in optimizer.param_groups:
        group["lr"] = LR

    def step(programs: Sequence[Program], pixels: Tensor, labels: Tensor) -> list[float]:
        return _step(network, optimizer, programs, pixels, labels, SETTINGS)

    return step


# ---- both


class Setting:
    """A space, its programs and its batches; all drawn from fixed seeds."""

    def __init__(self, options: argparse.Namespace) -> None:
        hyperspace = load_hyperspace(options.space.split("-")[0])
        space = hyperspace.space(hyperspace.decode(options.space), NUM_CLASSES)
        self.space: SearchSpace = replace(space, resolutions=tuple(options.resolutions or space.resolutions))
        self.batch_size, self.num_random = options.batch_size, options.num_random

    def network(self, phase: str) -> Network:
        generator = torch.Generator().manual_seed(0)
        network = Network(self.space.largest_nodes(), W_QMAX, generator)
        network.train()
        if phase == "lsq+":
            pixels, _ = self.batch(1000)
            programs = [program for number in range(20) for program in self.programs(1000 + number)]
            network.start_quantization(
                [(to_input(pixels, program[0].in_shape.height), program) for program in programs]
            )
        return network

    def programs(self, number: int, num_random: int | None = None) -> list[Program]:
        rng = random.Random(number)
        count = self.num_random if num_random is None else num_random
        randoms = [self.space.sample(rng) for _ in range(count)]
        return [program_of(subnet) for subnet in (self.space.largest(), self.space.smallest(), *randoms)]

    def fixed_program(self, resolution: int) -> Program:
        return program_of(replace(self.space.largest(), resolution=resolution))

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        size = max(self.space.resolutions)
        pixels = torch.randint(0, 256, (self.batch_size, 3, size, size), dtype=torch.uint8, generator=generator)
        return pixels, torch.randint(0, NUM_CLASSES, (self.batch_size,), generator=generator)

    def stepper(self, phase: str, who: str) -> Step:
        network = self.network(phase)
        return our_step(network) if who == "ours" else plain_step(network, "channels-last" in who)

    def run(self, step: Step, number: int) -> list[float]:
        return step(self.programs(number), *self.batch(number))


def losses_of(setting: Setting, phase: str, who: str) -> list[float]:
    """Of every subnet of the first steps."""
    step = setting.stepper(phase, who)
    return [loss for number in range(NUM_COMPARED) for loss in setting.run(step, number)]


def largest_difference(ours: Sequence[float], plain: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, plain, strict=True))


def timed(steps: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each in every round, by turns; a round is the same work for all."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(-1, rounds):
        for name, step in steps.items():
            start = time.process_time()
            step(max(0, number))
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def resident_growth_mib(setting: Setting, phase: str, who: str) -> float:
    """Growth of the peak resident set by three steps; of this process, which should be fresh."""
    step = setting.stepper(phase, who)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of making the network
    before = _peak_mib()
    for number in range(3):
        setting.run(step, number)
    return _peak_mib() - before


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def compare(setting: Setting, phase: str, options: argparse.Namespace) -> dict[str, float]:
    """Ours against plain in one phase."""
    plain, again, ours = (losses_of(setting, phase, who) for who in ("plain", "plain channels-last", "ours"))
    steps = {who: partial(setting.run, setting.stepper(phase, who)) for who in STEPPERS}
    seconds = timed(steps, options.rounds)
    command = [sys.executable, *sys.argv, "--phase", phase, "--resident"]
    memory = {
        who: float(subprocess.run([*command, who], check=True, capture_output=True, text=True).stdout)
        for who in STEPPERS
    }
    ratios = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    medians = {who: statistics.median(values) for who, values in seconds.items()}
    return {
        "plain_images_per_s": setting.batch_size / medians["plain"],
        "ours_images_per_s": setting.batch_size / medians["ours"],
        "speedup": statistics.median(ratios),
        "plain_memory_mib": memory["plain"],
        "ours_memory_mib": memory["ours"],
        "loss_difference": largest_difference(ours, plain),
        "loss_difference_of_plain_channels_last": largest_difference(again, plain),
    }


def scaling(setting: Setting, phase: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Time and MACs of a step, as ratios to the first of a row: of more random subnets, of higher resolutions."""
    step = setting.stepper(phase, "ours")
    numbers, resolutions = (0, 1, 2, 4, 8), setting.space.resolutions
    rows = []
    for name, variants in (
        ("num_random", {number: (lambda r, n=number: setting.programs(r, n)) for number in numbers}),
        ("resolution", {size: (lambda _, s=size: [setting.fixed_program(s)]) for size in resolutions}),
    ):
        work = {key: partial(lambda draw, r: step(draw(r), *setting.batch(0)), draw) for key, draw in variants.items()}
        seconds = timed(work, options.rounds)
        macs = {
            key: sum(node.macs for r in range(options.rounds) for program in draw(r) for node in program)
            for key, draw in variants.items()
        }
        first = next(iter(variants))
        for key in variants:
            time_ratio = statistics.median(a / b for a, b in zip(seconds[key], seconds[first], strict=True))
            rows.append(
                {"phase": phase, "what": name, "value": key, "time": time_ratio, "macs": macs[key] / macs[first]}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="micro-012-000", help="encoding: hyperspace, block types, width windows")
    parser.add_argument("--resolutions", type=int, nargs="*", help="instead of the space's own")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-random", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--phase", choices=PHASES, help="only this one")
    parser.add_argument("--resident", choices=STEPPERS, help="only print the memory of one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(options)
    if options.resident:
        print(resident_growth_mib(setting, options.phase, options.resident))
        return
    phases = [options.phase] if options.phase else PHASES
    where = (f"{options.space}, {options.batch_size} images, {options.threads} thread(s), torch {torch.__version__}, "
             f"{platform.machine()}")  # fmt: skip
    result: dict[str, object] = {"where": where, "rounds": options.rounds}
    result["phases"] = compared = {phase: compare(setting, phase, options) for phase in phases}
    result["scaling"] = rows = [row for phase in phases for row in scaling(setting, phase, options)]
    console = Console()
    table = Table("", *phases, title=f"A step, ours against plain\n{where}")
    for key in compared[phases[0]]:
        table.add_row(key, *(f"{compared[phase][key]:.3g}" for phase in phases))
    console.print(table)
    table = Table("phase", "what", "value", "time", "MACs", "time / MACs", title="Scaling, against the first of a row")
    for row in rows:
        ratio = f"{row['time'] / row['macs']:.2f}"
        table.add_row(row["phase"], row["what"], str(row["value"]), f"{row['time']:.2f}", f"{row['macs']:.2f}", ratio)
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
