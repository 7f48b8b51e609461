"""The plots of the report: `plot_*` (a plotly figure), most of them from `*_numbers` (plain values).

Texts from records are escaped before plotly reads them, because plotly renders some HTML in labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, median
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go

from spaceevo.ownership import GENERATOR
from spaceevo.records import (
    BlockTable,
    Comparison,
    ModelResult,
    PredictorAssessment,
    SpaceSearchResult,
    Study,
    SubnetSearchResult,
    Summary,
    TrainingPoint,
)
from spaceevo.report import words
from spaceevo.report.comparison import means
from spaceevo.spaces.hyperspace import Hyperspace

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


# --- models ---


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
    figure = _figure("Measured latency (ms)", "Top-1 on validation images (%)", height=460)
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
    figure = _figure("Measured INT8 latency (ms)", "INT8 top-1 on validation images (%)", height=460)
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


# --- study ---


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
        figure = _figure("Width (channels)", "INT8 speed-up (×)", height=310, legend=False)
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
        figure.update_xaxes(type="log", tickvals=_thin(widths, 6), minor={"showgrid": False})
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
    figure = _figure("Size of the feature map", "", height=120 + 34 * len(numbers.operators), legend=False)
    logs = [[None if s is None else math.log2(s) for s in row] for row in numbers.speedups]
    bound = max((abs(z) for row in logs for z in row if z is not None), default=1.0) or 1.0
    figure.add_heatmap(
        x=[f"{size} × {size}" for size in numbers.sizes], y=[escape(name) for name in numbers.operators],
        z=logs,
        text=[["" if s is None else words.times(s) for s in row] for row in numbers.speedups],
        texttemplate="%{text}", hovertemplate="%{y} at %{x}: %{text}<extra></extra>",
        colorscale=ORANGE_WHITE_BLUE, zmin=-bound, zmax=bound, showscale=False, xgap=3, ygap=3,
    )  # fmt: skip
    _as_table(figure)
    return figure


# --- predictor ---


@dataclass(frozen=True, slots=True)
class PredictorNumbers:
    """Measured and predicted latencies, ms, in three groups, and the range of both axes."""

    within: tuple[tuple[float, float, str], ...]
    outside: tuple[tuple[float, float, str], ...]
    models: tuple[tuple[float, float, str], ...]
    low: float
    high: float


def predictor_numbers(
    assessment: PredictorAssessment, models: Sequence[tuple[ModelResult, str]] = ()
) -> PredictorNumbers:
    """(measured, predicted, name) of unseen networks, within and outside 10 %, and of exported models."""
    unseen = [(n.measured_ms, n.predicted_ms, n.encoding) for n in assessment.networks]
    exported = tuple((m.int8_ms, m.predicted_ms, name) for m, name in models)
    is_within = [abs(predicted / measured - 1) <= words.TOLERANCE for measured, predicted, _ in unseen]
    values = [value for point in (*unseen, *exported) for value in point[:2]] or [0.0, 1.0]
    return PredictorNumbers(
        tuple(p for p, ok in zip(unseen, is_within, strict=True) if ok),
        tuple(p for p, ok in zip(unseen, is_within, strict=True) if not ok),
        exported, 0.93 * min(values), 1.07 * max(values),
    )  # fmt: skip


def plot_predictor(assessment: PredictorAssessment, models: Sequence[tuple[ModelResult, str]] = ()) -> go.Figure:
    """Predicted against measured latency of whole networks, with the band of ±10 %."""
    numbers = predictor_numbers(assessment, models)
    figure = _figure("Measured latency (ms)", "Predicted latency (ms)", height=460)
    ends = [numbers.low, numbers.high]
    for factor, fill in ((1 - words.TOLERANCE, None), (1 + words.TOLERANCE, "tonexty")):
        figure.add_scatter(
            x=ends, y=[factor * end for end in ends], mode="lines", line={"width": 0}, fill=fill,
            fillcolor="rgba(0, 114, 178, 0.10)", hoverinfo="skip", name="within 10 %", showlegend=bool(fill),
        )  # fmt: skip
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": FAINT, "width": 1, "dash": "dash"}, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip
    groups: tuple[tuple[str, tuple[tuple[float, float, str], ...], dict[str, Any]], ...] = (
        ("unseen network", numbers.within, {"color": BLUE, "size": 7, "opacity": 0.75}),
        ("unseen network, more than 10 % off", numbers.outside, {"color": ORANGE, "size": 8, "symbol": "x"}),
        ("exported model or baseline", numbers.models, {"color": GREEN, "size": 11, "symbol": "diamond"}),
    )
    for name, group, marker in groups:
        if group:
            figure.add_scatter(
                x=[point[0] for point in group], y=[point[1] for point in group],
                text=[_shorten(point[2]) for point in group], name=name, mode="markers", marker=marker,
                hovertemplate="%{text}<br>measured %{x:.3g} ms, predicted %{y:.3g} ms<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    return figure


# --- blocks and Q-T score ---


def plot_search(search: SpaceSearchResult) -> go.Figure:
    """Q-T score over the search: the best so far and the mean of the population."""
    figure = _figure("Search spaces evaluated", "Q-T score", height=340)
    for name, color, dash, values in (
        ("best so far", BLUE, "solid", [step.best_score for step in search.history]),
        ("mean of the population", FAINT, "dot", [step.population_mean for step in search.history]),
    ):
        figure.add_scatter(
            x=[step.num_evaluated for step in search.history], y=values, name=name,
            mode="lines" if len(values) > 1 else "markers",
            line={"color": color, "dash": dash, "width": 2.25},
            hovertemplate="%{x} spaces: %{y:.4g}",
        )  # fmt: skip
    return figure


def plot_plateau(search: SpaceSearchResult) -> go.Figure:
    """Q-T score of the spaces within tolerance, best first: how flat the top is."""
    figure = _figure("Rank", "Q-T score", height=340, legend=False)
    ranked = list(enumerate(search.within_tolerance, 1))
    drawn = _thin(ranked, MAX_POINTS)
    figure.add_scatter(
        x=[rank for rank, _ in drawn], y=[space.qt_score for _, space in drawn],
        text=[escape(space.encoding) for _, space in drawn], mode="lines+markers" if len(drawn) > 1 else "markers",
        line={"color": BLUE, "width": 1.75}, marker={"color": BLUE, "size": 5},
        hovertemplate="%{x}: %{text}<br>%{y:.5f}<extra></extra>",
    )  # fmt: skip
    return figure


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram as shares: `shares` between consecutive `edges`, one fewer."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


def distribution_numbers(values: Mapping[str, np.ndarray], num_bins: int = 80) -> dict[str, Distribution]:
    """Histograms of several samples over the same bins; a sample without values has no shares.

    Args:
        values: By name, [num].
        num_bins: Between the least and the largest of all values.
    """
    everything = np.concatenate([*values.values(), np.zeros(0)])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
    return {
        name: Distribution(tuple(edges.tolist()), tuple((np.histogram(own, edges)[0] / max(len(own), 1)).tolist()))
        for name, own in values.items()
    }


def plot_latencies(
    draws: Mapping[str, tuple[np.ndarray, np.ndarray]], budgets: Sequence[float], unit: str = "ms"
) -> go.Figure:
    """Latencies of random subnets of search spaces, and the budgets.

    Args:
        draws: By space, loss and latency [num].
        budgets: In the unit of the latencies.
        unit: Of budgets and latencies, for the axis; another than "ms" names another metric.
    """
    name = "Latency" if unit == "ms" else escape(unit)
    figure = _distributions({space: latency for space, (_, latency) in draws.items()},
                            f"{name} ({unit})" if unit == "ms" else name)  # fmt: skip
    for budget in budgets:
        figure.add_vline(
            x=budget, line={"color": INK, "width": 1, "dash": "dash"},
            annotation={"text": f"{budget:g}", "yanchor": "bottom", "xanchor": "center", "y": 1.0,
                        "font": {"size": 12, "color": INK}},
        )  # fmt: skip
    return figure


def plot_losses(draws: Mapping[str, tuple[np.ndarray, np.ndarray]], budget: float) -> go.Figure:
    """NSR losses of those random subnets of search spaces that meet a budget; arguments as in `plot_latencies`."""
    losses = {space: loss[latency <= budget] for space, (loss, latency) in draws.items()}
    return _distributions(losses, "Sum of the stages' NSR losses")


def _distributions(values: Mapping[str, np.ndarray], title: str) -> go.Figure:
    figure = _figure(title, "Share of subnets (%)", height=340)
    for style, (name, own) in zip(styles(list(values)), distribution_numbers(values).items(), strict=True):
        middles = [(low + high) / 2 for low, high in zip(own.edges, own.edges[1:], strict=False)]
        figure.add_scatter(
            x=middles, y=[100 * share for share in own.shares], name=escape(name), mode="lines",
            line={"color": style.color, "width": 2, "shape": "hvh"}, hovertemplate="%{x:.4g}: %{y:.2f} %",
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    return figure


@dataclass(frozen=True, slots=True)
class Cloud:
    """Sub-stages of one (stage, block type).

    Attributes:
        block_type: Name of the block type.
        points: (latency_ms, nsr_loss), thinned to at most `MAX_POINTS`.
        front: Lowest NSR loss at each latency, over all sub-stages, by ascending latency.
    """

    block_type: str
    points: tuple[tuple[float, float], ...]
    front: tuple[tuple[float, float], ...]


def block_type_names(hyperspace: Hyperspace) -> tuple[str, ...]:
    """Every block type of the searched stages, in order of first appearance."""
    names = (str(choice.block_type) for stage in hyperspace.searched for choice in stage.choices)
    return tuple(dict.fromkeys(names))


def block_table_numbers(table: BlockTable, hyperspace: Hyperspace) -> dict[str, tuple[Cloud, ...]]:
    """Per searched stage the clouds of its block types; failed cells are left out."""
    clouds = {}
    for s, stage in enumerate(hyperspace.searched):
        of_stage = []
        for b, choice in enumerate(stage.choices):
            rows = np.flatnonzero((table.stage == s) & (table.block == b))
            if len(rows) == 0 or (s, b) in table.failed:
                continue
            pairs = [(float(table.latency_ms[row]), float(table.nsr_loss[row])) for row in rows]
            of_stage.append(Cloud(str(choice.block_type), tuple(_thin(pairs, MAX_POINTS)), _front(pairs)))
        clouds[stage.name] = tuple(of_stage)
    return clouds


def plot_block_table(table: BlockTable, hyperspace: Hyperspace) -> dict[str, go.Figure]:
    """Per searched stage one figure: NSR loss against latency, the front of each block type as a line."""
    by_name = {style.name: style for style in styles(block_type_names(hyperspace))}
    figures = {}
    for stage, clouds in block_table_numbers(table, hyperspace).items():
        figure = _figure("Predicted latency (ms)", "NSR loss", height=330, legend=False)
        for cloud in clouds:
            style = by_name[cloud.block_type]
            figure.add_scatter(
                x=[x for x, _ in cloud.points], y=[y for _, y in cloud.points], mode="markers",
                hoverinfo="skip", marker={"color": style.color, "size": 3, "opacity": 0.3},
            )  # fmt: skip
        for cloud in clouds:
            style = by_name[cloud.block_type]
            figure.add_scatter(
                x=[x for x, _ in cloud.front], y=[y for _, y in cloud.front], name=escape(cloud.block_type),
                mode="lines+markers", line={"color": style.color, "width": 2, "shape": "hv"},
                marker={"color": style.color, "symbol": style.symbol, "size": 6},
                hovertemplate="%{x:.3g} ms: %{y:.3g}",
            )  # fmt: skip
        figure.update_xaxes(type="log", **_log_ticks([x for c in clouds for x, _ in c.points]))
        figure.update_layout(hovermode="closest")
        figures[stage] = figure
    return figures


@dataclass(frozen=True, slots=True)
class ChoiceNumbers:
    """What the spaces within tolerance of the best choose.

    Attributes:
        stages: Searched stages.
        block_types: Names of the block types.
        block_shares: [block type][stage], 0 to 1; None where the stage has no such block type.
        widths: [window][stage], for example "16–24"; empty where the stage has fewer windows.
        window_shares: [window][stage], as `block_shares`.
    """

    stages: tuple[str, ...]
    block_types: tuple[str, ...]
    block_shares: tuple[tuple[float | None, ...], ...]
    widths: tuple[tuple[str, ...], ...]
    window_shares: tuple[tuple[float | None, ...], ...]


def choice_numbers(search: SpaceSearchResult, hyperspace: Hyperspace) -> ChoiceNumbers:
    """Shares among the spaces within tolerance.

    Raises:
        EncodingError: A space is not one of the hyperspace.
    """
    choices = [hyperspace.decode(space.encoding) for space in search.within_tolerance]
    stages = hyperspace.searched
    names = block_type_names(hyperspace)
    blocks: list[list[float | None]] = [[None] * len(stages) for _ in names]
    num_windows = max(stage.num_windows for stage in stages)
    windows: list[list[float | None]] = [[None] * len(stages) for _ in range(num_windows)]
    widths = [[""] * len(stages) for _ in range(num_windows)]
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage.choices):
            share = _share([choice.blocks[s] == b for choice in choices])
            row = blocks[names.index(str(block.block_type))]
            row[s] = (row[s] or 0.0) + share  # one block type may be there with several kernel sizes
        for w in range(stage.num_windows):
            windows[w][s] = _share([choice.windows[s] == w for choice in choices])
            window = stage.widths[w : w + stage.window_size]
            widths[w][s] = f"{window[0]}–{window[-1]}" if len(window) > 1 else f"{window[0]}"
    return ChoiceNumbers(
        tuple(stage.name for stage in stages), names, tuple(map(tuple, blocks)),
        tuple(map(tuple, widths)), tuple(map(tuple, windows)),
    )  # fmt: skip


def plot_block_choices(search: SpaceSearchResult, hyperspace: Hyperspace) -> go.Figure:
    """Heat map: share of the spaces within tolerance that take a block type in a stage."""
    numbers = choice_numbers(search, hyperspace)
    texts = [["" if share is None else f"{100 * share:.0f} %" for share in row] for row in numbers.block_shares]
    return _shares(numbers.stages, numbers.block_types, numbers.block_shares, texts)


def plot_window_choices(search: SpaceSearchResult, hyperspace: Hyperspace) -> go.Figure:
    """Heat map: share of the spaces within tolerance that take a width window in a stage."""
    numbers = choice_numbers(search, hyperspace)
    texts = [
        ["" if share is None else f"{width}: {100 * share:.0f} %" for width, share in zip(*rows, strict=True)]
        for rows in zip(numbers.widths, numbers.window_shares, strict=True)
    ]
    names = [f"window {w}" for w in range(len(texts))]
    return _shares(numbers.stages, names, numbers.window_shares, texts)


# --- trainings and subnets ---


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
    figure = _figure("Step", "Training loss", height=290, legend=has_smallest)
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
    figure = _figure("Predicted INT8 latency (ms)", "Held-out top-1 (%)", height=460)
    drawn = _thin(numbers.evaluated, 5 * MAX_POINTS)
    figure.add_scatter(
        x=[x for x, _, _ in drawn], y=[y for _, y, _ in drawn], text=[_shorten(text) for _, _, text in drawn],
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


def plot_stage_times(summary: Summary) -> go.Figure:
    """How long each stage took, as horizontal bars in the order of the run."""
    stages = summary.stages
    figure = _figure("Seconds", "", height=110 + 30 * len(stages), legend=False)
    figure.add_bar(
        x=[stage.seconds for stage in stages], y=[escape(stage.name) for stage in stages], orientation="h",
        text=[words.duration(stage.seconds) for stage in stages], textposition="auto", cliponaxis=False,
        marker={"color": BLUE}, hovertemplate="%{y}: %{text}<extra></extra>", constraintext="none",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


# --- drawing ---


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


def _figure(x_title: str, y_title: str, *, height: int, legend: bool = True) -> go.Figure:
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


def _shares(
    stages: Sequence[str],
    names: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    texts: list[list[str]],
) -> go.Figure:
    figure = _figure("", "", height=70 + 38 * len(names), legend=False)
    figure.add_heatmap(
        x=[escape(stage) for stage in stages], y=[escape(name) for name in names], z=shares, text=texts,
        texttemplate="%{text}", hovertemplate="%{y} in %{x}: %{z:.0%}<extra></extra>",
        colorscale=BLUES, zmin=0, zmax=1, showscale=False, xgap=3, ygap=3,
    )  # fmt: skip
    _as_table(figure)
    return figure


def _as_table(figure: go.Figure) -> None:
    """Categories without lines or ticks, the first on top."""
    figure.update_xaxes(type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(
        type="category", showgrid=False, showline=False, ticks="", autorange="reversed", ticklabelstandoff=6
    )


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten: plotly's own are bare digits."""
    if not values:
        return {}
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [digit * 10.0**power for power in range(low, high + 1) for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _front(pairs: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    front: list[tuple[float, float]] = []
    for pair in sorted(pairs):
        if not front or pair[1] < front[-1][1]:
            front.append(pair)
    return tuple(front)


def _thin(values: Sequence[T], limit: int) -> list[T]:
    """At most `limit` values, evenly spaced, the first and the last among them."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


def _shorten(text: str) -> str:
    """Escaped, and broken into lines that fit a hover label."""
    return "<br>".join(escape(text[i : i + 60]) for i in range(0, min(len(text), 240), 60))
