"""Block-wise distillation: every (stage, block type) learns the teacher's stage on its own (SpaceEvo, Section 4.2).

A student is one elastic stage over the widths of all windows between two 1x1 projections, from the teacher's
feature map before the stage and to the one after it. It is trained with the sandwich rule on the NSR loss, FP32
then LSQ+. Then sub-stages are sampled from every width window and scored: quality only, since latency belongs to
a target and is joined later.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.config import BlocksSettings
from spaceevo.errors import TrainingError
from spaceevo.nets.network import Network, Program
from spaceevo.records import DistilledCell
from spaceevo.seeding import python_random
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.layers import INPUT
from spaceevo.spaces.operators import Operator, operators
from spaceevo.spaces.subnet import Stage, stage_layers
from spaceevo.train.batches import Images, batch_indices, equal_parts, to_input, torch_generator
from spaceevo.train.losses import nsr_loss
from spaceevo.train.teachers import Teacher

FAILED_LOSS = 0.95
MAX_ATTEMPTS = 2
FEATURE_BATCH = 128
NUM_RANDOM = 2
CURVE_EVERY = 5
MAX_CALIBRATION_DRAWS = 60


@dataclass(frozen=True, eq=False)
class StageFeatures:
    """The teacher's feature maps around one stage, at every resolution.

    Attributes:
        sources: By resolution, [N, C_in, H, H] float16: before the stage.
        targets: By resolution, [N, C_out, H', H'] float16: after it.
        mean_C: [C_out], mean of each target channel.
        power_C: [C_out], variance of each target channel, 0 for constant channels.
        in_sizes: By resolution, height = width of the student's input.
        out_sizes: By resolution, height = width of the student's output.
    """

    sources: dict[int, Tensor]
    targets: dict[int, Tensor]
    mean_C: Tensor
    power_C: Tensor
    in_sizes: dict[int, int]
    out_sizes: dict[int, int]


@dataclass(frozen=True, slots=True)
class ScoredSubstage:
    """One row of the block table, without latency."""

    window: int
    resolution: int
    in_width: int
    blocks: str
    nsr_loss: float
    stage: Stage
    in_size: int


@dataclass(frozen=True, eq=False)
class CellResult:
    """A distilled (stage, block type) with its scored sub-stages."""

    cell: DistilledCell
    rows: tuple[ScoredSubstage, ...]


def stage_features(hyperspace: Hyperspace, index: int, teacher: Teacher, images: Images) -> StageFeatures:
    """Run the teacher once over the images at every resolution and keep what one stage needs.

    Args:
        hyperspace: Gives resolutions and strides.
        index: Of the searched stage, from 0.
        teacher: Gives the feature maps.
        images: All images of the distillation; the last ones are held out for scoring.
    """
    sources, targets, in_sizes, out_sizes = {}, {}, {}, {}
    for resolution in hyperspace.resolutions:
        in_size, out_size = _stage_sizes(hyperspace, index, resolution)
        before, after = [], []
        for pixels in equal_parts(images.pixels, FEATURE_BATCH):
            features = teacher.features(to_input(pixels, resolution))
            before.append(_resized(features[index], in_size).half())
            after.append(_resized(features[index + 1], out_size).half())
        sources[resolution], targets[resolution] = torch.cat(before), torch.cat(after)
        in_sizes[resolution], out_sizes[resolution] = in_size, out_size
    largest = targets[hyperspace.resolutions[-1]].float()
    power_C = largest.var((0, 2, 3))
    power_C[power_C < 1e-6 * power_C.max()] = 0
    return StageFeatures(sources, targets, largest.mean((0, 2, 3)), power_C, in_sizes, out_sizes)


class Student(nn.Module):
    """An elastic stage between two 1x1 projections."""

    def __init__(
        self,
        largest: dict[str, Operator],
        widths: tuple[int, int, int, int],
        target_mean_C: Tensor,
        w_qmax: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        teacher_in, in_width, out_width, teacher_out = widths
        self.stage = Network(largest, w_qmax, generator)
        self.before = nn.Parameter(torch.randn(in_width, teacher_in, 1, 1, generator=generator) * teacher_in**-0.5)
        # Starting at the mean of every channel, that is at an NSR loss of 1.
        self.after = nn.Parameter(torch.zeros(teacher_out, out_width, 1, 1))
        self.bias = nn.Parameter(target_mean_C.clone())

    def forward(self, source_BCHW: Tensor, program: Program) -> Tensor:
        """The student's copy of the teacher's feature map after the stage."""
        x_BCHW = self.project(source_BCHW, program)
        y_BCHW = self.stage(x_BCHW, program)
        assert isinstance(y_BCHW, Tensor)
        return F.conv2d(y_BCHW, self.after[:, : program[-1].out_channels], self.bias)

    def project(self, source_BCHW: Tensor, program: Program) -> Tensor:
        """The stage's input: the teacher's feature map projected to the program's input width."""
        return F.conv2d(source_BCHW, self.before[: program[0].in_channels])


