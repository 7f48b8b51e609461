"""Measure which operators and widths gain from INT8 on the target."""

from __future__ import annotations

from pathlib import Path

from spaceevo.measure.study import block_types, num_chains, study
from spaceevo.progress import ProgressCallback
from spaceevo.records import Study
from spaceevo.run.context import Context
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Given, RecordFile, Stage


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Target and what to measure."""
    return {
        "target": context.target.model_dump(),
        "study": context.recipe.study.model_dump(),
        "blocks": list(block_types(context.hyperspace)),
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> Study:
    """Measure operator chains."""
    return context.at_device(_study, progress)


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


def _work(planning: Planning) -> StageWork:
    settings = planning.recipe.study
    chains = num_chains(planning.work.hyperspace, settings.conv_widths, settings.widths, settings.sizes)
    return StageWork(measured=chains)


STAGE: Stage[Study] = Stage(
    name="study",
    title="Study the target: INT8 against FP32 by operator type and width",
    needs=(),
    inputs=_inputs,
    make=_make,
    artifact=RecordFile("study.json", Study),
    files=("study.json",),
    work=_work,
)
