"""Training curves, and the search for subnets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import plotly.graph_objects as go

from spaceevo.records import (
    SubnetSearchResult,
    TrainingPoint,
)
from spaceevo.report import words
from spaceevo.report.figures.drawing import (
    BLUE,
    INK,
    MAX_POINTS,
    ORANGE,
    empty_figure,
    shortened,
    thinned,
)


@dataclass(frozen=True, slots=True)
class CurveNumbers:
    """One training curve; long ones as means of consecutive steps.

    Attributes:
        steps: Ascending.
        losses: Of the large subnet, or of the one network.
        losses_smallest: Of the small subnet; None where there is none.
        first_quantized_step: Where LSQ+ begins; None where it does not.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    losses_smallest: tuple[float | None, ...]
    first_quantized_step: int | None


def curve_numbers(curve: Sequence[TrainingPoint]) -> CurveNumbers:
    """Numbers of `plot_curve`."""
    phases = dict.fromkeys(point.phase for point in curve)
    groups: list[Sequence[TrainingPoint]] = []
    for phase in phases:  # no mean reaches over the beginning of LSQ+
        points = [point for point in curve if point.phase == phase]
        length = math.ceil(len(points) / MAX_POINTS)
        groups += [points[i : i + length] for i in range(0, len(points), length)]
    smallest: list[float | None] = []
    for group in groups:
        values = [point.loss_smallest for point in group if point.loss_smallest is not None]
        smallest.append(fmean(values) if values else None)
    return CurveNumbers(
        tuple(fmean(point.step for point in group) for group in groups),
        tuple(fmean(point.loss for point in group) for group in groups),
        tuple(smallest),
        min((point.step for point in curve if point.phase == "lsq+"), default=None),
    )


def plot_curve(curve: Sequence[TrainingPoint]) -> go.Figure:
    """Loss over the step; vertical marks where LSQ+ begins, and where the training diverged and went back."""
    numbers = curve_numbers(curve)
    has_smallest = any(loss is not None for loss in numbers.losses_smallest)
    figure = empty_figure("Step", "Training loss", height=290, legend=has_smallest)
    lines: list[tuple[str, str, Sequence[float | None]]] = [("large subnet", BLUE, numbers.losses)]
    if has_smallest:
        lines.append(("small subnet", ORANGE, numbers.losses_smallest))
    for name, color, losses in lines:
        figure.add_scatter(
            x=numbers.steps, y=losses, name=name if has_smallest else "loss", mode="lines",
            line={"color": color, "width": 1.75}, hovertemplate="%{y:.3f}",
        )  # fmt: skip
    if numbers.first_quantized_step is not None:
        figure.add_vline(
            x=numbers.first_quantized_step, line={"color": INK, "width": 1, "dash": "dash"},
            annotation={"text": "LSQ+", "font": {"size": 11, "color": INK}, "yanchor": "top"},
        )  # fmt: skip
    for step in sorted({step for point in curve for step in point.diverged_at}):
        figure.add_vline(
            x=step, line={"color": ORANGE, "width": 1, "dash": "dot"},
            annotation={"text": "diverged, went back", "font": {"size": 11, "color": INK}, "yanchor": "bottom"},
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(hovermode="x unified")
    return figure


def plot_curves(curves: Mapping[str, Sequence[TrainingPoint]]) -> dict[str, go.Figure]:
    """One figure per training curve that has points."""
    return {name: plot_curve(curve) for name, curve in curves.items() if curve}


@dataclass(frozen=True, slots=True)
class SubnetNumbers:
    """Evaluated and chosen subnets as (predicted_ms, top-1 in percent, text), and the budgets."""

    evaluated: tuple[tuple[float, float, str], ...]
    found: tuple[tuple[float, float, str], ...]
    budgets_ms: tuple[float, ...]


def subnet_numbers(result: SubnetSearchResult) -> SubnetNumbers:
    """Numbers of `plot_subnets`; a subnet that several searches evaluated counts once."""
    evaluated = {s.encoding: (s.predicted_ms, 100 * s.top1, s.encoding) for s in result.evaluated}
    return SubnetNumbers(
        tuple(evaluated.values()),
        tuple((s.predicted_ms, 100 * s.top1, words.budget(s.budget_ms)) for s in result.found),
        tuple(sorted({s.budget_ms for s in result.found})),
    )


def plot_subnets(result: SubnetSearchResult) -> go.Figure:
    """Predicted latency against held-out top-1 of the evaluated subnets, the chosen ones marked."""
    numbers = subnet_numbers(result)
    figure = empty_figure("Predicted INT8 latency (ms)", "Held-out top-1 (%)", height=460)
    drawn = thinned(numbers.evaluated, 5 * MAX_POINTS)
    figure.add_scatter(
        x=[x for x, _, _ in drawn], y=[y for _, y, _ in drawn], text=[shortened(text) for _, _, text in drawn],
        mode="markers", name="evaluated", marker={"color": "#56B4E9", "size": 5, "opacity": 0.5},
        hovertemplate="%{text}<br>%{x:.3g} ms, %{y:.1f} %<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[x for x, _, _ in numbers.found], y=[y for _, y, _ in numbers.found],
        text=[f"chosen for {text}" for _, _, text in numbers.found],
        mode="markers", name="chosen",
        marker={"color": ORANGE, "size": 15, "symbol": "star", "line": {"color": "#ffffff", "width": 1}},
        hovertemplate="%{text}<br>%{x:.3g} ms, %{y:.1f} %<extra></extra>",
    )  # fmt: skip
    for value in numbers.budgets_ms:
        figure.add_vline(
            x=value, line={"color": INK, "width": 1, "dash": "dash"},
            annotation={"text": words.budget(value), "yanchor": "bottom", "xanchor": "center", "y": 1.0,
                        "font": {"size": 12, "color": INK}},
        )  # fmt: skip
    figure.update_layout(legend={"y": 1.07})
    return figure