def distill_cell(
    hyperspace: Hyperspace,
    index: int,
    block: int,
    features: StageFeatures,
    settings: BlocksSettings,
    *,
    w_qmax: int,
    seed: int,
) -> CellResult:
    """Train and score one (stage, block type); a failed training is done again once, slower and otherwise seeded.

    Args:
        hyperspace: The hyperspace.
        index: Of the searched stage, from 0.
        block: Index of the block type.
        features: Of `stage_features`; the last `score_images` images are held out.
        settings: Steps, rates, numbers of samples.
        w_qmax: Largest weight code of the target.
        seed: Of the run.

    Raises:
        TrainingError: Holding out leaves no images to train on.
    """
    num_images = len(features.sources[hyperspace.resolutions[0]])
    if num_images < settings.score_images + 2:
        raise TrainingError(
            f"{num_images} images are too few to distil from",
            found=f"blocks.score_images holds out {settings.score_images} of them",
            remedy="Lower blocks.score_images, or take more training images",
        )
    stage = hyperspace.searched[index]
    for attempt in range(MAX_ATTEMPTS):
        purpose = f"cell {stage.name} {block} attempt {attempt}"
        lr = settings.lr * 0.5**attempt
        cell, rows = _train_and_score(hyperspace, index, block, features, settings, lr, w_qmax, seed, purpose)
        cell = cell.model_copy(update={"attempts": attempt + 1})
        if not cell.failure:
            break
    return CellResult(cell, rows)


def encode_blocks(stage: Stage) -> str:
    """`kernel_size#width#expand_ratio` per block, joined by `_`, as in the published tables."""
    return "_".join(f"{block.kernel_size}#{block.width}#{block.expand_ratio or None}" for block in stage.blocks)


def in_widths_of(hyperspace: Hyperspace, index: int) -> tuple[int, ...]:
    """Widths that the input of a searched stage may have: all of the stage before it."""
    names = [stage.name for stage in hyperspace.stages]
    return hyperspace.stages[names.index(hyperspace.searched[index].name) - 1].widths


