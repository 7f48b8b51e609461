"""Block-wise distillation: every (stage, block type) learns the teacher's stage on its own (SpaceEvo, Section 4.2).

A student is one elastic stage over the widths of all windows between two 1x1 projections, from the teacher's
feature map before the stage to the one after it. It is trained with the sandwich rule on the NSR loss, FP32
then LSQ+. Then sub-stages are sampled from every width window and scored: quality only, since latency belongs to
a target and is joined later.

Shapes: N images, B batch, C channels, H height, W width, P positions of all maps.
"""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.artifacts import storage_errors, write_atomically
from spaceevo.config import BlocksSettings
from spaceevo.errors import ArtifactError, TrainingError
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
from spaceevo.train.batches import Images, batch_indices, equal_parts, to_input, torch_generator
from spaceevo.train.checkpoints import (
    load_optimizer_state,
    load_tensors,
    optimizer_state,
    put_weights,
    save_tensors,
)
from spaceevo.train.losses import nsr_loss
from spaceevo.train.schedule import CLIP_VALUE, OF_CELLS, learning_rate
from spaceevo.train.teachers import Size, Teacher, map_sizes

MAX_ATTEMPTS = 2
FEATURE_BATCH = 128
POSITIONS_AT_ONCE = 2**16  # of a map, that sums in float64 are taken over
NUM_RANDOM = 2
CURVE_EVERY = 5
INT8_RATE = 0.25  # of the rate of the FP32 phase
PASSES_PER_STEP = 3  # a backward pass takes about as long as two forward passes
#: Index of a searched stage, index of one of its block types.
Cell = tuple[int, int]


@dataclass(frozen=True, eq=False)
class StageFeatures:
    """The teacher's feature maps around one stage, at every resolution, in files that are mapped to memory.

    Attributes:
        sources: By resolution, [N, C_in, H, W] float16, channels last: before the stage.
        targets: By resolution, [N, C_out, H', W'] float16, channels last: after it.
        mean_C: [C_out], mean of each target channel.
        power_C: [C_out], variance of each target channel, 0 for constant channels.
        in_sizes: By resolution, height and width of the student's input.
        out_sizes: By resolution, height and width of the student's output.
    """

    sources: dict[int, Tensor]
    targets: dict[int, Tensor]
    mean_C: Tensor
    power_C: Tensor
    in_sizes: dict[int, Size]
    out_sizes: dict[int, Size]


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


def write_features(
    hyperspace: Hyperspace, indices: Sequence[int], teacher: Teacher, images: Images, folder: Path
) -> None:
    """Run the teacher once over the images at every resolution and keep what some stages need.

    The maps take 2 bytes per value on disk; of memory this needs a batch of `FEATURE_BATCH` images. What is there
    already is not written again; of an interrupted run nothing counts but whole files.

    Args:
        hyperspace: Gives resolutions and strides.
        indices: Of the searched stages, from 0.
        teacher: Gives the feature maps.
        images: All images of the distillation; the last ones are held out for scoring.
        folder: For the maps and their moments, `TAP-RESOLUTION.npy` and `TAP-moments.npy`.

    Raises:
        NoSpaceError: The folder has no room for the maps.
    """
    taps = {tap for index in indices for tap in (index, index + 1)}
    missing = sorted(tap for tap in taps if not _moments_path(folder, tap).exists())
    if not missing:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    moments: dict[int, Tensor] = {}  # by tap, [2, C]
    for resolution in hyperspace.resolutions:
        sizes = map_sizes(hyperspace, resolution)
        sums: dict[int, list[Tensor]] = {tap: [] for tap in missing}
        shapes: dict[int, tuple[int, ...]] = {}
        with storage_errors(folder), ExitStack() as stack:
            files = {tap: stack.enter_context(_partial(folder, tap, resolution).open("wb")) for tap in missing}
            for pixels in equal_parts(images.pixels, FEATURE_BATCH):
                features = teacher.features(to_input(pixels, resolution))
                for tap, file in files.items():
                    x_BHWC = _resized(features[tap], sizes[tap]).half().permute(0, 2, 3, 1).contiguous()
                    if tap not in shapes:
                        shapes[tap] = (len(images), *x_BHWC.shape[1:])
                        header = {"descr": "<f2", "fortran_order": False, "shape": shapes[tap]}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(x_BHWC.numpy().data)
                    for x_PC in x_BHWC.flatten(0, 2).split(POSITIONS_AT_ONCE):
                        sums[tap].append(torch.stack((x_PC.double().sum(0), x_PC.double().square().sum(0))))
        for tap, shape in shapes.items():  # of the largest resolution, which comes last
            moments[tap] = _mean_and_power(torch.stack(sums[tap]).sum(0), math.prod(shape[:3]))
    for tap in missing:
        for resolution in hyperspace.resolutions:
            _partial(folder, tap, resolution).replace(_maps_path(folder, tap, resolution))
        buffer = io.BytesIO()
        np.save(buffer, moments[tap].numpy())
        write_atomically(_moments_path(folder, tap), buffer.getvalue())


