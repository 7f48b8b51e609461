"""Stage 3: distil and quantize every (stage, block type) on its own; tabulate the quality of sub-stages."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError, TrainingError
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import DistilledCell, TrainingPoint
from spaceevo.spaces.subnet import stage_layers
from spaceevo.train.batches import split
from spaceevo.train.distillation import CellResult, distill_cell, stage_features
from spaceevo.train.teachers import Teacher, TrainedTeacher, load_module_teacher

NAME = "blocks"
TITLE = "Distil and quantize every block type on its own"
NEEDS: tuple[str, ...] = ()
TEACHER_SHARE = 0.3  # of the time, for the progress only


def inputs(context: Context) -> dict[str, object]:
    """Data, hyperspace, settings; of the target only what weights may be."""
    return {
        "data": context.data_hash,
        "hyperspace": repr(context.hyperspace),
        "blocks": context.recipe.blocks.model_dump(),
        "w_qmax": context.target.w_qmax,
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train the teacher, then every cell that is not there yet."""
    recipe, hyperspace, settings = context.recipe, context.hyperspace, context.recipe.blocks
    train_images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)
    num_taps = len(hyperspace.searched) + 1
    teacher: Teacher
    teacher_path = folder / "teacher.json"
    if settings.teacher_module:
        teacher = load_module_teacher(settings.teacher_module, num_taps)
        write_atomically(teacher_path, json.dumps({"module": settings.teacher_module, "curve": []}))
    else:
        teacher = TrainedTeacher(hyperspace, context.data.num_classes, recipe.seed)
        curve, top1 = teacher.fit(
            train_images,
            held_out,
            settings.teacher,
            recipe.data,
            seed=recipe.seed,
            folder=folder,
            progress=part(progress, 0, TEACHER_SHARE),
        )
        notes = {"top1_fp32": top1, "curve": [point.model_dump() for point in curve]}
        write_atomically(teacher_path, json.dumps(notes))
    images = train_images.take(slice(0, settings.num_images + settings.score_images))
    cells = [(index, block) for index, stage in enumerate(hyperspace.searched) for block in range(len(stage.choices))]
    done = sum(_cell_path(folder, *cell).exists() for cell in cells)
    cell_progress = part(progress, TEACHER_SHARE, 1)
    threads = torch.get_num_threads()

    def distill(index: int, block: int, features: Any) -> None:
        torch.set_num_threads(1)  # one cell per core beats one cell on all cores
        result = distill_cell(
            hyperspace, index, block, features, settings, w_qmax=context.target.w_qmax, seed=recipe.seed
        )
        write_atomically(_cell_path(folder, index, block), json.dumps(_cell_content(result)))
        return_free_memory()

    for index, stage in enumerate(hyperspace.searched):
        missing = [b for b in range(len(stage.choices)) if not _cell_path(folder, index, b).exists()]
        if missing:
            features = stage_features(hyperspace, index, teacher, images)
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(lambda b, i=index, f=features: distill(i, b, f), missing):
                    done += 1
                    cell_progress(done, len(cells))
    torch.set_num_threads(threads)
    table_path, cells_path = folder / "table.parquet", folder / "cells.json"
    contents = [_read_cell(_cell_path(folder, *cell)) for cell in cells]
    columns: dict[str, list[Any]] = {}
    for (index, block), content in zip(cells, contents, strict=True):
        for row in content["rows"]:
            for key, value in {"stage": index, "block": block, **row}.items():
                columns.setdefault(key, []).append(value)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomically(table_path, buffer.getvalue())
    write_atomically(cells_path, json.dumps([content["cell"] for content in contents]))
    for index, stage in enumerate(hyperspace.searched):
        own = [c["cell"] for (i, _), c in zip(cells, contents, strict=True) if i == index]
        if all(cell["failure"] for cell in own):
            raise TrainingError(
                f"The distillation of every block type of {stage.name} failed",
                found=own[0]["failure"],
                remedy="Raise blocks.steps_fp32, lower blocks.lr, or train the teacher longer",
            )
    teachers = [folder / "teacher-fp32.safetensors"] if not settings.teacher_module else []
    return [table_path, cells_path, teacher_path, *teachers]


def load_cells(context: Context) -> tuple[DistilledCell, ...]:
    """All cells, in order of stage and block type."""
    content = json.loads(context.path(NAME, "cells.json").read_text())
    return tuple(DistilledCell.model_validate(cell) for cell in content)


def load_curve(context: Context) -> list[TrainingPoint]:
    """The teacher's losses; empty for the user's own teacher."""
    content = json.loads(context.path(NAME, "teacher.json").read_text())
    return [TrainingPoint.model_validate(point) for point in content["curve"]]


def load_columns(context: Context) -> dict[str, list[Any]]:
    """Columns of the quality table."""
    table = pq.read_table(io.BytesIO(context.path(NAME, "table.parquet").read_bytes()))
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def _cell_path(folder: Path, index: int, block: int) -> Path:
    return folder / "cells" / f"{index}-{block}.json"


def _cell_content(result: CellResult) -> dict[str, Any]:
    rows = []
    for row in result.rows:
        layers = stage_layers(row.stage, row.in_width, row.in_size)
        rows.append(
            {
                "window": row.window,
                "resolution": row.resolution,
                "in_width": row.in_width,
                "in_size": row.in_size,
                "blocks": row.blocks,
                "nsr_loss": row.nsr_loss,
                "macs": sum(layer.macs for layer in layers),
                "num_params": sum(layer.num_params for layer in layers),
            }
        )
    return {"cell": result.cell.model_dump(), "rows": rows}


def _read_cell(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        DistilledCell.model_validate(content["cell"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not a distilled cell that spaceevo wrote",
            found=str(error).splitlines()[0],
            remedy="Delete it and run the same command again; the other cells are kept",
        ) from error
    return content
