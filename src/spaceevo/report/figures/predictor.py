"""Predicted against measured latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from spaceevo.records import (
    ModelResult,
    PredictorAssessment,
)
from spaceevo.report import words
from spaceevo.report.figures.drawing import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    empty_figure,
    shortened,
)


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
    figure = empty_figure("Measured latency (ms)", "Predicted latency (ms)", height=460)
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
                text=[shortened(point[2]) for point in group], name=name, mode="markers", marker=marker,
                hovertemplate="%{text}<br>measured %{x:.3g} ms, predicted %{y:.3g} ms<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=ends)
    return figure
