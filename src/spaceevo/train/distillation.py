"""Block-wise distillation: every (stage, block type) learns the teacher's stage on its own (SpaceEvo, Section 4.2).

A student is one elastic stage over the widths of all windows between two 1x1 projections, from the teacher's
feature map before the stage to the one after it. It is trained with the sandwich rule on the NSR loss, FP32
then LSQ+. Then sub-stages are sampled from every width window and scored: quality only, since latency belongs to
a target and is joined later.

Shapes: N images, B batch, C channels, H height, W width, P positions of all maps.

More than 400 lines: one training, with all that it may be resumed from.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.config import BlocksSettings
from spaceevo.errors import TrainingError
from spaceevo.graph.nodes import INPUT, Node, Program
from spaceevo.graph.tensors import Shape
from spaceevo.nets.network import Network
from spaceevo.progress import ProgressCallback
from spaceevo.records import FAILED_LOSS, DistilledCell
from spaceevo.seeding import python_random
from spaceevo.spaces.choices import Axis, Block, from_text, to_text
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.search_space import ElasticStage
from spaceevo.spaces.subnet import Stage, stage_program
from spaceevo.train import loop
from spaceevo.train.batches import batch_indices, torch_generator
from spaceevo.train.checkpoints import (
    load_optimizer_state,
    load_tensors,
    optimizer_state,
    put_weights,
    save_tensors,
)
from spaceevo.train.losses import nsr_loss
from spaceevo.train.schedule import CLIP_VALUE, OF_CELLS, learning_rate
from spaceevo.train.stage_features import StageFeatures

MAX_ATTEMPTS = 2
NUM_RANDOM = 2
CURVE_EVERY = 5
INT8_RATE = 0.25  # of the rate of the FP32 phase
PASSES_PER_STEP = 3  # a backward pass takes about as long as two forward passes
#: Index of a searched stage, index of one of its block types.
Cell = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ScoredSubstage:
    """One row of the block table, without latency."""

    window: int
    resolution: int
    in_shape: Shape
    blocks: str
    nsr_loss: float
    stage: Stage


@dataclass(frozen=True, eq=False)
class CellResult:
    """A distilled (stage, block type) with its scored sub-stages."""

    cell: DistilledCell
    rows: tuple[ScoredSubstage, ...]


def all_cells(hyperspace: Hyperspace) -> list[Cell]:
    """(Index of the searched stage, index of the block type) of every cell."""
    return [(index, block) for index, stage in enumerate(hyperspace.searched) for block in range(len(stage.choices))]


class Student(nn.Module):
    """An elastic stage between two 1x1 projections."""

    def __init__(
        self,
        largest: dict[str, Node],
        widths: tuple[int, int, int, int],
        target_mean_C: Tensor,
        w_qmax: int,
        per_channel: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        teacher_in, in_width, out_width, teacher_out = widths
        self.stage = Network(largest, w_qmax, generator, per_channel)
        self.before = nn.Parameter(torch.randn(in_width, teacher_in, 1, 1, generator=generator) * teacher_in**-0.5)
        # Starting at the mean of every channel, that is at an NSR loss of 1.
        self.after = nn.Parameter(torch.zeros(teacher_out, out_width, 1, 1))
        self.bias = nn.Parameter(target_mean_C.clone())

    def forward(self, source_BCHW: Tensor, program: Program) -> Tensor:
        """The student's copy of the teacher's feature map after the stage."""
        x_BCHW = self.project(source_BCHW, program)
        y_BCHW: Tensor = self.stage(x_BCHW, program)
        return F.conv2d(y_BCHW, self.after[:, : program[-1].out_shape.channels], self.bias)

    def project(self, source_BCHW: Tensor, program: Program) -> Tensor:
        """The stage's input: the teacher's feature map projected to the program's input width."""
        return F.conv2d(source_BCHW, self.before[: program[0].in_shape.channels])


