"""The training loop of every network: an FP32 phase, then an LSQ+ phase, resumable at any step.

A network that is quantized already (`train.ptq`) goes through the LSQ+ phase alone.

A step trains one or more programs of one network on one batch. The first program learns from the labels, the
others from its prediction and the labels (sandwich rule with in-place distillation); a single network is the case of
one program.
Every random draw is a function of (seed, purpose, step), so a checkpoint needs weights and momentum only, and an
interrupted training ends with the same weights, bit for bit.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import TrainingError
from spaceevo.nets.network import Network, Program
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.seeding import python_random
from spaceevo.train.batches import Images, augment, batch_indices, to_input, torch_generator
from spaceevo.train.checkpoints import (
    load_optimizer_state,
    load_tensors,
    load_weights,
    optimizer_state,
    save_tensors,
)
from spaceevo.train.losses import in_place_distillation_loss

SECONDS_BETWEEN_CHECKPOINTS = 10.0
WARMUP_SHARE = 0.05
CLIP_VALUE = 1.0
NUM_CALIBRATION_PROGRAMS = 6
MAX_CALIBRATION_DRAWS = 60
#: Draws the programs of one step; the first one learns from the labels.
ProgramSampler = Callable[[random.Random], Sequence[Program]]


@dataclass(frozen=True)
class TrainedFiles:
    """Where a training leaves its weights.

    Attributes:
        fp32: Weights at the end of the FP32 phase; not written where the network came quantized.
        int8: Weights and quantizers at the end of the LSQ+ phase; not written where there is none.
    """

    fp32: Path
    int8: Path


def train(
    network: Network,
    sample_programs: ProgramSampler,
    images: Images,
    settings: TrainingSettings,
    data: DataSettings,
    *,
    seed: int,
    purpose: str,
    folder: Path,
    progress: ProgressCallback,
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train a network through both phases, continuing from the folder's checkpoint where there is one.

    A training that is finished in the folder is read, not done again.

    Args:
        network: Freshly made, or quantized, then the LSQ+ phase starts from its ranges; trained in place.
        sample_programs: Draws the programs of a step.
        images: Training images.
        settings: Epochs, rates and batch size.
        data: Which augmentations apply.
        seed: Of the run.
        purpose: Name of this training; part of every draw.
        folder: For the checkpoint and the results.
        progress: Called with steps done and in all.

    Returns:
        Files of weights, and the losses of every step.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    steps_per_epoch = len(images) // min(settings.batch_size, len(images))
    num_fp32 = 0 if network.quantized else max(1, round(settings.epochs_fp32 * steps_per_epoch))
    num_int8 = max(1, round(settings.epochs_int8 * steps_per_epoch)) if settings.epochs_int8 else 0
    num_steps = num_fp32 + num_int8
    files = TrainedFiles(folder / f"{purpose}-fp32.safetensors", folder / f"{purpose}-int8.safetensors")
    checkpoint = folder / f"{purpose}-checkpoint.safetensors"
    network.train()
    curve: list[TrainingPoint] = []
    optimizer = None
    last = files.int8 if num_int8 else files.fp32
    saved = last if last.exists() else checkpoint
    if saved.exists():
        optimizer = _optimizer(network, settings)
        notes = load_weights(network, saved)
        load_optimizer_state(network, optimizer, load_tensors(saved)[0])
        network.quantized = notes["quantized"]
        curve = [TrainingPoint.model_validate(point) for point in notes["curve"]]
    last_saved = time.monotonic()
    for step in range(len(curve), num_steps):
        phase = "fp32" if step < num_fp32 else "lsq+"
        pixels, labels = _batch(images, settings, data, step, seed, purpose)
        if step in (0, num_fp32):
            if phase == "lsq+" and not network.quantized:
                names = set(network.quantizers)
                network.start_quantization(_calibration(sample_programs, pixels, names, seed, purpose))
            optimizer = _optimizer(network, settings)
        assert optimizer is not None
        start, length = (0, num_fp32) if phase == "fp32" else (num_fp32, num_steps - num_fp32)
        lr = _learning_rate(settings, phase, (step - start) / length, min(settings.batch_size, len(images)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        programs = sample_programs(python_random(seed, purpose, "programs", step))
        losses = _step(network, optimizer, programs, pixels, labels, settings)
        if not all(math.isfinite(loss) for loss in losses):
            raise TrainingError(
                f"The loss of training {purpose!r} is not a finite number at step {step}",
                found=f"losses {losses} at learning rate {lr:.3g}",
                remedy="Lower its lr in the recipe and run again; the stages before are kept",
            )
        curve.append(
            TrainingPoint(
                phase=phase,
                step=step,
                loss=losses[0],
                loss_smallest=losses[1] if len(losses) > 1 else None,
                lr=lr,
            )
        )
        if step + 1 == num_fp32:
            save_tensors(files.fp32, network.state_dict(), _notes(network, curve))
        progress(step + 1, num_steps)
        if time.monotonic() - last_saved > SECONDS_BETWEEN_CHECKPOINTS and step + 1 < num_steps:
            state = network.state_dict() | optimizer_state(network, optimizer)
            save_tensors(checkpoint, state, _notes(network, curve))
            last_saved = time.monotonic()
    if num_int8 and not files.int8.exists():
        save_tensors(files.int8, network.state_dict(), _notes(network, curve))
    checkpoint.unlink(missing_ok=True)
    return files, curve


def _notes(network: Network, curve: list[TrainingPoint]) -> dict[str, Any]:
    return {"quantized": network.quantized, "curve": [point.model_dump() for point in curve]}


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    programs: Sequence[Program],
    pixels: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
) -> list[float]:
    optimizer.zero_grad(set_to_none=True)
    inputs: dict[int, Tensor] = {}
    losses = []
    soft: Tensor | None = None
    for program in programs:
        resolution = program[0].in_size
        if resolution not in inputs:
            inputs[resolution] = to_input(pixels, resolution)
        logits = network(inputs[resolution], program)
        if soft is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
            soft = logits.detach()
        else:
            # Labels too: until the largest subnet has learnt something, its prediction teaches little.
            loss = (F.cross_entropy(logits, labels) + in_place_distillation_loss(logits, soft)) / 2
        loss.backward()
        losses.append(loss.item())
    torch.nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
    optimizer.step()
    return losses


def _optimizer(network: Network, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD with momentum; only convolution and linear weights decay."""
    weights = [p for name, p in network.named_parameters() if name.endswith(".weight")]
    others = [p for name, p in network.named_parameters() if not name.endswith(".weight")]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