def load_features(hyperspace: Hyperspace, index: int, folder: Path) -> StageFeatures:
    """What `write_features` keeps of one stage, mapped to memory.

    Args:
        hyperspace: As it was written for.
        index: Of the searched stage, from 0.
        folder: Of the maps.

    Raises:
        ArtifactError: Something is missing or damaged.
    """

    def read(path: Path) -> Tensor:
        try:
            return torch.from_numpy(np.load(path, "c"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path}, feature maps of the teacher, cannot be read",
                found=str(error),
                remedy=f"Delete {folder} and run the same command again; finished cells are kept",
            ) from error

    def maps(tap: int) -> dict[int, Tensor]:
        return {r: read(_maps_path(folder, tap, r)).permute(0, 3, 1, 2) for r in hyperspace.resolutions}

    sizes = {resolution: map_sizes(hyperspace, resolution) for resolution in hyperspace.resolutions}
    mean_C, power_C = read(_moments_path(folder, index + 1))
    return StageFeatures(
        maps(index),
        maps(index + 1),
        mean_C,
        power_C,
        {resolution: of_taps[index] for resolution, of_taps in sizes.items()},
        {resolution: of_taps[index + 1] for resolution, of_taps in sizes.items()},
    )


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


def _mean_and_power(sums: Tensor, count: int) -> Tensor:
    """Mean and variance of each channel, from the sums [2, C] of the values and of their squares."""
    mean_C = sums[0] / count
    power_C = (sums[1] - count * mean_C.square()) / max(1, count - 1)
    power_C[power_C < 1e-6 * power_C.max()] = 0
    return torch.stack((mean_C, power_C)).float()


def _failure(nsr_largest: float, nsr_smallest: float) -> str:
    """Why a cell's training must be taken as failed; empty where it must not."""
    if not math.isfinite(nsr_largest):
        return "the loss is not a finite number"
    if nsr_largest > FAILED_LOSS:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above {FAILED_LOSS}"
    if nsr_largest > nsr_smallest:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above the smallest one's {nsr_smallest:.3f}"
    return ""


def _maps_path(folder: Path, tap: int, resolution: int) -> Path:
    return folder / f"{tap}-{resolution}.npy"


def _moments_path(folder: Path, tap: int) -> Path:
    """Written last: with it the maps of a tap are there."""
    return folder / f"{tap}-moments.npy"


def _partial(folder: Path, tap: int, resolution: int) -> Path:
    return folder / f".{tap}-{resolution}.tmp"


def _resized(x_BCHW: Tensor, size: Size) -> Tensor:
    return x_BCHW if tuple(x_BCHW.shape[-2:]) == size else F.adaptive_avg_pool2d(x_BCHW, size)
