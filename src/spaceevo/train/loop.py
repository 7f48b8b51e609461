"""The training loop of every network: an FP32 phase, then an LSQ+ phase, resumable at any step.

A network that is quantized already (`train.ptq`) goes through the LSQ+ phase alone.

A step trains one or more programs of one network on one batch. The first program learns from the labels, the
others from its prediction and the labels (sandwich rule with in-place distillation); a single network is the case of
one program. Several processes (`train.ranks`) share the batch of a step and train the same programs.
Every random draw is a function of (seed, purpose, step), so a checkpoint needs weights and the optimizer's state only,
and an interrupted training ends with the same weights, bit for bit. A training that diverges goes back to the weights
of some steps before, with half the rate.

More than 400 lines: one training loop, with all that it may be resumed from.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence, Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.config import DataSettings, TrainingSettings
from spaceevo.errors import TrainingError
from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.seeding import python_random
from spaceevo.train.batches import Images, to_input, torch_generator, training_batch
from spaceevo.train.checkpoints import (
    load_optimizer_state,
    load_tensors,
    optimizer_state,
    put_weights,
    save_tensors,
)
from spaceevo.train.losses import in_place_distillation_loss
from spaceevo.train.ranks import ALONE, Ranks, Share, share_of
from spaceevo.train.schedule import CLIP_VALUE, OF_NETWORKS, learning_rate
from spaceevo.train.tracking import Tracker

SECONDS_BETWEEN_CHECKPOINTS = 10.0
RATE_BATCH = 256  # the batch that `lr` and `lr_int8` are told for; they grow with it
#: So often, within a phase, the state is kept that a diverged training goes back to.
STEPS_BETWEEN_GOOD = 100
#: A training has diverged when a loss is this many times that of guessing.
DIVERGED = 5.0
MAX_ROLLBACKS = 3
NUM_CALIBRATION_PROGRAMS = 6
MAX_CALIBRATION_DRAWS = 60  # of programs, until every operator has had one
#: Draws the programs of one step; the first one learns from the labels.
ProgramSampler = Callable[[random.Random], Sequence[Program]]
#: From (logits, those of the largest subnet) to how far they are apart.
DistillationLoss = Callable[[Tensor, Tensor], Tensor]


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
    distillation_loss: DistillationLoss = in_place_distillation_loss,
    first_alone: float = 0.0,
    complete: Program | None = None,
    ranks: Ranks = ALONE,
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train a network through both phases, continuing from the folder's checkpoint where there is one.

    A training that is finished in the folder is read, not done again.

    Args:
        network: Freshly made, or quantized, then the LSQ+ phase starts from its ranges; trained in place, on
            `settings.device`, and brought back to the CPU.
        sample_programs: Draws the programs of a step.
        images: Training images.
        settings: Epochs, rates, batch size, methods, device.
        data: Which augmentations apply.
        seed: Of the run; decides every random draw.
        purpose: Name of this training; part of every draw.
        folder: For the checkpoint and the results; all processes see it.
        progress: Called with subnets trained, one per step and program, and in all, in the first process.
        distillation_loss: Between the logits of the other programs and those of the first.
        first_alone: Share of the FP32 steps, at their beginning, that train the first program of a draw only.
        complete: Has every operator of the network; starts the ranges of those that hardly any drawn program has.
        ranks: The processes that train together, each of which calls this function.

    Returns:
        Files of weights, and the losses of every step.

    Raises:
        TrainingError: It diverges again after it went back `MAX_ROLLBACKS` times; or torch has no such device, or no
            TensorBoard; or the batch is too small for so many processes.
    """
    batch_size = min(settings.batch_size, len(images))
    share = share_of(batch_size, settings.accumulation, ranks)
    steps_per_epoch = len(images) // batch_size
    num_fp32 = 0 if network.quantized else max(1, round(settings.epochs_fp32 * steps_per_epoch))
    num_int8 = max(1, round(settings.epochs_int8 * steps_per_epoch)) if settings.epochs_int8 else 0
    num_steps, num_alone = num_fp32 + num_int8, round(first_alone * num_fp32)
    per_step = len(sample_programs(python_random(seed, purpose, "programs", 0)))

    def trained(steps: int) -> int:
        """How many programs' worth of work."""
        return min(steps, num_alone) + max(0, steps - num_alone) * per_step

    files = TrainedFiles(folder / f"{purpose}-fp32.safetensors", folder / f"{purpose}-int8.safetensors")
    checkpoint = folder / f"{purpose}-checkpoint.safetensors"
    device = device_of(settings)
    if not network.quantized:
        network.set_branch_gain(settings.branch_gain)
    network.to(device).train()
    state = _State(network, settings)
    last = files.int8 if num_int8 else files.fp32
    saved = last if last.exists() else checkpoint
    if saved.exists():
        state.load(saved)
    curve = state.curve
    last_saved = time.monotonic()
    log_folder = folder / "tensorboard" / purpose if settings.tensorboard and ranks.is_first else None
    with closing(Tracker(log_folder, len(curve))) as tracker:
        while (step := len(curve)) < num_steps:
            phase, start, length = ("fp32", 0, num_fp32) if step < num_fp32 else ("lsq+", num_fp32, num_int8)
            pixels, labels = training_batch(images, data, batch_size, step, seed, purpose, device, share.rows)
            if state.good_step != step:  # otherwise it has just gone back to it
                if step == start:
                    if phase == "lsq+" and not network.quantized:
                        # All of the batch in every process: ranges have to be the same.
                        calibrating, _ = training_batch(images, data, batch_size, step, seed, purpose, device)
                        names = set(network.quantizers)
                        network.start_quantization(
                            _calibration(sample_programs, complete, calibrating, names, seed, purpose)
                        )
                    state.start_phase()
                if (step - start) % STEPS_BETWEEN_GOOD == 0:
                    state.keep()
            peak = (settings.lr if phase == "fp32" else settings.lr_int8) * batch_size / RATE_BATCH
            lr = learning_rate(OF_NETWORKS, peak, step - start, length) * 0.5**state.num_rollbacks
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            programs = sample_programs(python_random(seed, purpose, "programs", step))
            if step < num_alone:
                programs = programs[:1]
            dropout = torch_generator(seed, purpose, "dropout", step)
            losses = _step(
                network, state.optimizer, programs, pixels, labels, settings, distillation_loss, dropout, share, ranks
            )
            limit = DIVERGED * math.log(max(2, programs[0][-1].out_shape.channels))
            if not all(loss < limit for loss in losses):
                if state.num_rollbacks == MAX_ROLLBACKS:
                    what = "far above that of guessing" if all(map(math.isfinite, losses)) else "not a finite number"
                    raise TrainingError(
                        f"The loss of training {purpose!r} is {what} at step {step}",
                        found=f"Losses {losses} at learning rate {lr:.3g}, after going back {MAX_ROLLBACKS} times",
                        remedy="Lower its lr in the recipe and run again; the stages before are kept",
                    )
                state.go_back()
                continue
            state.finish_step(
                TrainingPoint(
                    phase=phase,
                    step=step,
                    loss=losses[0],
                    loss_smallest=losses[1] if len(losses) > 1 else None,
                    lr=lr,
                    diverged_at=state.diverged_at,
                )
            )
            tracker.log(curve[-1], batch_size)
            if step + 1 in (num_fp32, num_steps):
                state.take_averages()
            if step + 1 == num_fp32 and ranks.is_first:
                save_tensors(files.fp32, network.state_dict(), state.notes())
            if ranks.is_first:
                progress(trained(step + 1), trained(num_steps))
            if ranks.agree(time.monotonic() - last_saved > SECONDS_BETWEEN_CHECKPOINTS) and step + 1 < num_steps:
                if ranks.is_first:
                    state.save(checkpoint)
                last_saved = time.monotonic()
    network.to("cpu")
    if ranks.is_first:
        if num_int8 and not files.int8.exists():
            save_tensors(files.int8, network.state_dict(), state.notes())
        checkpoint.unlink(missing_ok=True)
    ranks.agree(True)  # the files are there
    return files, curve


