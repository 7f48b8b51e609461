"""The compact table at the end of a run."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from spaceevo.records import ModelResult, Summary
from spaceevo.report import words


def summary_table(summary: Summary) -> Table:
    """One line per model and baseline, by ascending budget.

    Every cell is plain text, so that names of the user's are never read as markup.
    """
    target = summary.target
    table = Table(
        title=Text(f"{summary.data} on {target.name}"),
        caption=Text(f"top-1 on {summary.num_val_images:,} validation images; latency measured"),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )
    for header in ("budget", "network"):
        table.add_column(header, no_wrap=True)
    for header in ("INT8", "predicted", "INT8 top-1", "FP32 top-1", "speed-up"):
        table.add_column(header, justify="right", no_wrap=True)
    found = set(map(id, summary.models))
    previous: float | None = None
    for model, _ in words.named_models(summary):
        if previous not in (None, model.budget_ms):
            table.add_row()
        previous = model.budget_ms
        is_found = id(model) in found
        table.add_row(*_cells(model, is_found), style="bold" if is_found else "")
    return table


def _cells(model: ModelResult, is_found: bool) -> list[Text]:
    values = (
        words.budget(model.budget_ms),
        "found" if is_found else "baseline",
        words.ms(model.int8_ms),
        words.ms(model.predicted_ms),
        words.percent(model.top1_int8),
        words.percent(model.top1_fp32),
        words.times(model.speedup),
    )
    return [Text(value) for value in values]