@dataclass(frozen=True, eq=False)
class _Cell:
    """A student, and what it is trained and scored on.

    Attributes:
        elastic: The stage over the widths of all windows.
        in_widths: Ascending widths that its input may have.
        features: The teacher's maps.
        num_train: How many images it is trained on; the others are held out.
        student: What is trained, with its projections.
    """

    elastic: ElasticStage
    in_widths: tuple[int, ...]
    features: StageFeatures
    num_train: int
    student: Student

    def program(self, stage: Stage, in_width: int, resolution: int) -> Program:
        return stage_program(stage, Shape(in_width, *self.features.in_sizes[resolution]))

    def sandwich(self, rng: random.Random, resolution: int) -> list[Program]:
        stages = [self.elastic.sample(rng) for _ in range(NUM_RANDOM)]
        return [
            self.program(self.elastic.largest(), self.in_widths[-1], resolution),
            self.program(self.elastic.smallest(), self.in_widths[0], resolution),
            *(self.program(stage, rng.choice(self.in_widths), resolution) for stage in stages),
        ]

    @torch.no_grad()
    def held_out_loss(self, stage: Stage, in_width: int, resolution: int) -> float:
        # Batch statistics of the scored images: recalibration and scoring in one pass.
        source = self.features.sources[resolution][self.num_train :].float()
        target = self.features.targets[resolution][self.num_train :].float()
        y_BCHW = self.student(source, self.program(stage, in_width, resolution))
        return nsr_loss(y_BCHW, target, self.features.power_C).item()

    def loss_of_largest(self) -> float:
        return self.held_out_loss(self.elastic.largest(), self.in_widths[-1], max(self.features.sources))

    def loss_of_smallest(self) -> float:
        return self.held_out_loss(self.elastic.smallest(), self.in_widths[0], max(self.features.sources))

    @torch.no_grad()
    def calibration(self, rng: random.Random, batch_size: int) -> list[tuple[Tensor, Program]]:
        inputs = []
        for resolution, maps in self.features.sources.items():
            source = maps[:batch_size].float()
            inputs += [(self.student.project(source, p), p) for p in self.sandwich(rng, resolution)]
        # Nodes that few sub-stages have need ranges too; the last resolution is the largest.
        seen = {node.id for _, p in inputs for node in p}
        for _ in range(loop.MAX_CALIBRATION_DRAWS):
            for p in self.sandwich(rng, resolution):
                ids = {node.id for node in p}
                if not ids <= seen:
                    seen |= ids
                    inputs.append((self.student.project(source, p), p))
        return inputs


