"""How fast this machine trains, evaluates and measures what a recipe asks for: short pieces of the real work, timed."""

from __future__ import annotations

import platform
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from pydantic import ValidationError

from spaceevo.engines.local import num_workers
from spaceevo.errors import ArtifactError, TargetError
from spaceevo.graph.nodes import Program
from spaceevo.nets.network import program_of
from spaceevo.predict.fit import random_subnets
from spaceevo.progress import ProgressCallback, part, silent
from spaceevo.records import Rates
from spaceevo.run.context import Context
from spaceevo.run.jobs import measured_subnets, one_core
from spaceevo.run.memory import peak_rss_mib
from spaceevo.run.work import cell_macs, maps_macs, sandwich_of, typical_space
from spaceevo.seeding import python_random
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import Images, split, to_input
from spaceevo.train.distillation import all_cells, distill_cell
from spaceevo.train.evaluation import BATCH_SIZE, calibrated_top1
from spaceevo.train.loop import device_of, train
from spaceevo.train.stage_features import load_features, write_features
from spaceevo.train.supernet import make_supernet
from spaceevo.train.teachers import TrainedTeacher

PURPOSE = "rates"
NUM_MEASURED = 8
CELLS_PER_WORKER = 2
STEPS_PER_CELL = 8
SUBSTAGES = 2
EVALUATIONS_PER_WORKER = 2
#: A phase of the supernet's training is timed for so long, but for at least so many steps, the first ones left out.
SECONDS, MIN_STEPS, WARM_STEPS = 8.0, 4, 2


class _Enough(Exception):
    """Ends a training that is timed."""


def measure_rates(context: Context, space: SearchSpace, progress: ProgressCallback) -> Rates:
    """Time pieces of a recipe's work; takes about a minute for small images.

    Args:
        context: The recipe; its folder is used for the data's cache only.
        space: Whose supernet is trained: the one that was found, or `typical_space`.
        progress: Called with work done and in all.
    """
    with tempfile.TemporaryDirectory() as folder:
        _ = context.data, context.engine, context.target
        own = context.moved_to(Path(folder))
        measure_s = _measure_s(own, part(progress, 0, 0.2))
        supernet_fp32 = _supernet_rate(own, space, "fp32", part(progress, 0.2, 0.35))
        supernet_int8 = _supernet_rate(own, space, "lsq+", part(progress, 0.35, 0.5))
        teacher = _teacher_rate(own)
        cells = _cells(own, part(progress, 0.55, 0.85))
        typical = typical_space(context.hyperspace, context.data.num_classes)
        evaluate = _evaluation_rate(context, typical, part(progress, 0.85, 1))
    workers = num_workers(context.recipe.engine)
    return Rates(
        machine=f"{platform.processor() or platform.machine()}, {workers} cores, torch {torch.__version__}",
        workers=workers,
        supernet_fp32=supernet_fp32,
        supernet_int8=supernet_int8,
        teacher=teacher,
        gpus=torch.cuda.device_count() if device_of(context.recipe.supernet).type == "cuda" else 0,
        job_fp32=_rate([(one.fp32_macs, one.fp32_s) for one in cells]),
        job_int8=_rate([(one.int8_macs, one.int8_s) for one in cells]),
        job_score=_rate([(one.score_macs, one.score_s) for one in cells]),
        job_evaluate=evaluate,
        measure_s=measure_s,
        memory_mib=peak_rss_mib(),
        job_memory_mib=max(one.memory_mib for one in cells),
        waited=sum(one.wall_s for one in cells) / sum(one.fp32_s + one.int8_s + one.score_s for one in cells),
    )


