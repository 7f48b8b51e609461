"""What gains from INT8, by operator, width and size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from statistics import median

import plotly.graph_objects as go

from spaceevo.records import (
    Study,
)
from spaceevo.report import words
from spaceevo.report.figures.drawing import (
    INK,
    ORANGE_WHITE_BLUE,
    as_table,
    empty_figure,
    styles,
    thinned,
)


def study_operators(study: Study) -> tuple[str, ...]:
    """Operator types in the order of the study."""
    return tuple(dict.fromkeys(row.operator for row in study.rows))


def study_numbers(study: Study) -> dict[int, dict[str, list[tuple[int, float]]]]:
    """Per size and operator type the (width, speed-up) pairs, by ascending width."""
    panels: dict[int, dict[str, list[tuple[int, float]]]] = {}
    for row in sorted(study.rows, key=lambda row: (row.size, row.width)):
        panels.setdefault(row.size, {}).setdefault(row.operator, []).append((row.width, row.speedup))
    return panels


def plot_study(study: Study) -> dict[int, go.Figure]:
    """Per size one figure: INT8-over-FP32 speed-up over the width, one line per operator type."""
    panels = study_numbers(study)
    all_styles = styles(study_operators(study))
    widths = sorted({row.width for row in study.rows})
    top = max((row.speedup for row in study.rows), default=1.0)
    figures = {}
    for size, lines in panels.items():
        figure = empty_figure("Width (channels)", "INT8 speed-up (×)", height=310, legend=False)
        for style in all_styles:
            pairs = lines.get(style.name, [])
            if pairs:
                figure.add_scatter(
                    x=[width for width, _ in pairs], y=[speedup for _, speedup in pairs],
                    name=escape(style.name), mode="lines+markers", line={"color": style.color, "width": 1.75},
                    marker={"color": style.color, "symbol": style.symbol, "size": 7},
                    hovertemplate="%{x} channels: %{y:.2f}×",
                )  # fmt: skip
        figure.add_hline(y=1.0, line={"color": INK, "width": 1, "dash": "dash"})
        figure.update_xaxes(type="log", tickvals=thinned(widths, 6), minor={"showgrid": False})
        figure.update_yaxes(range=[0, 1.08 * top])
        figures[size] = figure
    return figures


@dataclass(frozen=True, slots=True)
class StudySummary:
    """Median speed-up over the widths, [operator][size]; None where nothing was measured."""

    operators: tuple[str, ...]
    sizes: tuple[int, ...]
    speedups: tuple[tuple[float | None, ...], ...]


def study_summary_numbers(study: Study) -> StudySummary:
    """Numbers of `plot_study_summary`."""
    operators = study_operators(study)
    panels = study_numbers(study)
    rows = []
    for operator in operators:
        pairs = [panels[size].get(operator, []) for size in panels]
        rows.append(tuple(median(s for _, s in pair) if pair else None for pair in pairs))
    return StudySummary(operators, tuple(panels), tuple(rows))


def plot_study_summary(study: Study) -> go.Figure:
    """Heat map of the median speed-up per operator type and size; blue is faster in INT8, orange slower."""
    numbers = study_summary_numbers(study)
    figure = empty_figure("Size of the feature map", "", height=120 + 34 * len(numbers.operators), legend=False)
    logs = [[None if s is None else math.log2(s) for s in row] for row in numbers.speedups]
    bound = max((abs(z) for row in logs for z in row if z is not None), default=1.0) or 1.0
    figure.add_heatmap(
        x=[f"{size} × {size}" for size in numbers.sizes], y=[escape(name) for name in numbers.operators],
        z=logs,
        text=[["" if s is None else words.times(s) for s in row] for row in numbers.speedups],
        texttemplate="%{text}", hovertemplate="%{y} at %{x}: %{text}<extra></extra>",
        colorscale=ORANGE_WHITE_BLUE, zmin=-bound, zmax=bound, showscale=False, xgap=3, ygap=3,
    )  # fmt: skip
    as_table(figure)
    return figure
