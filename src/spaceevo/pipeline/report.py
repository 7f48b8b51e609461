"""Stage 10: one HTML file for people and one JSON file for programs."""

from __future__ import annotations

from pathlib import Path

from spaceevo.artifacts import Manifest, write_atomically
from spaceevo.measure.campaign import is_busy_throughout, reference_ms
from spaceevo.pipeline import baselines, blocks, export, finetune, predict, space, study, subnets, supernet
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.provenance import versions
from spaceevo.progress import ProgressCallback
from spaceevo.records import PredictorSummary, SpaceSummary, StageTime, Summary, read_record
from spaceevo.report.data import ReportData
from spaceevo.report.html import render
from spaceevo.train.datasets import told

NAME = "report"
TITLE = "Write the report"
NEEDS = tuple(stage.NAME for stage in (study, predict, blocks, space, supernet, subnets, finetune, baselines, export))
REPORT, SUMMARY = "report.html", "summary.json"
#: By stage, what it wants people to know, in the run and in the report.
NOTES = {predict.NAME: predict.notes, space.NAME: space.notes}
FILES = (REPORT, SUMMARY)


def inputs(context: Context) -> dict[str, object]:
    """Its name and what is told of the data; all else comes from the stages."""
    return {"name": context.recipe.name, "data": told(context.data)}


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Collect the records and write both files."""
    summary = _summary(context)
    curves = {"teacher": blocks.load_curve(context), "supernet": supernet.load_curve(context)}
    for number, budget_ms in enumerate(predict.load_budgets(context)):
        curves[f"found {budget_ms:g} ms"] = finetune.load_curve(context, number)
        curves[f"baseline {budget_ms:g} ms"] = baselines.load_curve(context, number)
    data = ReportData(
        summary=summary,
        study=study.load(context),
        assessment=predict.load_assessment(context),
        cells=space.judged_cells(context),
        table=space.load_table(context),
        search=space.load(context),
        hyperspace=context.hyperspace,
        curves={name: curve for name, curve in curves.items() if curve},
        subnets=subnets.load(context),
    )
    paths = [folder / REPORT, folder / SUMMARY]
    write_atomically(paths[0], render(data))
    write_atomically(paths[1], summary.model_dump_json(indent=1))
    return paths


def publish(context: Context) -> None:
    """Copy both files to the run folder itself, where people look and where the report's links start."""
    for name in (REPORT, SUMMARY):
        content, public = context.path(NAME, name).read_bytes(), context.run.path / name
        if not public.exists() or public.read_bytes() != content:
            write_atomically(public, content)


def load(context: Context) -> Summary:
    """The numbers of the run."""
    return read_record(Summary, context.path(NAME, SUMMARY))


def _summary(context: Context) -> Summary:
    manifests = [_manifest(context, name) for name in NEEDS]
    assessment, search = predict.load_assessment(context), space.load(context)
    models, handmade = export.load(context)
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
        models=models,
        baselines=handmade,
        notes=tuple(note for notes in NOTES.values() for note in notes(context)),
    )


def _manifest(context: Context, name: str) -> Manifest:
    return Manifest.model_validate_json(context.path(name, "stage.json").read_bytes())
