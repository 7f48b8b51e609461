"""The compact tables at the end of a run and of a verification."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from spaceevo.records import ModelResult, Summary, Verification
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


def verification_table(verifications: Sequence[Verification]) -> Table:
    """One line per file: its top-1, then how it compares with the fake-quantized network and with the integers."""
    counts = sorted({one.num_images for one in verifications})
    table = Table(
        title=Text(f"Exported files on {', '.join(f'{count:,}' for count in counts)} images, against what was trained"),
        caption=Text(
            "Against the fake-quantized network: class, the same top-1; code, logits on the same 8-bit code; mean and "
            "max, difference of logits in such codes. Against exact integers as the runtime rounds: exact, the same "
            "top-1. " + ", ".join(dict.fromkeys(one.runtime for one in verifications))
        ),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
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