def _learning_rate(settings: TrainingSettings, phase: str, done: float, batch_size: int) -> float:
    """Linear warm-up, then a cosine to zero; `done` runs from 0 to 1 over the phase."""
    peak = (settings.lr if phase == "fp32" else settings.lr_int8) * batch_size / 256
    if done < WARMUP_SHARE:
        return peak * (done + 1e-3) / WARMUP_SHARE
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE)))


def _batch(
    images: Images, settings: TrainingSettings, data: DataSettings, step: int, seed: int, purpose: str
) -> tuple[Tensor, Tensor]:
    batch = images.take(batch_indices(len(images), settings.batch_size, step, seed, purpose))
    generator = torch_generator(seed, purpose, "augment", step)
    return augment(batch.pixels, data.flip, data.shift, generator), batch.labels


def _calibration(
    sample_programs: ProgramSampler, pixels: Tensor, names: AbstractSet[str], seed: int, purpose: str
) -> list[tuple[Tensor, Program]]:
    """Programs with their inputs; drawn on until every operator of `names` occurs, as rare ones need ranges too."""
    programs: list[Program] = []
    seen: set[str] = set()
    for draw in range(MAX_CALIBRATION_DRAWS):
        for program in sample_programs(python_random(seed, purpose, "calibration", draw)):
            own = {operator.name for operator in program}
            if draw < NUM_CALIBRATION_PROGRAMS or not own <= seen:
                programs.append(program)
                seen |= own
        if draw + 1 >= NUM_CALIBRATION_PROGRAMS and names <= seen:
            break
    return [(to_input(pixels, program[0].in_size), program) for program in programs]
