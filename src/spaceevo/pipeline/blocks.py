"""Stage 3: distil and quantize every (stage, block type) on its own; tabulate the quality of sub-stages.

    FOLDER/distillation.json     what the cells depend on; of a target only its largest weight code
    FOLDER/teacher.json          the teacher's losses, or its name
    FOLDER/cells/S-B.json        the training of block type B of stage S
    FOLDER/cells/S-B-again.json  the second one, where it was needed
    FOLDER/maps/                 the teacher's feature maps, until every cell is there

A cell needs no other cell, so several processes may work in one folder: each cell and the teacher has a lock.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spaceevo import interrupts
from spaceevo.artifacts import content_hash, read_file, remove_own, storage_errors, write_atomically
from spaceevo.config import BlocksSettings, DataSettings
from spaceevo.errors import ArtifactError, TrainingError
from spaceevo.graph import identity
from spaceevo.graph.tensors import square
from spaceevo.locks import claim
from spaceevo.ownership import MARKER
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.predict.features import kernel
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import BlockTable, DistilledCell, QualityTable, Record, TrainingPoint, read_record
from spaceevo.search.tables import doubts
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import Stage, network_program, stage_program
from spaceevo.train.batches import split
from spaceevo.train.distillation import (
    MAX_ATTEMPTS,
    PASSES_PER_STEP,
    CellResult,
    cell_work,
    decode_blocks,
    distill_cell,
    load_features,
    write_features,
)
from spaceevo.train.teachers import Teacher, TrainedTeacher, load_teacher

NAME = "blocks"
TITLE = "Distil and quantize every block type on its own"
NEEDS: tuple[str, ...] = ()
NOTES, TEACHER, TEACHER_WEIGHTS, MAPS = "distillation.json", "teacher.json", "teacher-fp32.safetensors", "maps"
RETRIED_SHARE = 0.05  # of the cells' time, for the progress only
MAP_FILES = ("[0-9]*-*.npy", ".[0-9]*-[0-9]*.tmp")
CELL_FILES = ("cells/[0-9]*-[0-9]*.json",)
FILES = (
    *("table.parquet", "cells.json", NOTES, TEACHER, "teacher-*.safetensors", "tensorboard/*", MARKER),
    *(*CELL_FILES, "cells/*-checkpoint.safetensors", "cells/*.lock", *(f"{MAPS}/{name}" for name in MAP_FILES)),
)
SECONDS_BETWEEN_LOOKS = 1.0
Cell = tuple[int, int]


class Distillation(Record):
    """What the cells of a folder depend on, `distillation.json`.

    Attributes:
        hyperspace: Name of the preset.
        hyperspace_hash: Of what it holds.
        hyperspace_format: Of the form that is hashed; 0 for that of earlier versions, which noted none.
        data: What counts of the settings of the data, beside the images.
        data_hash: Of all images and labels.
        num_classes: How many classes the data set has.
        settings: Of the teacher and the distillation.
        w_qmax: Largest weight code.
        per_channel: Whether each output channel of a weight learns a scale of its own.
        seed: All that is random follows from it.
    """

    hyperspace: str
    hyperspace_hash: str
    hyperspace_format: int = 0
    data: DataSettings
    data_hash: str
    num_classes: int
    settings: BlocksSettings
    w_qmax: int
    per_channel: bool
    seed: int


class Substage(Record):
    """A sub-stage as a distilled cell scored it.

    Attributes:
        window: Index of the width window.
        resolution: Input resolution of the network.
        in_width: Channels of its input.
        in_size: Height = width of its input.
        blocks: As `train.distillation.encode_blocks` writes them.
        nsr_loss: After LSQ+; may be no finite number.
        macs: For one image.
        num_params: Trained parameters, without quantizers.
    """

    window: int
    resolution: int
    in_width: int
    in_size: int
    blocks: str
    nsr_loss: float
    macs: int
    num_params: int


class CellTraining(Record):
    """One training of a cell, `cells/S-B.json`.

    Attributes:
        cell: How it went.
        rows: Sub-stages that it scored, in the order in which they were drawn.
    """

    cell: DistilledCell
    rows: tuple[Substage, ...]

    @property
    def rank(self) -> tuple[bool, float]:
        """Of trainings of a cell, the least counts: one that did not fail, then the one with the lowest mean loss."""
        loss = float(np.mean([row.nsr_loss for row in self.rows]))
        return bool(self.cell.failure), loss if np.isfinite(loss) else np.inf


def inputs(context: Context) -> dict[str, object]:
    """Data, hyperspace, settings; of the target only what weights may be."""
    about, path = distillation_of(context, context.target.w_qmax), context.path(NAME, NOTES)
    if path.exists() and _renewed(noted := read_record(Distillation, path), context.hyperspace) == about:
        # What an earlier version finished stays finished
        about = about.model_copy(update=noted.model_dump(include={"hyperspace_hash", "hyperspace_format"}))
    return about.model_dump(exclude=None if about.hyperspace_format else {"hyperspace_format"})


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train the teacher, then every cell that is not there yet."""
    distil(context, context.target.w_qmax, folder, all_cells(context.hyperspace), progress)
    table, cells = load_quality(context.hyperspace, folder)
    table_path, cells_path, teacher_path = folder / "table.parquet", folder / "cells.json", folder / TEACHER_WEIGHTS
    write_table(table_path, vars(table))
    write_atomically(cells_path, json.dumps([cell.model_dump() for cell in cells]))
    for stage in context.hyperspace.searched:
        own = [cell for cell in cells if cell.stage == stage.name]
        if all(cell.failure for cell in own):
            raise TrainingError(
                f"The distillation of every block type of {stage.name} failed",
                found=own[0].failure,
                remedy="Raise blocks.steps_fp32, lower blocks.lr, or train the teacher longer",
            )
    teachers = [] if context.recipe.blocks.teacher_network else [teacher_path]
    return [table_path, cells_path, folder / NOTES, folder / TEACHER, *teachers]


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


