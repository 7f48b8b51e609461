"""Write report.html and summary.json.

One HTML file for people, one JSON file for programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import Manifest, write_atomically
from spaceevo.measure.campaign import is_busy_throughout, reference_ms
from spaceevo.progress import ProgressCallback
from spaceevo.records import PredictorSummary, SpaceSummary, StageTime, Summary, TrainingPoint, read_record
from spaceevo.report.data import ReportData
from spaceevo.report.html import render
from spaceevo.report.notebook import framed
from spaceevo.run.context import Context
from spaceevo.run.provenance import versions
from spaceevo.run.stage import Given, Stage
from spaceevo.stages import baselines, blocks, export, finetune, predict, space, study, subnets, supernet
from spaceevo.train.datasets import told

REPORT, SUMMARY = "report.html", "summary.json"


@dataclass(frozen=True)
class Report:
    """What a run came to.

    Attributes:
        summary: Its numbers.
        html: The page; it belongs into the run folder, where its links start.
    """

    summary: Summary
    html: str

    def _repr_html_(self) -> str:
        return framed(self.html)


class _Files:
    def save(self, value: Report, folder: Path) -> list[Path]:
        write_atomically(folder / REPORT, value.html)
        write_atomically(folder / SUMMARY, value.summary.model_dump_json(indent=1))
        return [folder / REPORT, folder / SUMMARY]

    def load(self, folder: Path, context: Context, given: Given) -> Report:
        return Report(read_record(Summary, folder / SUMMARY), (folder / REPORT).read_text(encoding="utf-8"))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Its name and what is told of the data; all else comes from the stages."""
    return {"name": context.recipe.name, "data": told(context.data)}


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> Report:
    """Collect the records and draw the page."""
    predicted, searched = given[predict.STAGE], given[space.STAGE]
    summary = _summary(context, given, folder)
    curves: dict[str, Sequence[TrainingPoint]] = {
        "teacher": given[blocks.STAGE].curve,
        "supernet": given[supernet.STAGE].curve,
    }
    for number, budget_ms in enumerate(predicted.budgets_ms):
        curves[f"found {budget_ms:g} ms"] = given[finetune.STAGE].curve(number)
        curves[f"baseline {budget_ms:g} ms"] = given[baselines.STAGE].curves[number]
    classes = given[export.STAGE].classes.models
    numbers = {number for model in classes for confusion in model.confusions for number in confusion.examples}
    data = ReportData(
        summary=summary,
        study=given[study.STAGE],
        assessment=predicted.assessment,
        cells=space.judged_cells(searched.result, given[blocks.STAGE].cells),
        table=searched.table,
        search=searched.result,
        hyperspace=context.hyperspace,
        curves={name: curve for name, curve in curves.items() if curve},
        subnets=given[subnets.STAGE].result,
        classes=classes,
        examples={number: context.data.val_images[number] for number in numbers},
        sections=given.sections(),
    )
    return Report(summary, render(data))


def _summary(context: Context, given: Given, folder: Path) -> Summary:
    manifests = [_manifest(folder.parent / stage.name) for stage in given.stages]
    assessment, search, exported = given[predict.STAGE].assessment, given[space.STAGE].result, given[export.STAGE]
    with context.store() as store:
        busy = is_busy_throughout(store, context.target)
        scaled_to_ms = reference_ms(store, context.target)
    shared = set(PredictorSummary.model_fields)
    return Summary(
        name=context.recipe.name,
        data=context.data.name,
        num_classes=context.data.num_classes,
        num_val_images=len(context.data.val_labels),
        num_train_images=len(context.data.train_labels),
        passed_over=context.data.passed_over,
        not_searched=context.not_searched,
        target=context.target,
        versions=versions(),
        busy=busy,
        reference_ms=scaled_to_ms,
        seed=context.recipe.seed,
        stages=tuple(StageTime(name=manifest.stage, seconds=manifest.seconds) for manifest in manifests),
        peak_rss_mib=max(manifest.peak_rss_mib for manifest in manifests),
        predictor=PredictorSummary.model_validate(assessment.model_dump(include=shared)),
        space=SpaceSummary(
            encoding=search.chosen.encoding,
            qt_score=search.chosen.qt_score,
            num_within_tolerance=len(search.within_tolerance),
        ),
        models=exported.models,
        baselines=exported.baselines,
        notes=given.notes(context),
    )


def _manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "stage.json").read_bytes())


STAGE: Stage[Report] = Stage(
    name="report",
    title="Write the report",
    needs=(
        *(study.STAGE, predict.STAGE, blocks.STAGE, space.STAGE, supernet.STAGE, subnets.STAGE, finetune.STAGE),
        *(baselines.STAGE, export.STAGE),
    ),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(REPORT, SUMMARY),
    published=(REPORT, SUMMARY),
    gathers=True,
)
