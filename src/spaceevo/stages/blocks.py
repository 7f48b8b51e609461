"""Distil and quantize every block type on its own; fill the block table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from spaceevo.artifacts import write_atomically
from spaceevo.errors import TrainingError
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import DistilledCell, QualityTable, TrainingPoint, read_record
from spaceevo.run.context import Context
from spaceevo.run.planning import Computed, Planning, StageWork
from spaceevo.run.preflight import all_of, check_training, num_train
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.tools.block_table import write_table
from spaceevo.tools.cells import (
    CELL_FILES,
    FILES,
    NOTES,
    TEACHER,
    TEACHER_WEIGHTS,
    Distillation,
    lacks_digest,
    load_quality,
    renewed,
)
from spaceevo.tools.distillation import distil, distillation_of
from spaceevo.train.distillation import all_cells, check_num_images
from spaceevo.train.teachers import check_teacher, load_teacher

TABLE, CELLS = "table.parquet", "cells.json"


@dataclass(frozen=True)
class DistilledBlocks:
    """The quality of all blocks of a hyperspace.

    Attributes:
        table: Of sampled sub-stages.
        cells: One per (stage, block type), in order; those that no space may use have a failure.
        curve: The teacher's losses; empty for a teacher that was trained elsewhere.
    """

    table: QualityTable
    cells: tuple[DistilledCell, ...]
    curve: Sequence[TrainingPoint]


class _Files:
    def save(self, value: DistilledBlocks, folder: Path) -> list[Path]:
        write_table(folder / TABLE, vars(value.table))
        write_atomically(folder / CELLS, json.dumps([cell.model_dump() for cell in value.cells]))
        # The teacher's are there already; of one that was trained elsewhere there are no weights
        teacher = [folder / TEACHER_WEIGHTS] if value.curve else []
        return [folder / TABLE, folder / CELLS, folder / NOTES, folder / TEACHER, *teacher]

    def load(self, folder: Path, context: Context, given: Given) -> DistilledBlocks:
        columns = pq.read_table(io.BytesIO((folder / TABLE).read_bytes())).to_pydict()
        cells = json.loads((folder / CELLS).read_text(encoding="utf-8"))
        return DistilledBlocks(
            QualityTable(**{name: np.asarray(values) for name, values in columns.items()}),
            tuple(DistilledCell.model_validate(cell) for cell in cells),
            _curve(folder),
        )


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Data, hyperspace, settings; of the target only what weights may be."""
    about, path = distillation_of(context, context.target.w_qmax), folder / NOTES
    if path.exists() and renewed(noted := read_record(Distillation, path), context.hyperspace) == about:
        # What an earlier version finished stays finished
        about = about.model_copy(update=noted.model_dump(include={"hyperspace_hash", "hyperspace_format"}))
    return about.model_dump(exclude=None if about.hyperspace_format else {"hyperspace_format"})


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> DistilledBlocks:
    """Train the teacher, then every cell that is not there yet."""
    distil(context, context.target.w_qmax, folder, all_cells(context.hyperspace), progress)
    table, cells = load_quality(context.hyperspace, folder)
    for stage in context.hyperspace.searched:
        of_stage = [cell for cell in cells if cell.stage == stage.name]
        if all(cell.failure for cell in of_stage):
            raise TrainingError(
                f"The distillation of every block type of {stage.name} failed",
                found=of_stage[0].failure,
                remedy="Raise blocks.steps_fp32, lower blocks.lr, or train the teacher longer",
            )
    return DistilledBlocks(table, cells, _curve(folder))


def _curve(folder: Path) -> list[TrainingPoint]:
    content = json.loads((folder / TEACHER).read_text(encoding="utf-8"))
    return [TrainingPoint.model_validate(point) for point in content["curve"]]


def _check_here(context: Context) -> None:
    settings = context.recipe.blocks
    if location := settings.teacher_network:
        check_teacher(load_teacher(location, context.hyperspace), location, context.hyperspace)
    else:
        check_training(settings.teacher, silent)


def _check_data(context: Context) -> list[str]:
    settings, hyperspace, images = context.recipe.blocks, context.hyperspace, num_train(context)
    check_num_images(images, settings)
    distilled = images - settings.score_images
    notes = all_of("blocks.num_images", settings.num_images, distilled, "training images that are left")
    notes += all_of("blocks.batch_size", settings.batch_size, min(distilled, settings.num_images), "of them")
    size, largest = context.recipe.data.image_size, hyperspace.resolutions[-1]
    if size < largest:
        notes.append(
            f"data.image_size is {size}, and {hyperspace.name} reads up to {largest} pixels: smaller images are "
            "enlarged."
        )
    return notes


def _work(planning: Planning) -> StageWork:
    work, settings = planning.work, planning.recipe.blocks
    taught = planning.training(work.teacher, 0.0, settings.teacher.device) if work.teacher else Computed()
    return StageWork(taught + (planning.maps(work.maps) + planning.cells(work.cells)), disk_mib=work.maps_mib)


STAGE: Stage[DistilledBlocks] = Stage(
    name="blocks",
    title="Distil and quantize every block type on its own",
    needs=(),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(TABLE, CELLS, *FILES),
    own_digests=dict.fromkeys(CELL_FILES, lacks_digest),
    checks=Checks(here=_check_here, data=_check_data),
    work=_work,
)