def distill_cell(
    hyperspace: Hyperspace,
    index: int,
    block: int,
    features: StageFeatures,
    settings: BlocksSettings,
    *,
    attempt: int = 0,
    w_qmax: int,
    per_channel: bool = True,
    seed: int,
    checkpoint: Path,
    progress: ProgressCallback,
) -> CellResult:
    """Train and score one (stage, block type), continuing from the checkpoint where there is one.

    What comes out is the same bit for bit, however often it was interrupted.

    Args:
        hyperspace: Gives the stage, its block types and the resolutions.
        index: Of the searched stage, from 0.
        block: Index of the block type.
        features: Of `load_features`; the last `score_images` images are held out.
        settings: Steps, rates, numbers of samples.
        attempt: From 0; each draws otherwise and halves the rate of the one before.
        w_qmax: Largest weight code of the target.
        per_channel: Whether each output channel of a weight learns a scale of its own.
        seed: Of the run; decides every random draw.
        checkpoint: Written every few seconds; the caller deletes it when the result is safe.
        progress: Called with work done and in all, as `cell_work` counts it.

    Raises:
        TrainingError: Holding out leaves no images to train on.
    """
    hyper_stage, resolutions = hyperspace.searched[index], hyperspace.resolutions
    num_images = len(features.sources[resolutions[0]])
    check_num_images(num_images, settings)
    purpose, peak = f"cell {hyper_stage.name} {block} attempt {attempt}", settings.lr * 0.5**attempt
    elastic, in_widths = hyper_stage.all_widths(block), in_widths_of(hyperspace, index)
    in_shapes = [Shape(width, *features.in_sizes[resolutions[-1]]) for width in in_widths]
    quantize, *_ = stage_program(elastic.largest(), in_shapes[-1])
    largest = {INPUT: quantize} | elastic.largest_nodes(in_shapes)
    widths = (
        features.sources[resolutions[0]].shape[1],
        in_widths[-1],
        elastic.widths[-1],
        features.targets[resolutions[0]].shape[1],
    )
    generator = torch_generator(seed, purpose, "weights")
    student = Student(largest, widths, features.mean_C, w_qmax, per_channel, generator)
    student.train()
    cell = _Cell(elastic, in_widths, features, num_images - settings.score_images, student)

    num_steps, last_saved = settings.steps_fp32 + settings.steps_int8, time.monotonic()
    done: dict[str, Any] = {"steps": 0, "curve": [], "nsr_fp32": math.inf, "losses": []}
    optimizer = _optimizer(student)
    if checkpoint.exists():
        tensors, done = load_tensors(checkpoint)
        put_weights(student, tensors, checkpoint)
        student.stage.quantized = done["quantized"]
        load_optimizer_state(student, optimizer, tensors)

    def note_progress() -> None:
        nonlocal last_saved
        scored = len(done["losses"]) * settings.score_images
        progress(done["steps"] * _step_work(settings) + scored, cell_work(hyperspace, index, settings))
        if time.monotonic() - last_saved > loop.SECONDS_BETWEEN_CHECKPOINTS:
            state = student.state_dict() | optimizer_state(student, optimizer)
            save_tensors(checkpoint, state, done | {"quantized": student.stage.quantized})
            last_saved = time.monotonic()

    for number in range(done["steps"], num_steps):
        phase, step, length = "fp32", number, settings.steps_fp32
        if number >= settings.steps_fp32:
            phase, step, length = "lsq+", number - settings.steps_fp32, settings.steps_int8
        if (phase, step) == ("lsq+", 0):
            done["nsr_fp32"] = cell.loss_of_largest()
            rng = python_random(seed, purpose, "calibration")
            student.stage.start_quantization(cell.calibration(rng, settings.batch_size))
            optimizer = _optimizer(student)
        for group in optimizer.param_groups:
            highest = peak if phase == "fp32" else INT8_RATE * peak
            group["lr"] = learning_rate(OF_CELLS, highest, step, length)
        loss = _step(cell, optimizer, settings.batch_size, seed, purpose, phase, step)
        if step % CURVE_EVERY == 0:
            done["curve"].append(loss)
        done["steps"] += 1
        note_progress()

    nsr_int8 = cell.loss_of_largest()
    failure = _failure(nsr_int8, cell.loss_of_smallest())
    rows: list[ScoredSubstage] = []
    for window in range(hyper_stage.num_windows):
        inside = hyper_stage.elastic(block, window)
        for resolution in resolutions:
            rng = python_random(seed, purpose, "substages", window, resolution)
            for _ in range(settings.substages):
                stage, in_width = inside.sample(rng), rng.choice(in_widths)
                if len(rows) == len(done["losses"]):
                    done["losses"].append(cell.held_out_loss(stage, in_width, resolution))
                    note_progress()
                rows.append(
                    ScoredSubstage(
                        window,
                        resolution,
                        Shape(in_width, *features.in_sizes[resolution]),
                        encode_blocks(stage),
                        done["losses"][len(rows)],
                        stage,
                    )
                )
    if not failure and not all(math.isfinite(row.nsr_loss) for row in rows):
        failure = "some sub-stages have losses that are not finite numbers"
    record = DistilledCell(
        stage=hyper_stage.name,
        block=block,
        block_type=str(elastic.choice.block_type),
        nsr_fp32=done["nsr_fp32"],
        nsr_int8=nsr_int8,
        curve=tuple(done["curve"]),
        attempts=attempt + 1,
        failure=failure,
    )
    return CellResult(record, tuple(rows))


def check_num_images(num_images: int, settings: BlocksSettings) -> None:
    """Whether images are left to distil from.

    Args:
        num_images: Training images.
        settings: Hold some of them out.

    Raises:
        TrainingError: There are none.
    """
    if num_images < settings.score_images + 2:
        raise TrainingError(
            f"{num_images} images are too few to distil from",
            found=f"blocks.score_images holds out {settings.score_images} of them",
            remedy="Lower blocks.score_images, or take more training images",
        )