def all_cells(hyperspace: Hyperspace) -> list[Cell]:
    """(Index of the searched stage, index of the block type) of every cell."""
    return [(index, block) for index, stage in enumerate(hyperspace.searched) for block in range(len(stage.choices))]


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

    first = _missing(hyperspace, folder, wanted)
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
        own = [job for job in _missing(hyperspace, folder, wanted) if job[1] == attempt]
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
    if not _missing(hyperspace, folder, all_cells(hyperspace)):
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
        _cell_path(job.folder, job.cell, job.attempt),
        _checkpoint_path(job.folder, job.cell, job.attempt),
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


def _missing(hyperspace: Hyperspace, folder: Path, wanted: Collection[Cell]) -> list[tuple[Cell, int]]:
    """Trainings that are wanted and not there; second ones of a stage once all its first ones are there."""
    found: list[tuple[Cell, int]] = []
    for index in range(len(hyperspace.searched)):
        own = [cell for cell in sorted(wanted) if cell[0] == index]
        first = [(cell, 0) for cell in own if not _cell_path(folder, cell, 0).exists()]
        found += first
        if own and not first and _is_complete(hyperspace, folder, index):
            suspects = _suspects(hyperspace, folder, index)
            found += [(cell, 1) for cell in own if cell in suspects and not _cell_path(folder, cell, 1).exists()]
    return found


def load_quality(hyperspace: Hyperspace, folder: Path) -> tuple[QualityTable, tuple[DistilledCell, ...]]:
    """The quality table of a folder, and its cells; those that cannot be trusted have a failure.

    Args:
        hyperspace: That of the cells.
        folder: That `distil` was given.

    Returns:
        The rows of every cell's better training, and the cells in order of stage and block type.

    Raises:
        ArtifactError: A cell is missing or damaged.
    """
    cells = all_cells(hyperspace)
    missing = [cell for cell in cells if not _cell_path(folder, cell, 0).exists()]
    if missing:
        index, block = missing[0]
        raise ArtifactError(
            f"{folder} lacks {len(missing)} of {len(cells)} cells",
            found=f"the first one is {hyperspace.searched[index].name}, block {block}",
            remedy="Distil them first: run the same `spaceevo blocks distill` again",
        )
    trainings = {cell: _better(folder, cell) for cell in cells}
    table = _quality(trainings)
    failed = {(doubt.stage, doubt.block): doubt.reason for doubt in doubts(table) if doubt.is_failed}
    return table, tuple(
        training.cell.model_copy(update={"failure": training.cell.failure or failed.get(cell, "")})
        for cell, training in trainings.items()
    )