def device_of(settings: TrainingSettings) -> torch.device:
    """Where a training runs.

    Raises:
        TrainingError: The recipe wants a GPU, and torch finds none; or a precision that it lacks.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "The recipe wants device: cuda, and torch finds no such GPU",
            found=f"torch {torch.__version__}",
            remedy="Write device: auto or device: cpu, or install the torch that is made for your GPU",
        )
    device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and settings.precision == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise TrainingError(
            "The recipe wants precision: bfloat16, and the GPU has no such numbers",
            found=torch.cuda.get_device_name(device),
            remedy="Write precision: float32",
        )
    return device


class _State:
    """All that a step changes, and a copy of it from some steps before.

    Attributes:
        curve: What was trained so far.
        optimizer: That of the phase; a fresh one for each.
        good_step: The step before which the copy was made; None before there is one.
        diverged_at: Steps that diverged since the last point of the curve.
    """

    def __init__(self, network: Network, settings: TrainingSettings) -> None:
        self._network, self._settings = network, settings
        self.curve: list[TrainingPoint] = []
        self.good_step: int | None = None
        self.diverged_at: tuple[int, ...] = ()
        self._good: dict[str, Tensor] = {}
        self.start_phase()

    def start_phase(self) -> None:
        """A fresh optimizer; averages that start from the weights."""
        self.optimizer = _optimizer(self._network, self._settings)
        decay = self._settings.ema
        self._averages = {name: p.detach().clone() for name, p in self._network.named_parameters()} if decay else {}

    @property
    def num_rollbacks(self) -> int:
        """How often the training went back."""
        return sum(len(point.diverged_at) for point in self.curve) + len(self.diverged_at)

    def finish_step(self, point: TrainingPoint) -> None:
        """Note a step that went well."""
        self.curve.append(point)
        self.diverged_at = ()
        if self._averages:
            parameters = [p.detach() for p in self._network.parameters()]
            torch._foreach_lerp_(list(self._averages.values()), parameters, 1 - self._settings.ema)

    @torch.no_grad()
    def take_averages(self) -> None:
        """Give the network the averages of its weights."""
        for name, parameter in self._network.named_parameters():
            if name in self._averages:
                parameter.copy_(self._averages[name])

    def keep(self) -> None:
        """Copy this state, to go back to."""
        self._good = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self.good_step = len(self.curve)

    def go_back(self) -> None:
        """To the state that was kept."""
        assert self.good_step is not None
        marks = (mark for point in self.curve[self.good_step :] for mark in point.diverged_at)
        self.diverged_at = (*marks, *self.diverged_at, len(self.curve))
        del self.curve[self.good_step :]
        good = {name: tensor.clone() for name, tensor in self._good.items()}  # it may be wanted again
        self._network.load_state_dict({name: good[name] for name in self._network.state_dict()})
        self._restore(good)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        good = {f"good.{name}": tensor for name, tensor in self._good.items()}
        save_tensors(path, self._tensors() | good, self.notes())

    def load(self, path: Path) -> None:
        """Read a checkpoint, or the files at the end of a phase.

        Raises:
            ArtifactError: It is damaged, or of another network.
        """
        stored, notes = load_tensors(path)
        put_weights(self._network, stored, path)
        device = next(self._network.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in stored.items()}
        self._network.quantized, self.good_step = notes["quantized"], notes.get("good_step")
        self.curve.extend(TrainingPoint.model_validate(point) for point in notes["curve"])
        self._good = {name.removeprefix("good."): t for name, t in tensors.items() if name.startswith("good.")}
        self._restore(tensors)

    def notes(self) -> dict[str, Any]:
        """What is not a tensor."""
        curve = [point.model_dump() for point in self.curve]
        return {"quantized": self._network.quantized, "curve": curve, "good_step": self.good_step}

    def _tensors(self) -> dict[str, Tensor]:
        averages = {f"average.{name}": tensor for name, tensor in self._averages.items()}
        return self._network.state_dict() | optimizer_state(self._network, self.optimizer) | averages

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.start_phase()
        load_optimizer_state(self._network, self.optimizer, tensors)
        for name in self._averages:
            self._averages[name].copy_(tensors.get(f"average.{name}", self._averages[name]))


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    programs: Sequence[Program],
    pixels: Tensor,
    labels: Tensor,
    settings: TrainingSettings,
    distillation_loss: DistillationLoss = in_place_distillation_loss,
    dropout: torch.Generator | None = None,
    share: Share | None = None,
    ranks: Ranks = ALONE,
) -> list[float]:
    """One update; returns the loss of each program.

    Args:
        pixels: This process's rows of the batch; all of it without `share`. Likewise `labels`.
    """
    optimizer.zero_grad(set_to_none=True)
    share = share or share_of(len(pixels), settings.accumulation)
    dropped = _dropout_mask(programs[0], share, settings, dropout)
    losses: list[list[Tensor]] = [[] for _ in programs]
    start = 0
    for size in share.sizes:
        own = slice(start, start + size)
        start += size
        part, part_labels = pixels[own], labels[own]
        inputs: dict[int, Tensor] = {}
        soft: Tensor | None = None
        for program, own_losses in zip(programs, losses, strict=True):
            resolution = program[0].in_shape.height
            if resolution not in inputs:
                inputs[resolution] = to_input(part, resolution)
            mask = dropped[own].to(part.device) if dropped is not None and soft is None else None
            with torch.autocast(part.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = network(inputs[resolution], program, dropout=mask).float()
            if soft is None:
                loss = F.cross_entropy(logits, part_labels, label_smoothing=settings.label_smoothing)
                soft = logits.detach()
            else:
                # Labels too: until the largest subnet has learnt something, its prediction teaches little.
                loss = (F.cross_entropy(logits, part_labels) + distillation_loss(logits, soft)) / 2
            (loss * (size / share.batch_size)).backward()
            own_losses.append(loss.detach() * (size / share.batch_size))
    total = torch.stack([torch.stack(own).sum() for own in losses])
    ranks.sum_([total, *(p.grad for p in network.parameters() if p.grad is not None)])
    torch.nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
    optimizer.step()
    return [float(loss) for loss in total.tolist()]


def _dropout_mask(
    program: Program, share: Share, settings: TrainingSettings, generator: torch.Generator | None
) -> Tensor | None:
    """What the classifier's input is multiplied with, [rows, C, 1, 1]; drawn for the whole batch."""
    if not settings.dropout:
        return None
    kept = 1 - settings.dropout
    mask = torch.rand((share.batch_size, program[-1].in_shape.channels, 1, 1), generator=generator, device="cpu") < kept
    return mask[share.rows].float() / kept


def _optimizer(network: Network, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; only convolution and linear weights decay."""
    weights = [p for name, p in network.named_parameters() if name.endswith(".weight")]
    others = [p for name, p in network.named_parameters() if not name.endswith(".weight")]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


def _calibration(
    sample_programs: ProgramSampler,
    complete: Program | None,
    pixels: Tensor,
    names: AbstractSet[str],
    seed: int,
    purpose: str,
) -> list[tuple[Tensor, Program]]:
    """Programs with their inputs; drawn on until every operator of `names` occurs, as rare ones need ranges too."""
    programs: list[Program] = []
    seen: set[str] = set()
    for draw in range(MAX_CALIBRATION_DRAWS):
        for program in sample_programs(python_random(seed, purpose, "calibration", draw)):
            own = {node.id for node in program}
            if draw < NUM_CALIBRATION_PROGRAMS or not own <= seen:
                programs.append(program)
                seen |= own
        if draw + 1 >= NUM_CALIBRATION_PROGRAMS and names <= seen:
            break
    else:
        programs += [complete] if complete else []
    return [(to_input(pixels, program[0].in_shape.height), program) for program in programs]
