"""Accuracy against latency, of models and of whole spaces; where the time of a run went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from spaceevo.records import (
    Comparison,
    ModelResult,
    Summary,
)
from spaceevo.report import words
from spaceevo.report.comparison import means
from spaceevo.report.figures.drawing import (
    BLUE,
    FAINT,
    ORANGE,
    empty_figure,
    styles,
)


@dataclass(frozen=True, slots=True)
class Points:
    """Latencies, accuracies in percent and the label of each point, by ascending budget."""

    latency_ms: tuple[float, ...]
    top1_percent: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ParetoNumbers:
    """Latency against accuracy, measured.

    Attributes:
        models: INT8 models.
        twins: Their FP32 twins, in the same order.
        baselines: INT8 baselines.
        baseline_twins: The same networks in FP32, in the same order.
        half_intervals: Half of the 95 % interval of each model's top-1, in percentage points.
    """

    models: Points
    twins: Points
    baselines: Points
    baseline_twins: Points
    half_intervals: tuple[float, ...]


def pareto_numbers(summary: Summary) -> ParetoNumbers:
    """Points of `plot_pareto`."""
    models = sorted(summary.models, key=lambda model: model.budget_ms)
    baselines = sorted(summary.baselines, key=lambda model: model.budget_ms)
    half = tuple(
        100 * words.sampling_error(m.top1_int8, 0.0, summary.num_val_images) for m in models
    )  # against a constant: the interval of one accuracy
    return ParetoNumbers(
        _int8_points(models), _fp32_points(models), _int8_points(baselines), _fp32_points(baselines), half
    )


def plot_pareto(summary: Summary) -> go.Figure:
    """Measured latency against top-1, of models and baselines in INT8 and in FP32."""
    numbers = pareto_numbers(summary)
    figure = empty_figure("Measured latency (ms)", "Top-1 on validation images (%)", height=460)
    models, twins, baselines, rivals = numbers.models, numbers.twins, numbers.baselines, numbers.baseline_twins
    hover = "%{text}<br>%{x:.3g} ms, %{y:.1f} %<extra></extra>"
    links_x: list[float | None] = []
    links_y: list[float | None] = []
    for i in range(len(models.labels)):
        links_x += [models.latency_ms[i], twins.latency_ms[i], None]
        links_y += [models.top1_percent[i], twins.top1_percent[i], None]
    figure.add_scatter(
        x=links_x, y=links_y, mode="lines", line={"color": "#c3c9d1", "dash": "dot", "width": 1.5},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=twins.latency_ms, y=twins.top1_percent, text=[f"FP32 twin of the {t} model" for t in twins.labels],
        mode="markers", name="FP32 twin of each model", hovertemplate=hover,
        marker={"color": "#ffffff", "size": 9, "line": {"color": FAINT, "width": 1.5}},
    )  # fmt: skip
    if baselines.labels:
        figure.add_scatter(
            x=baselines.latency_ms, y=baselines.top1_percent,
            text=[f"{t} baseline" for t in baselines.labels],
            mode="lines+markers", name="INT8 hand-made baseline", hovertemplate=hover,
            line={"color": ORANGE, "width": 1.5, "dash": "dash"},
            marker={"color": ORANGE, "size": 10, "symbol": "square"},
        )  # fmt: skip
        figure.add_scatter(
            x=rivals.latency_ms, y=rivals.top1_percent, text=[f"{t} baseline in FP32" for t in rivals.labels],
            mode="markers", name="FP32 hand-made baseline", hovertemplate=hover,
            marker={"color": "#ffffff", "size": 9, "symbol": "square", "line": {"color": ORANGE, "width": 1.5}},
        )  # fmt: skip
    figure.add_scatter(
        x=models.latency_ms, y=models.top1_percent, text=[f"<b>{t}</b>" for t in models.labels],
        mode="lines+markers+text", name="INT8 model found (label: its budget)", textposition="top left",
        textfont={"color": BLUE}, hovertemplate=hover, line={"color": BLUE, "width": 2.5},
        marker={"color": BLUE, "size": 12}, cliponaxis=False,
        error_y={"type": "data", "array": numbers.half_intervals, "color": BLUE, "thickness": 1, "width": 4},
    )  # fmt: skip
    latencies = (*models.latency_ms, *twins.latency_ms, *baselines.latency_ms, *rivals.latency_ms)
    if latencies:  # room for the first label, which plotly does not count
        span = max(latencies) - min(latencies) or max(latencies)
        figure.update_xaxes(range=[min(latencies) - 0.16 * span, max(latencies) + 0.05 * span])
    return figure


def plot_comparison(comparison: Comparison) -> go.Figure:
    """Measured INT8 latency against INT8 top-1 of every compared space: means over the seeds, and fronts of each."""
    figure = empty_figure("Measured INT8 latency (ms)", "INT8 top-1 on validation images (%)", height=460)
    for style, space in zip(styles([space.name for space in comparison.spaces]), comparison.spaces, strict=True):
        own = means(comparison, space)
        figure.add_scatter(
            x=[one.int8_ms for one in own], y=[100 * one.top1_int8 for one in own],
            text=[words.budget(one.budget_ms) for one in own], name=escape(space.name), mode="lines+markers",
            legendgroup=escape(space.name),
            line={"color": style.color, "width": 3 if space.kind == "searched" else 1.5},
            marker={"color": style.color, "size": 9, "symbol": style.symbol},
            error_y={
                "type": "data", "symmetric": False, "color": style.color, "thickness": 1, "width": 4,
                "array": [100 * (one.highest - one.top1_int8) for one in own],
                "arrayminus": [100 * (one.top1_int8 - one.lowest) for one in own],
            },
            hovertemplate=f"{escape(space.name)}, %{{text}}<br>%{{x:.3g}} ms, %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
        inherited = [one for front in space.fronts for one in front]
        if inherited:
            figure.add_scatter(
                x=[one.int8_ms for one in inherited], y=[100 * one.top1_int8 for one in inherited],
                name=escape(space.name), legendgroup=escape(space.name), showlegend=False, mode="markers",
                marker={"color": style.color, "size": 5, "symbol": style.symbol, "opacity": 0.5},
                hovertemplate=f"{escape(space.name)}, as inherited<br>%{{x:.3g}} ms, %{{y:.1f}} %<extra></extra>",
            )  # fmt: skip
    return figure


def _int8_points(models: Sequence[ModelResult]) -> Points:
    return Points(
        tuple(m.int8_ms for m in models),
        tuple(100 * m.top1_int8 for m in models),
        tuple(words.budget(m.budget_ms) for m in models),
    )


def _fp32_points(models: Sequence[ModelResult]) -> Points:
    return Points(
        tuple(m.fp32_ms for m in models),
        tuple(100 * m.top1_fp32 for m in models),
        tuple(words.budget(m.budget_ms) for m in models),
    )


def plot_stage_times(summary: Summary) -> go.Figure:
    """How long each stage took, as horizontal bars in the order of the run."""
    stages = summary.stages
    figure = empty_figure("Seconds", "", height=110 + 30 * len(stages), legend=False)
    figure.add_bar(
        x=[stage.seconds for stage in stages], y=[escape(stage.name) for stage in stages], orientation="h",
        text=[words.duration(stage.seconds) for stage in stages], textposition="auto", cliponaxis=False,
        marker={"color": BLUE}, hovertemplate="%{y}: %{text}<extra></extra>", constraintext="none",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