def trained_cells(hyperspace: Hyperspace, folder: Path) -> list[tuple[Cell, DistilledCell]]:
    """The cells of a folder that are there, their better trainings; others of a stage play no part yet."""
    found = [cell for cell in all_cells(hyperspace) if _cell_path(folder, cell, 0).exists()]
    return [(cell, _better(folder, cell).cell) for cell in found]


def load_distillation(folder: Path) -> tuple[Distillation, Hyperspace]:
    """What the cells of a folder depend on, and their hyperspace.

    Raises:
        ArtifactError: It holds no cells, or those of a preset that has changed since, or may have.
    """
    about = read_record(Distillation, folder / NOTES)
    hyperspace = load_hyperspace(about.hyperspace)
    _check_hyperspace(about, hyperspace, folder)
    return about, hyperspace


def _check_hyperspace(about: Distillation, hyperspace: Hyperspace, folder: Path) -> None:
    if _is_of(about, hyperspace):
        return
    if about.hyperspace_format == identity.FORMAT:
        raise ArtifactError(
            f"The cells in {folder} are of another hyperspace {hyperspace.name}",
            found="the preset has changed since they were distilled",
            remedy="Distil again, in another folder",
        )
    raise ArtifactError(
        f"The cells in {folder} are of another version of spaceevo, maybe of another hyperspace {hyperspace.name}",
        found=f"they name it in format {about.hyperspace_format}, this version in {identity.FORMAT}, and it cannot be "
        "shown that both mean the same",
        remedy="Distil again, in another folder, or go on with the version that distilled them",
    )


def _is_of(about: Distillation, hyperspace: Hyperspace) -> bool:
    """Whether cells are known to be of what a hyperspace holds now."""
    match about.hyperspace_format:
        case identity.FORMAT:
            return about.hyperspace_hash == identity.identity(hyperspace)
        case 0:
            # Earlier versions hashed the `repr`, in which blocks had no other choices than today's first three
            return about.hyperspace_hash == content_hash(repr(hyperspace).replace(", added=()", ""))
    return False


def _renewed(noted: Distillation, hyperspace: Hyperspace) -> Distillation:
    """Notes of a hyperspace, maybe of an earlier version, as they would be written now."""
    if not _is_of(noted, hyperspace):
        return noted
    hashed = {"hyperspace_hash": identity.identity(hyperspace), "hyperspace_format": identity.FORMAT}
    return noted.model_copy(update=hashed)


def failed_cells(hyperspace: Hyperspace, cells: Sequence[DistilledCell]) -> frozenset[Cell]:
    """The cells that no space may use."""
    names = [stage.name for stage in hyperspace.searched]
    return frozenset((names.index(cell.stage), cell.block) for cell in cells if cell.failure)


def with_latency(
    hyperspace: Hyperspace, table: QualityTable, failed: frozenset[Cell], predictor: LatencyPredictor
) -> BlockTable:
    """The block table of a target: quality joined with predicted latency.

    Raises:
        TargetError: The predictor knows nothing about an operator.
    """
    programs = []
    for index, block, text, in_width, in_size in zip(
        *(column.tolist() for column in (table.stage, table.block, table.blocks, table.in_width, table.in_size)),
        strict=True,
    ):
        hyper_stage = hyperspace.searched[index]
        block_type = hyper_stage.choices[block].block_type
        stage = Stage(hyper_stage.name, block_type, hyper_stage.stride, decode_blocks(text))
        programs.append(stage_program(stage, square(in_width, in_size)))
    predictor.prepare(chain.from_iterable(program[1:] for program in programs))
    latencies = np.array([predictor.stage_ms(program) for program in programs])
    columns = {name: values for name, values in vars(table).items() if name != "in_size"}
    return BlockTable(**columns, latency_ms=latencies, failed=failed)


def base_ms(hyperspace: Hyperspace, num_classes: int, predictor: LatencyPredictor) -> dict[int, float]:
    """By resolution, predicted latency of everything but the searched stages, at their smallest setting."""
    zeros = (0,) * len(hyperspace.searched)
    space = hyperspace.space(SpaceChoice(zeros, zeros), num_classes)
    searched = {stage.name for stage in hyperspace.searched}
    return {
        resolution: predictor.base_ms
        + sum(
            predictor.kernel_ms(kernel(node))
            for node in network_program(space.subnet(resolution, space.smallest().stages))
            if node.role.stage not in searched
        )
        for resolution in hyperspace.resolutions
    }


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns as parquet."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(path, buffer.getvalue())