def load_rates(path: Path) -> Rates:
    """Rates of a file, maybe of another machine.

    Raises:
        ArtifactError: It holds none.
    """
    try:
        return Rates.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        found = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            found = ": ".join([*map(str, first["loc"]), first["msg"]])
            found += f", it is {first['input']}" if isinstance(first["input"], float | int | str) else ""
        raise ArtifactError(
            f"{path} holds no speeds of a machine",
            found=found,
            remedy="Write such a file with: spaceevo plan RECIPE --save-rates FILE",
        ) from error


def holds_rates(path: Path) -> bool:
    """Whether a file is one of rates."""
    try:
        load_rates(path)
    except ArtifactError:
        return False
    return True


def _rate(pieces: Sequence[tuple[float, float]]) -> float:
    """Work per second over (work, seconds) pairs, their seconds of computing alone."""
    return sum(work for work, _ in pieces) / sum(seconds for _, seconds in pieces)


def _measure_s(context: Context, progress: ProgressCallback) -> float | None:
    """Seconds per network; None where the device cannot be measured now."""
    subnets = random_subnets(context.hyperspace, NUM_MEASURED, context.recipe.seed, PURPOSE, context.data.num_classes)
    try:
        measured_subnets(context, subnets[:1], ("int8",), silent)  # the reference, which is measured once
        start = time.monotonic()
        measured_subnets(context, subnets[1:], ("int8",), progress)
    except TargetError:
        return None
    return (time.monotonic() - start) / (NUM_MEASURED - 1)


def _supernet_rate(context: Context, space: SearchSpace, phase: str, progress: ProgressCallback) -> float:
    """MACs per second of a phase."""
    recipe = context.recipe
    images, *_ = split(context.data, recipe.data.search_share, recipe.seed)
    images = images.take(slice(recipe.supernet.batch_size))  # one batch: an epoch is a step
    network = make_supernet(space, context.target.w_qmax, recipe.seed, recipe.supernet.per_channel)
    sandwich = sandwich_of(recipe, context.hyperspace, space)
    macs = 0.0
    times: list[float] = []

    def sample(rng: random.Random) -> list[Program]:
        nonlocal macs
        subnets = sandwich.draw(recipe.supernet.num_random, rng)
        macs = sum(subnet.macs for subnet in subnets) * len(images)
        return [program_of(subnet) for subnet in subnets]

    pieces: list[tuple[float, float]] = []

    def note(done: int, total: int) -> None:
        times.append(time.monotonic())
        timed = times[WARM_STEPS:] if phase == "fp32" else times[1 + WARM_STEPS :]
        if len(timed) > 1:
            pieces.append((macs, timed[-1] - timed[-2]))
            progress(round(1000 * min(1.0, (timed[-1] - timed[0]) / SECONDS)), 1000)
            if timed[-1] - timed[0] > SECONDS and len(pieces) >= MIN_STEPS:
                raise _Enough

    epochs = {"epochs_fp32": 1e6 if phase == "fp32" else 1.0, "epochs_int8": 1e6}
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        train(
            network, sample, images, recipe.supernet.model_copy(update=epochs), recipe.data,
            seed=recipe.seed, purpose=PURPOSE, folder=Path(folder), progress=note,
        )  # fmt: skip
    return median(macs / seconds for macs, seconds in pieces)  # other work may have come in between


def _teacher_rate(context: Context) -> float:
    """MACs per second of the teacher; leaves its maps in the context's folder."""
    recipe, hyperspace = context.recipe, context.hyperspace
    images, *_ = split(context.data, recipe.data.search_share, recipe.seed)
    images = images.take(slice(2 * recipe.blocks.batch_size + recipe.blocks.score_images))
    teacher = TrainedTeacher(hyperspace, context.data.num_classes, recipe.seed)
    start = time.monotonic()
    write_features(hyperspace, range(len(hyperspace.searched)), teacher, images, context.run.path)
    return maps_macs(hyperspace, context.data.num_classes, len(images)) / (time.monotonic() - start)


@dataclass(frozen=True)
class _CellTimes:
    fp32_macs: float
    int8_macs: float
    score_macs: float
    fp32_s: float
    int8_s: float
    score_s: float
    wall_s: float
    memory_mib: float