def cell_work(hyperspace: Hyperspace, index: int, settings: BlocksSettings) -> int:
    """What one training of a cell of a stage costs: images that pass forward through a sub-stage.

    A step trains 2 + `NUM_RANDOM` sub-stages on a batch, and a backward pass counts as two; a sub-stage is scored by
    one pass of the held-out images.
    """
    num_rows = hyperspace.searched[index].num_windows * len(hyperspace.resolutions) * settings.substages
    return (settings.steps_fp32 + settings.steps_int8) * _step_work(settings) + num_rows * settings.score_images


def encode_blocks(stage: Stage) -> str:
    """`kernel_size#width#expand_ratio` per block, joined by `_`, as in the published tables.

    Several kernel sizes are joined by `+`; an axis that the block type adds follows as `#name=value`, with `-` for `_`.
    """
    return "_".join(map(_encode_block, stage.blocks))


def _encode_block(block: Block) -> str:
    added = (f"{name.replace('_', '-')}={to_text(value)}" for name, value in block.added)
    return "#".join((to_text(block.kernel_size), str(block.width), str(block.expand_ratio or None), *added))


def decode_blocks(text: str) -> tuple[Block, ...]:
    """The blocks that `encode_blocks` wrote.

    Raises:
        ValueError: It did not write this.

    >>> decode_blocks("5#24#None")
    (Block(width=24, kernel_size=5, expand_ratio=0.0, added=()),)
    >>> decode_blocks("3+5#24#2.0#groups=2")[0].choices
    (24, (3, 5), 2.0, 2)
    """
    return tuple(map(_decode_block, text.split("_")))


def _decode_block(text: str) -> Block:
    kernel_size, width, expand_ratio, *fields = text.split("#")
    choices = [int(width), from_text(kernel_size), 0.0 if expand_ratio == "None" else float(expand_ratio)]
    added = []
    for field in fields:
        name, _, value = field.partition("=")
        added.append(Axis(name.replace("-", "_"), ()))
        choices.append(from_text(value))
    return Block.of(choices, added)


def in_widths_of(hyperspace: Hyperspace, index: int) -> tuple[int, ...]:
    """Widths that the input of a searched stage may have: all of the stage before it."""
    names = [stage.name for stage in hyperspace.stages]
    return hyperspace.stages[names.index(hyperspace.searched[index].name) - 1].widths


def _step(
    cell: _Cell, optimizer: torch.optim.Optimizer, batch_size: int, seed: int, purpose: str, phase: str, step: int
) -> float:
    """One step of training; returns the loss of the largest sub-stage."""
    rng = python_random(seed, purpose, phase, step)
    resolution = rng.choice(list(cell.features.sources))
    indices = batch_indices(cell.num_train, batch_size, step, seed, f"{purpose} {phase}")
    source = cell.features.sources[resolution][indices].float()
    target = cell.features.targets[resolution][indices].float()
    optimizer.zero_grad(set_to_none=True)
    losses = []
    programs = cell.sandwich(rng, resolution)
    for program in programs:
        loss = nsr_loss(cell.student(source, program), target, cell.features.power_C)
        (loss / len(programs)).backward()
        losses.append(loss.item())
    torch.nn.utils.clip_grad_value_(cell.student.parameters(), CLIP_VALUE)
    optimizer.step()
    return losses[0]


def _optimizer(student: Student) -> torch.optim.AdamW:
    return torch.optim.AdamW(student.parameters(), weight_decay=1e-4, betas=(0.9, 0.98))


def _step_work(settings: BlocksSettings) -> int:
    return PASSES_PER_STEP * (2 + NUM_RANDOM) * settings.batch_size


def _failure(nsr_largest: float, nsr_smallest: float) -> str:
    """Why a cell's training must be taken as failed; empty where it must not."""
    if not math.isfinite(nsr_largest):
        return "the loss is not a finite number"
    if nsr_largest > FAILED_LOSS:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above {FAILED_LOSS}"
    if nsr_largest > nsr_smallest:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above the smallest one's {nsr_smallest:.3f}"
    return ""