def table_columns(table: BlockTable) -> dict[str, Any]:
    """A block table as columns, with one that tells which rows are of failed cells."""
    columns = {name: values for name, values in vars(table).items() if name != "failed" and values is not None}
    pairs = zip(table.stage.tolist(), table.block.tolist(), strict=True)
    return columns | {"failed": np.array([pair in table.failed for pair in pairs])}


def load_cells(context: Context) -> tuple[DistilledCell, ...]:
    """All cells, in order of stage and block type."""
    content = json.loads(context.path(NAME, "cells.json").read_text(encoding="utf-8"))
    return tuple(DistilledCell.model_validate(cell) for cell in content)


def load_curve(context: Context) -> list[TrainingPoint]:
    """The teacher's losses; empty for a teacher that was trained elsewhere."""
    content = json.loads(context.path(NAME, TEACHER).read_text(encoding="utf-8"))
    return [TrainingPoint.model_validate(point) for point in content["curve"]]


def load_table(context: Context) -> QualityTable:
    """The quality table."""
    table = pq.read_table(io.BytesIO(context.path(NAME, "table.parquet").read_bytes()))
    return QualityTable(**{name: np.asarray(values) for name, values in table.to_pydict().items()})


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
        _check_hyperspace(noted, hyperspace, folder)
    found = _renewed(noted, hyperspace)
    if found != about:
        then, now = _flat(found.model_dump()), _flat(about.model_dump())
        keys = [key for key in then | now if then.get(key) != now.get(key)]
        raise ArtifactError(
            f"{folder} holds cells that were distilled otherwise",
            found="; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in keys),
            remedy="Ask for the same again, or choose another folder with --out",
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _cell_path(folder: Path, cell: Cell, attempt: int) -> Path:
    index, block = cell
    return folder / "cells" / f"{index}-{block}{'-again' if attempt else ''}.json"


def _checkpoint_path(folder: Path, cell: Cell, attempt: int) -> Path:
    path = _cell_path(folder, cell, attempt)
    return path.with_name(f"{path.stem}-checkpoint.safetensors")


def _is_complete(hyperspace: Hyperspace, folder: Path, index: int) -> bool:
    return all(_cell_path(folder, cell, 0).exists() for cell in all_cells(hyperspace) if cell[0] == index)


def _suspects(hyperspace: Hyperspace, folder: Path, index: int) -> set[Cell]:
    """Cells of a stage whose first training failed, or looks wrong beside the first ones of the others."""
    trainings = {cell: _read_cell(_cell_path(folder, cell, 0)) for cell in all_cells(hyperspace) if cell[0] == index}
    failed = {cell for cell, training in trainings.items() if training.cell.failure}
    return failed | {(doubt.stage, doubt.block) for doubt in doubts(_quality(trainings))}


def _better(folder: Path, cell: Cell) -> CellTraining:
    """The training that counts, with the number of all."""
    paths = (_cell_path(folder, cell, attempt) for attempt in range(MAX_ATTEMPTS))
    trainings = [_read_cell(path) for path in paths if path.exists()]
    best = min(trainings, key=lambda training: training.rank)
    return best.model_copy(update={"cell": best.cell.model_copy(update={"attempts": len(trainings)})})


def _quality(trainings: Mapping[Cell, CellTraining]) -> QualityTable:
    """The sub-stages of some cells; latencies play no part."""
    rows = [(*cell, row) for cell, training in trainings.items() for row in training.rows]
    columns = {name: np.asarray([getattr(row, name) for *_, row in rows]) for name in Substage.model_fields}
    return QualityTable(
        stage=np.asarray([index for index, *_ in rows]), block=np.asarray([block for _, block, _ in rows]), **columns
    )


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


def _read_cell(path: Path) -> CellTraining:
    """A training of a cell; earlier versions wrote it without its hash."""
    try:
        content = json.loads(read_file(path))
        sha256 = content.pop("sha256", None)
        if sha256 not in (None, content_hash(content)):
            raise ValueError("Its content has another SHA-256 than was written")
        return CellTraining.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a distilled cell that spaceevo wrote",
            found=str(error).splitlines()[0],
            remedy="Delete it and run the same command again; the other cells are kept",
        ) from error


def check_cell(path: Path) -> bool:
    """Whether a cell that is whole carries its hash.

    Raises:
        ArtifactError: It is damaged.
    """
    _read_cell(path)
    return b'"sha256"' in read_file(path)
