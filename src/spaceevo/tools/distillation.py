"""Distil and quantize the cells of a hyperspace, each on its own, in a folder that several processes may share.

A cell needs no other cell: each of them and the teacher has a lock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo import interrupts
from spaceevo.artifacts import content_hash, remove_own, storage_errors, write_atomically
from spaceevo.errors import ArtifactError
from spaceevo.graph import identity
from spaceevo.locks import claim
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import read_record
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.run.memory import return_free_memory
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.subnet import stage_program
from spaceevo.tools.cells import (
    MAP_FILES,
    MAPS,
    NOTES,
    TEACHER,
    CellTraining,
    Distillation,
    Substage,
    cell_path,
    check_hyperspace,
    checkpoint_path,
    missing,
    renewed,
)
from spaceevo.train.batches import split
from spaceevo.train.distillation import (
    MAX_ATTEMPTS,
    PASSES_PER_STEP,
    Cell,
    CellResult,
    all_cells,
    cell_work,
    distill_cell,
)
from spaceevo.train.stage_features import load_features, write_features
from spaceevo.train.teachers import Teacher, TrainedTeacher, load_teacher

RETRIED_SHARE = 0.05  # of the cells' time, for the progress only
SECONDS_BETWEEN_LOOKS = 1.0


def distillation_of(context: Context, w_qmax: int) -> Distillation:
    """What the cells of a recipe depend on."""
    recipe = context.recipe
    return Distillation(
        hyperspace=context.hyperspace.name,
        hyperspace_hash=identity.identity(context.hyperspace),
        hyperspace_format=identity.FORMAT,
        data=context.data_settings,
        data_hash=context.data_hash,
        num_classes=context.data.num_classes,
        settings=recipe.blocks,
        w_qmax=w_qmax,
        per_channel=recipe.supernet.per_channel,
        seed=recipe.seed,
    )


def distil(
    context: Context, w_qmax: int, folder: Path, wanted: Collection[Cell], progress: ProgressCallback
) -> list[Cell]:
    """Train the teacher, then those of some cells that are not there yet.

    When a stage is complete, its cells that failed or that other cells call in doubt are trained once more, with
    another seed and half the rate; the better training counts. Nothing of a target is needed but `w_qmax`.

    Args:
        context: Data, hyperspace and settings.
        w_qmax: Largest weight code.
        folder: For teacher and cells; other processes may work there, on other cells.
        wanted: Cells that shall be there at the end.
        progress: Called with work done and in all.

    Returns:
        The cells that other processes work on.

    Raises:
        ArtifactError: The folder holds cells that depend on something else, or a damaged one.
        RecipeError: The teacher cannot be loaded.
        TrainingError: The teacher does not fit, or there are too few images.
        EngineError: The engine lost a training again and again.
    """
    hyperspace, settings, seed = context.hyperspace, context.recipe.blocks, context.recipe.seed
    _check_notes(distillation_of(context, w_qmax), hyperspace, folder)
    train_images, *_ = split(context.data, context.recipe.data.search_share, seed)
    teacher_share = _teacher_share(context, len(train_images))
    teacher = _teacher(context, folder, part(progress, 0, teacher_share))
    images = train_images.take(slice(0, settings.num_images + settings.score_images))

    first = missing(hyperspace, folder, wanted)
    if not first:
        _clear(hyperspace, folder)
        return []
    stages = sorted({index for (index, _), _ in first})
    _when_free(
        folder / "cells" / "maps.lock", lambda: write_features(hyperspace, stages, teacher, images, folder / MAPS)
    )
    elsewhere: list[Cell] = []
    shares = (teacher_share, 1 - RETRIED_SHARE * (1 - teacher_share), 1.0)
    for attempt in range(MAX_ATTEMPTS):
        own = [job for job in missing(hyperspace, folder, wanted) if job[1] == attempt]
        jobs = [_Training(context, w_qmax, folder.absolute(), *job) for job in own]
        sizes = [cell_work(hyperspace, index, settings) for (index, _), _ in own]
        report = part(progress, shares[attempt], shares[attempt + 1])
        for number, is_ours in context.engine.map(_train, jobs, report, sizes):
            if not is_ours:
                elsewhere.append(jobs[number].cell)
    _clear(hyperspace, folder)
    progress(1, 1)
    return elsewhere


def _clear(hyperspace: Hyperspace, folder: Path) -> None:
    """Once all cells are there, delete what only trainings need; one that was killed at its end leaves a checkpoint."""
    if not missing(hyperspace, folder, all_cells(hyperspace)):
        remove_own(folder / MAPS, MAP_FILES)
        for path in folder.glob("cells/*-checkpoint.safetensors"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Training:
    """One training of a cell."""

    context: Context
    w_qmax: int
    folder: Path
    cell: Cell
    attempt: int

    def __str__(self) -> str:
        return f"{self.context.hyperspace.searched[self.cell[0]].name}, block {self.cell[1]}"


def _train(job: _Training, progress: ProgressCallback) -> bool:
    """Train a cell unless it is there; whether no other process is at it."""
    path, checkpoint = (
        cell_path(job.folder, job.cell, job.attempt),
        checkpoint_path(job.folder, job.cell, job.attempt),
    )
    claimed = _claim(path.with_suffix(".lock"))
    if claimed is None:
        return False
    with claimed:
        if not path.exists():
            hyperspace, recipe = job.context.hyperspace, job.context.recipe
            with one_core():
                result = distill_cell(
                    hyperspace,
                    *job.cell,
                    load_features(hyperspace, job.cell[0], job.folder / MAPS),
                    recipe.blocks,
                    attempt=job.attempt,
                    w_qmax=job.w_qmax,
                    per_channel=recipe.supernet.per_channel,
                    seed=recipe.seed,
                    checkpoint=checkpoint,
                    progress=progress,
                )
            content = _training(result).model_dump()
            write_atomically(path, json.dumps({**content, "sha256": content_hash(content)}))
        checkpoint.unlink(missing_ok=True)
    return_free_memory()
    return True


def _teacher_share(context: Context, num_images: int) -> float:
    """Of the time, by the images that pass through whole networks: a stage counts as its part of one."""
    settings, stages = context.recipe.blocks, context.hyperspace.searched
    if settings.teacher_network:
        return 0.0
    epochs = settings.teacher.epochs_fp32 + settings.teacher.epochs_int8
    own = PASSES_PER_STEP * epochs * num_images
    of_stages = [cell_work(context.hyperspace, index, settings) for index in range(len(stages))]
    cells = sum(len(stage.choices) * work for stage, work in zip(stages, of_stages, strict=True))
    return own / (own + cells / len(stages))


def _teacher(context: Context, folder: Path, progress: ProgressCallback) -> Teacher:
    recipe, path = context.recipe, folder / TEACHER
    if location := recipe.blocks.teacher_network:
        loaded = load_teacher(location, context.hyperspace)
        write_atomically(path, json.dumps({"network": location, "curve": []}))
        return loaded
    teacher = TrainedTeacher(context.hyperspace, context.data.num_classes, recipe.seed)
    train_images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)

    def fit() -> None:
        curve, top1 = teacher.fit(
            train_images,
            held_out,
            recipe.blocks.teacher,
            recipe.data,
            seed=recipe.seed,
            folder=folder,
            progress=progress,
        )
        notes = {"top1_fp32": top1, "curve": [point.model_dump() for point in curve]}
        write_atomically(path, json.dumps(notes))

    _when_free(folder / "cells" / "teacher.lock", fit)
    return teacher


def _when_free(lock: Path, work: Callable[[], None]) -> None:
    """Wait until no other process is at it."""
    while True:
        if claimed := _claim(lock):
            with claimed:
                work()
            return
        interrupts.check()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _claim(lock: Path) -> AbstractContextManager[object] | None:
    with storage_errors(lock):
        return claim(lock)


def _check_notes(about: Distillation, hyperspace: Hyperspace, folder: Path) -> None:
    path = folder / NOTES
    if not path.exists():
        write_atomically(path, about.model_dump_json(indent=1))
        return
    noted = read_record(Distillation, path)
    if noted.hyperspace == hyperspace.name:
        check_hyperspace(noted, hyperspace, folder)
    found = renewed(noted, hyperspace)
    if found != about:
        then, now = _flat(found.model_dump()), _flat(about.model_dump())
        keys = [key for key in then | now if then.get(key) != now.get(key)]
        raise ArtifactError(
            f"{folder} holds cells that were distilled otherwise",
            found="; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in keys),
            remedy="Ask for the same again, or choose another folder with `place`",
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _training(result: CellResult) -> CellTraining:
    rows = []
    for row in result.rows:
        program = stage_program(row.stage, row.in_shape)
        rows.append(
            Substage(
                window=row.window,
                resolution=row.resolution,
                in_width=row.in_shape.channels,
                in_size=row.in_shape.height,  # and its width, as resolutions are squares
                blocks=row.blocks,
                nsr_loss=row.nsr_loss,
                macs=sum(node.macs for node in program),
                num_params=sum(node.num_params for node in program),
            )
        )
    return CellTraining(cell=result.cell, rows=tuple(rows))
