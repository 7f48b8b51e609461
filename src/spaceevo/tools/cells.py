"""A folder of distilled cells, one file per training of a (stage, block type); their quality, tabulated.

FOLDER/distillation.json     what the cells depend on; of a target only its largest weight code
FOLDER/teacher.json          the teacher's losses, or its name
FOLDER/cells/S-B.json        the training of block type B of stage S
FOLDER/cells/S-B-again.json  the second one, where it was needed
FOLDER/maps/                 the teacher's feature maps, until every cell is there
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from spaceevo.artifacts import content_hash, read_file
from spaceevo.config import BlocksSettings, DataSettings
from spaceevo.errors import ArtifactError
from spaceevo.graph import identity
from spaceevo.ownership import MARKER
from spaceevo.records import DistilledCell, QualityTable, Record, read_record
from spaceevo.search.tables import doubts
from spaceevo.spaces.hyperspace import Hyperspace, load_hyperspace
from spaceevo.train.distillation import (
    MAX_ATTEMPTS,
    Cell,
    all_cells,
)

NOTES, TEACHER, TEACHER_WEIGHTS, MAPS = "distillation.json", "teacher.json", "teacher-fp32.safetensors", "maps"
MAP_FILES = ("[0-9]*-*.npy", ".[0-9]*-[0-9]*.tmp")
CELL_FILES = ("cells/[0-9]*-[0-9]*.json",)
#: Patterns of all files that a folder of cells may hold.
FILES = (
    *(NOTES, TEACHER, "teacher-*.safetensors", "tensorboard/*", MARKER),
    *(*CELL_FILES, "cells/*-checkpoint.safetensors", "cells/*.lock", *(f"{MAPS}/{name}" for name in MAP_FILES)),
)


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


def missing(hyperspace: Hyperspace, folder: Path, wanted: Collection[Cell]) -> list[tuple[Cell, int]]:
    """Trainings that are wanted and not there; second ones of a stage once all its first ones are there."""
    found: list[tuple[Cell, int]] = []
    for index in range(len(hyperspace.searched)):
        own = [cell for cell in sorted(wanted) if cell[0] == index]
        first = [(cell, 0) for cell in own if not cell_path(folder, cell, 0).exists()]
        found += first
        if own and not first and _is_complete(hyperspace, folder, index):
            suspects = _suspects(hyperspace, folder, index)
            found += [(cell, 1) for cell in own if cell in suspects and not cell_path(folder, cell, 1).exists()]
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
    missing = [cell for cell in cells if not cell_path(folder, cell, 0).exists()]
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
    found = [cell for cell in all_cells(hyperspace) if cell_path(folder, cell, 0).exists()]
    return [(cell, _better(folder, cell).cell) for cell in found]


def load_distillation(folder: Path) -> tuple[Distillation, Hyperspace]:
    """What the cells of a folder depend on, and their hyperspace.

    Raises:
        ArtifactError: It holds no cells, or those of a preset that has changed since, or may have.
    """
    about = read_record(Distillation, folder / NOTES)
    hyperspace = load_hyperspace(about.hyperspace)
    check_hyperspace(about, hyperspace, folder)
    return about, hyperspace


def check_hyperspace(about: Distillation, hyperspace: Hyperspace, folder: Path) -> None:
    """Refuse cells that are not known to be of what a hyperspace holds now.

    Raises:
        ArtifactError: They are of another one, or of a version that cannot be compared.
    """
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


def renewed(noted: Distillation, hyperspace: Hyperspace) -> Distillation:
    """Notes of a hyperspace, maybe of an earlier version, as they would be written now."""
    if not _is_of(noted, hyperspace):
        return noted
    hashed = {"hyperspace_hash": identity.identity(hyperspace), "hyperspace_format": identity.FORMAT}
    return noted.model_copy(update=hashed)


def failed_cells(hyperspace: Hyperspace, cells: Sequence[DistilledCell]) -> frozenset[Cell]:
    """The cells that no space may use."""
    names = [stage.name for stage in hyperspace.searched]
    return frozenset((names.index(cell.stage), cell.block) for cell in cells if cell.failure)


def cell_path(folder: Path, cell: Cell, attempt: int) -> Path:
    """The file of a training of a cell; the second attempt has one of its own."""
    index, block = cell
    return folder / "cells" / f"{index}-{block}{'-again' if attempt else ''}.json"


def checkpoint_path(folder: Path, cell: Cell, attempt: int) -> Path:
    """Where a training of a cell keeps how far it is, until it has ended."""
    path = cell_path(folder, cell, attempt)
    return path.with_name(f"{path.stem}-checkpoint.safetensors")


def _is_complete(hyperspace: Hyperspace, folder: Path, index: int) -> bool:
    return all(cell_path(folder, cell, 0).exists() for cell in all_cells(hyperspace) if cell[0] == index)


def _suspects(hyperspace: Hyperspace, folder: Path, index: int) -> set[Cell]:
    """Cells of a stage whose first training failed, or looks wrong beside the first ones of the others."""
    trainings = {cell: _read_cell(cell_path(folder, cell, 0)) for cell in all_cells(hyperspace) if cell[0] == index}
    failed = {cell for cell, training in trainings.items() if training.cell.failure}
    return failed | {(doubt.stage, doubt.block) for doubt in doubts(_quality(trainings))}


def _better(folder: Path, cell: Cell) -> CellTraining:
    """The training that counts, with the number of all."""
    paths = (cell_path(folder, cell, attempt) for attempt in range(MAX_ATTEMPTS))
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


def lacks_digest(path: Path) -> bool:
    """Whether a cell that is whole carries no hash, as earlier versions wrote it.

    Raises:
        ArtifactError: It is damaged.
    """
    _read_cell(path)
    return b'"sha256"' not in read_file(path)
