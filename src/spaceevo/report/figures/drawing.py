"""What all figures share: styles, axes, and the page that shows some."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

import plotly.graph_objects as go

from spaceevo.ownership import GENERATOR

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too light on white).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555B66", "#7B4FA3", "#8C5A2B")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
GLYPHS = ("●", "■", "◆", "▲", "▼", "✚", "✖", "★")
BLUE, ORANGE, GREEN = COLORS[:3]
INK, FAINT, GRID = "#1f2933", "#8a94a3", "#e5e8ec"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
BLUES = [[0.0, "#f3f7fb"], [0.5, "#8fbbdc"], [1.0, "#0072B2"]]
ORANGE_WHITE_BLUE = [[0.0, "#D55E00"], [0.5, "#fafafa"], [1.0, "#0072B2"]]

T = TypeVar("T")

MAX_POINTS = 300  # per drawn series; fronts and means are computed before thinning


@dataclass(frozen=True, slots=True)
class Style:
    """How one of several named series is drawn, in a plot and in a legend written as text."""

    name: str
    color: str
    symbol: str
    glyph: str


def styles(names: Sequence[str]) -> tuple[Style, ...]:
    """One style per name; colour and symbol together are unique for up to 72 names."""
    return tuple(
        Style(name, COLORS[i % len(COLORS)], SYMBOLS[i % len(SYMBOLS)], GLYPHS[i % len(GLYPHS)])
        for i, name in enumerate(names)
    )


def page(title: str, plots: Mapping[str, go.Figure]) -> str:
    """A self-contained HTML page of figures under headings, for a verb that draws without a run."""
    parts = [
        f"<h2>{escape(heading)}</h2>\n"
        + figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, (heading, figure) in enumerate(plots.items())
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">{GENERATOR}\n'
        f"<title>{escape(title)}</title></head>\n"
        f"<body style='font-family: {escape(FONT)}; max-width: 60rem; margin: 2rem auto'>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def empty_figure(x_title: str, y_title: str, *, height: int, legend: bool = True) -> go.Figure:
    """Axes in our style, with nothing in them.

    Args:
        x_title: Of the horizontal axis; HTML.
        y_title: Of the vertical axis; HTML.
        height: In pixels.
        legend: Whether there is one, above.
    """
    axis = {
        "gridcolor": GRID, "linecolor": "#b8c0ca", "showline": True, "zeroline": False, "ticks": "outside",
        "tickcolor": "#b8c0ca", "automargin": True,
    }  # fmt: skip
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 60, "r": 20, "t": 36 if legend else 14, "b": 52},
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 10}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
            "showlegend": legend,
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.01,
                "yanchor": "bottom",
                "traceorder": "normal",
            },
            "hoverlabel": {"font": {"family": FONT}},
        }
    )


def shares_table(
    stages: Sequence[str],
    names: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    texts: list[list[str]],
) -> go.Figure:
    """A table of shares, coloured by them.

    Args:
        stages: Columns.
        names: Rows.
        shares: 0 to 1, [names][stages]; None where there is nothing.
        texts: What the cells say.
    """
    figure = empty_figure("", "", height=70 + 38 * len(names), legend=False)
    figure.add_heatmap(
        x=[escape(stage) for stage in stages], y=[escape(name) for name in names], z=shares, text=texts,
        texttemplate="%{text}", hovertemplate="%{y} in %{x}: %{z:.0%}<extra></extra>",
        colorscale=BLUES, zmin=0, zmax=1, showscale=False, xgap=3, ygap=3,
    )  # fmt: skip
    as_table(figure)
    return figure


def as_table(figure: go.Figure) -> None:
    """Categories without lines or ticks, the first on top."""
    figure.update_xaxes(type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(
        type="category", showgrid=False, showline=False, ticks="", autorange="reversed", ticklabelstandoff=6
    )


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten: plotly's own are bare digits."""
    if not values:
        return {}
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def lower_front(pairs: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The pairs (x, y) that no pair of smaller x has a smaller y than, by ascending x."""
    front: list[tuple[float, float]] = []
    for pair in sorted(pairs):
        if not front or pair[1] < front[-1][1]:
            front.append(pair)
    return tuple(front)


def thinned(values: Sequence[T], limit: int) -> list[T]:
    """At most `limit` values, evenly spaced, the first and the last among them."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def share_of(flags: Sequence[bool]) -> float:
    """How many are true, 0 to 1; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0


def shortened(text: str) -> str:
    """Escaped, and broken into lines that fit a hover label."""
    return "<br>".join(escape(text[i : i + 60]) for i in range(0, min(len(text), 240), 60))