def _cells(context: Context, progress: ProgressCallback) -> list[_CellTimes]:
    """Random cells, as many at a time as there are workers."""
    rng = python_random(context.recipe.seed, PURPOSE, "cells")
    cells = all_cells(context.hyperspace)
    chosen = [rng.choice(cells) for _ in range(CELLS_PER_WORKER * num_workers(context.recipe.engine))]
    return [times for _, times in context.engine.map(partial(_time_cell, context), chosen, progress)]


def _time_cell(context: Context, cell: tuple[int, int], progress: ProgressCallback) -> _CellTimes:
    hyperspace, recipe = context.hyperspace, context.recipe
    steps = {"steps_fp32": STEPS_PER_CELL + 1, "steps_int8": STEPS_PER_CELL + 1, "substages": SUBSTAGES}
    settings = recipe.blocks.model_copy(update=steps)
    times: list[float] = []
    walls: list[float] = []

    def note(done: int, total: int) -> None:
        times.append(time.process_time())  # on one core: what other work takes of it does not count
        walls.append(time.monotonic())
        progress(done, total)

    with one_core(), tempfile.TemporaryDirectory() as folder:
        distill_cell(
            hyperspace, *cell, load_features(hyperspace, cell[0], context.run.path), settings,
            w_qmax=context.target.w_qmax, per_channel=recipe.supernet.per_channel, seed=recipe.seed,
            checkpoint=Path(folder) / "checkpoint", progress=note,
        )  # fmt: skip
    end_fp32, end_int8 = STEPS_PER_CELL, 2 * STEPS_PER_CELL + 1  # positions; the first step of a phase is left out
    macs = cell_macs(hyperspace, *cell, settings)
    share = STEPS_PER_CELL / (STEPS_PER_CELL + 1)
    return _CellTimes(
        macs.fp32 * share,
        macs.int8 * share,
        macs.score,
        times[end_fp32] - times[0],
        times[end_int8] - times[end_fp32 + 1],
        times[-1] - times[end_int8],
        walls[-1] - walls[0] - (walls[end_fp32 + 1] - walls[end_fp32]),
        peak_rss_mib(),
    )


def _evaluation_rate(context: Context, space: SearchSpace, progress: ProgressCallback) -> float:
    """MACs per second of evaluating random subnets of a quantized supernet."""
    rng = python_random(context.recipe.seed, PURPOSE, "evaluations")
    count = num_workers(context.recipe.engine)
    jobs = [[space.sample(rng) for _ in range(EVALUATIONS_PER_WORKER)] for _ in range(count)]
    return _rate([piece for _, piece in context.engine.map(partial(_time_evaluations, context, space), jobs, progress)])


def _time_evaluations(
    context: Context, space: SearchSpace, subnets: list[Subnet], progress: ProgressCallback
) -> tuple[float, float]:
    recipe = context.recipe
    images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)
    held_out = held_out.take(slice(recipe.subnets.num_images))
    network = make_supernet(space, context.target.w_qmax, recipe.seed, recipe.supernet.per_channel)
    with one_core():
        network.start_quantization([(_input(images, one), program_of(one)) for one in (space.largest(), *subnets)])
        network.arithmetic = context.arithmetic
        start = time.process_time()
        for number, subnet in enumerate(subnets):
            calibrated_top1(network, program_of(subnet), images, recipe.subnets.recalibration_batches, held_out)
            progress(number + 1, len(subnets))
        seconds = time.process_time() - start
    num_images = min(len(images), recipe.subnets.recalibration_batches * BATCH_SIZE) + len(held_out)
    return sum(subnet.macs for subnet in subnets) * num_images, seconds


def _input(images: Images, subnet: Subnet) -> torch.Tensor:
    return to_input(images.take(slice(16)).pixels, subnet.resolution)