def _train_and_score(
    hyperspace: Hyperspace,
    index: int,
    block: int,
    features: StageFeatures,
    settings: BlocksSettings,
    lr: float,
    w_qmax: int,
    seed: int,
    purpose: str,
) -> tuple[DistilledCell, tuple[ScoredSubstage, ...]]:
    hyper_stage = hyperspace.searched[index]
    elastic = hyper_stage.all_widths(block)
    in_widths = in_widths_of(hyperspace, index)
    resolutions = hyperspace.resolutions
    num_train = len(features.sources[resolutions[0]]) - settings.score_images

    def program(stage: Stage, in_width: int, resolution: int) -> Program:
        return operators(stage_layers(stage, in_width, features.in_sizes[resolution]))

    largest_stage, smallest_stage = elastic.largest(), elastic.smallest()
    input_operator = program(largest_stage, in_widths[-1], resolutions[-1])[0]
    largest = {INPUT: input_operator} | elastic.maximal_operators(in_widths, features.in_sizes[resolutions[-1]])
    widths = (
        features.sources[resolutions[0]].shape[1],
        in_widths[-1],
        elastic.widths[-1],
        features.targets[resolutions[0]].shape[1],
    )
    student = Student(largest, widths, features.mean_C, w_qmax, torch_generator(seed, purpose, "weights"))
    student.train()

    def sandwich(rng: random.Random, resolution: int) -> list[Program]:
        stages = [elastic.sample(rng) for _ in range(NUM_RANDOM)]
        return [
            program(largest_stage, in_widths[-1], resolution),
            program(smallest_stage, in_widths[0], resolution),
            *(program(stage, rng.choice(in_widths), resolution) for stage in stages),
        ]

    def held_out_loss(stage: Stage, in_width: int, resolution: int) -> float:
        # Batch statistics of the scored images: recalibration and scoring in one pass.
        source = features.sources[resolution][num_train:].float()
        target = features.targets[resolution][num_train:].float()
        with torch.no_grad():
            return nsr_loss(student(source, program(stage, in_width, resolution)), target, features.power_C).item()

    curve: list[float] = []
    nsr_fp32 = math.inf
    for phase, num_steps, peak in (("fp32", settings.steps_fp32, lr), ("lsq+", settings.steps_int8, lr / 4)):
        if phase == "lsq+":
            nsr_fp32 = held_out_loss(largest_stage, in_widths[-1], resolutions[-1])
            calibration = []
            rng = python_random(seed, purpose, "calibration")
            for resolution in resolutions:
                source = features.sources[resolution][: settings.batch_size].float()
                with torch.no_grad():
                    calibration += [(student.project(source, p), p) for p in sandwich(rng, resolution)]
            # Operators that few sub-stages have need ranges too.
            seen = {operator.name for _, p in calibration for operator in p}
            source = features.sources[resolutions[-1]][: settings.batch_size].float()
            for _ in range(MAX_CALIBRATION_DRAWS):
                for p in sandwich(rng, resolutions[-1]):
                    own = {operator.name for operator in p}
                    if not own <= seen:
                        seen |= own
                        with torch.no_grad():
                            calibration.append((student.project(source, p), p))
            student.stage.start_quantization(calibration)
        optimizer = torch.optim.AdamW(student.parameters(), lr=peak, weight_decay=1e-4, betas=(0.9, 0.98))
        for step in range(num_steps):
            rng = python_random(seed, purpose, phase, step)
            resolution = rng.choice(resolutions)
            indices = batch_indices(num_train, settings.batch_size, step, seed, f"{purpose} {phase}")
            source = features.sources[resolution][indices].float()
            target = features.targets[resolution][indices].float()
            for group in optimizer.param_groups:
                warm = min(1.0, (step + 1) / (0.1 * num_steps))
                group["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimizer.zero_grad(set_to_none=True)
            programs = sandwich(rng, resolution)
            for number, one in enumerate(programs):
                loss = nsr_loss(student(source, one), target, features.power_C)
                (loss / len(programs)).backward()
                if number == 0 and step % CURVE_EVERY == 0:
                    curve.append(loss.item())
            torch.nn.utils.clip_grad_value_(student.parameters(), 1.0)
            optimizer.step()

    nsr_int8 = held_out_loss(largest_stage, in_widths[-1], resolutions[-1])
    nsr_smallest = held_out_loss(smallest_stage, in_widths[0], resolutions[-1])
    failure = _failure(nsr_int8, nsr_smallest)
    rows: list[ScoredSubstage] = []
    for window in range(hyper_stage.num_windows):
        inside = hyper_stage.elastic(block, window)
        for resolution in resolutions:
            rng = python_random(seed, purpose, "substages", window, resolution)
            for _ in range(settings.substages):
                stage, in_width = inside.sample(rng), rng.choice(in_widths)
                loss_value = held_out_loss(stage, in_width, resolution)
                rows.append(
                    ScoredSubstage(
                        window,
                        resolution,
                        in_width,
                        encode_blocks(stage),
                        loss_value,
                        stage,
                        features.in_sizes[resolution],
                    )
                )
    if not failure and not all(math.isfinite(row.nsr_loss) for row in rows):
        failure = "some sub-stages have losses that are not finite numbers"
    cell = DistilledCell(
        stage=hyper_stage.name,
        block=block,
        block_type=str(elastic.choice.block_type),
        nsr_fp32=nsr_fp32,
        nsr_int8=nsr_int8,
        curve=tuple(curve),
        attempts=1,
        failure=failure,
    )
    return cell, tuple(rows)


def _failure(nsr_largest: float, nsr_smallest: float) -> str:
    """Why a cell's training must be taken as failed; empty where it must not."""
    if not math.isfinite(nsr_largest):
        return "the loss is not a finite number"
    if nsr_largest > FAILED_LOSS:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above {FAILED_LOSS}"
    if nsr_largest > nsr_smallest:
        return f"the largest sub-stage has NSR {nsr_largest:.3f}, above the smallest one's {nsr_smallest:.3f}"
    return ""


def _stage_sizes(hyperspace: Hyperspace, index: int, resolution: int) -> tuple[int, int]:
    size = resolution
    for stage in hyperspace.stages:
        before, size = size, (size - 1) // stage.stride + 1
        if stage.name == hyperspace.searched[index].name:
            break
    return before, size


def _resized(x_BCHW: Tensor, size: int) -> Tensor:
    return x_BCHW if x_BCHW.shape[-1] == size else F.adaptive_avg_pool2d(x_BCHW, size)
