"""Stage 1: which operators and widths gain from INT8 on the target."""

from __future__ import annotations

from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.measure.study import block_types, study
from spaceevo.pipeline.context import Context
from spaceevo.progress import ProgressCallback
from spaceevo.records import Study, read_record

NAME = "study"
TITLE = "Study the target: INT8 against FP32 by operator type and width"
NEEDS: tuple[str, ...] = ()
FILES: tuple[str, ...] = ("study.json",)


def inputs(context: Context) -> dict[str, object]:
    """Target and what to measure."""
    return {
        "target": context.target.model_dump(),
        "study": context.recipe.study.model_dump(),
        "blocks": list(block_types(context.hyperspace)),
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Measure operator chains."""
    path = folder / "study.json"
    write_atomically(path, context.at_device(_study, progress).model_dump_json(indent=1))
    return [path]


def _study(context: Context, progress: ProgressCallback) -> Study:
    settings = context.recipe.study
    with context.store() as store:
        return study(
            context.target,
            store,
            context.work_dir,
            hyperspace=context.hyperspace,
            conv_widths=settings.conv_widths,
            widths=settings.widths,
            sizes=settings.sizes,
            progress=progress,
        )


def load(context: Context) -> Study:
    """The study."""
    return read_record(Study, context.path(NAME, "study.json"))
