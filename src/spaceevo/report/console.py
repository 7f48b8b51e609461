"""The compact tables of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.table import Table
from rich.text import Text

from spaceevo.records import Comparison, Measured, ModelResult, PredictorAssessment, Study, Summary, Verification
from spaceevo.report import words
from spaceevo.report.comparison import COLUMNS, areas, rows

#: Columns of a comparison that 80 letters have room for.
NARROW = ("Space", "Budget", "INT8", "INT8 top-1", "FP32 top-1", "Speed-up")


def summary_table(summary: Summary) -> Table:
    """One line per model and baseline, by ascending budget.

    Every cell is plain text, so that names of the user's are never read as markup.
    """
    target = summary.target
    table = _table(
        f"{summary.data} on {target.name}",
        f"top-1 on {summary.num_val_images:,} validation images; latency measured",
    )
    for header in ("budget", "network"):
        table.add_column(header, no_wrap=True)
    for header in ("INT8", "predicted", "INT8 top-1", "FP32 top-1", "speed-up"):
        table.add_column(header, justify="right", no_wrap=True)
    previous: float | None = None
    for model, _ in words.named_models(summary):
        if previous not in (None, model.budget_ms):
            table.add_row()
        previous = model.budget_ms
        table.add_row(*_cells(model), style="bold" if model.origin == "found" else "")
    return table


def verification_table(verifications: Sequence[Verification]) -> Table:
    """One line per file: its top-1, then how it compares with the fake-quantized network and with the integers."""
    counts = sorted({one.num_images for one in verifications})
    table = _table(
        f"Exported files on {', '.join(f'{count:,}' for count in counts)} images, against what was trained",
        "Against the fake-quantized network: class, the same top-1; code, logits on the same 8-bit code; mean and "
        "max, difference of logits in such codes. Against exact integers as the runtime rounds: exact, the same "
        "top-1. " + ", ".join(dict.fromkeys(one.runtime for one in verifications)),
    )
    table.add_column("model", overflow="fold")
    table.add_column("runtime", no_wrap=True)
    for header in ("top-1", "class", "code", "mean", "max", "exact"):
        table.add_column(header, justify="right", no_wrap=True)
    for one in verifications:
        against = one.fake_quantized
        shares = [words.share(value) for value in (against.top1, against.identical_codes, one.integer.top1)]
        values = (
            one.file.rsplit("-int8", 1)[0],
            one.runtime.split()[0],
            words.percent(one.top1),
            *shares[:2],
            f"{against.mean_steps:.3f}",
            f"{against.max_steps:.2f}",
            shares[2],
        )
        table.add_row(*map(Text, values), style="red" if one.problems else "")
    return table


def study_table(study: Study) -> Table:
    """One line per operator type: how many times faster INT8 is than FP32, by size of the feature map."""
    target = study.target
    table = _table(
        f"INT8 against FP32 on {target.name}: {target.device}",
        f"How many times faster INT8 is, median over the widths. {target.runtime} {target.runtime_version}",
    )
    table.add_column("operator", no_wrap=True)
    sizes = sorted({row.size for row in study.rows})
    for size in sizes:
        table.add_column(f"{size} × {size}", justify="right")
    speedups: dict[str, dict[int, list[float]]] = {}
    for row in study.rows:
        speedups.setdefault(row.operator, {}).setdefault(row.size, []).append(row.speedup)
    for operator, by_size in speedups.items():
        values = [words.times(median(by_size[size])) if size in by_size else words.NO_VALUE for size in sizes]
        table.add_row(Text(operator), *map(Text, values))
    return table


def measured_table(target: str, found: Sequence[Measured], metrics: Sequence[str]) -> Table:
    """One line per model: its latency with the 95 % interval, then other metrics."""
    has_batches = any(one.batch > 1 for one in found)
    notes = [words.BUSY] if any(one.measurement.busy for one in found) else []
    notes += [f"ms{' and metrics' * bool(metrics)}: of an inference, of so many images as its batch"] * has_batches
    table = _table(f"Measured on {target}", " ".join(notes))
    table.add_column("model", overflow="fold")
    table.add_column("precision", no_wrap=True)
    for header in ("ms", "95 % interval", *(("batch", "ms per image") if has_batches else ())):
        table.add_column(header, justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right")
    for one in found:
        own = one.measurement
        values = [f"{one.metrics[metric]:.4g}" if metric in one.metrics else words.NO_VALUE for metric in metrics]
        interval = f"{own.low_ms:.4g} – {own.high_ms:.4g}"
        batch = [str(one.batch), f"{one.ms_per_image:.4g}"] if has_batches else []
        table.add_row(*map(Text, (one.name, one.precision, f"{own.latency_ms:.4g}", interval, *batch, *values)))
    return table


def assessment_table(assessment: PredictorAssessment) -> Table:
    """How well a predictor does on networks that it has not seen."""
    table = _table(f"Fitted on {assessment.num_fit} networks, judged on {assessment.num_unseen} others", "")
    for header in ("within 5 %", "within 10 %", "mean error", "rank correlation"):
        table.add_column(header, justify="right")
    shares = (assessment.within_5_percent, assessment.within_10_percent, assessment.mape)
    table.add_row(*(Text(words.percent(share)) for share in shares), words.correlation(assessment.spearman))
    return table


def comparison_tables(comparison: Comparison) -> tuple[Table, Table]:
    """Networks of every space by budget, means over the seeds; and the hypervolumes, the highest first."""
    seeds = len(comparison.seeds)
    networks = _table(f"{comparison.data} on {comparison.target.name}", f"means over {seeds} seed{'s' * (seeds > 1)}")
    for title in NARROW:
        networks.add_column(title, justify="left" if title == "Space" else "right", no_wrap=True)
    previous = ""
    for row in rows(comparison):
        if previous not in ("", row[0]):
            networks.add_row()
        previous = row[0]
        values = [Text(value) for title, value in zip(COLUMNS, row, strict=True) if title in NARROW]
        networks.add_row(*values, style="bold" if row[0] == comparison.spaces[0].name else "")
    covered = _table("Hypervolume: area under INT8 top-1 over INT8 latency", "higher is better")
    covered.add_column("Space", no_wrap=True)
    for title in ("Mean", "95 % interval"):
        covered.add_column(title, justify="right", no_wrap=True)
    for own in areas(comparison):
        covered.add_row(*map(Text, own))
    return networks, covered


def _table(title: str, caption: str) -> Table:
    return Table(
        title=Text(title),
        caption=Text(caption),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )


def _cells(model: ModelResult) -> list[Text]:
    values = (
        words.budget(model.budget_ms),
        "found" if model.origin == "found" else "baseline",
        words.ms(model.int8_ms),
        words.ms(model.predicted_ms),
        words.percent(model.top1_int8),
        words.percent(model.top1_fp32),
        words.times(model.speedup),
    )
    return [Text(value) for value in values]
