from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up_report import make_curve, make_model, make_summary

from spaceevo.records import AssessedNetwork, ScoredSpace, StudyRow
from spaceevo.report import figures, words
from spaceevo.report.data import ReportData


def rows_of(matrix: Any) -> list[list[Any]]:
    return [list(row) for row in matrix]


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_pareto_has_models_twins_and_baselines() -> None:
    figure = figures.plot_pareto(make_summary())
    found = trace(figure, "INT8 model found (label: its budget)")
    assert found.x == pytest.approx((0.784, 1.176, 1.96))
    assert found.y == pytest.approx((81.2, 84.3, 87.1))
    assert found.text == ("<b>0.8 ms</b>", "<b>1.2 ms</b>", "<b>2 ms</b>")
    assert found.error_y.array[0] == pytest.approx(100 * 1.96 * math.sqrt(0.812 * 0.188 / 2000))
    assert trace(figure, "FP32 twin of each model").y == pytest.approx((81.6, 84.7, 87.5))
    assert trace(figure, "INT8 hand-made baseline").x == pytest.approx((0.75, 1.176, 1.93))
    summary = make_summary()
    rivals = trace(figure, "FP32 hand-made baseline")
    assert rivals.x == pytest.approx([b.fp32_ms for b in summary.baselines])
    assert rivals.y == pytest.approx([100 * b.top1_fp32 for b in summary.baselines])
    low, high = figure.layout.xaxis.range
    assert low < min(rivals.x) <= max(rivals.x) < high, "seen without moving the plot"
    lines = figure.data[0]
    assert lines.x[:3] == pytest.approx((0.784, 2.1 * 0.784, None), nan_ok=True)


def test_pareto_of_one_model_or_none() -> None:
    one = figures.plot_pareto(make_summary(models=(make_model(1.2, 0.8),), baselines=()))
    assert trace(one, "INT8 model found (label: its budget)").y == pytest.approx((80,))
    assert "INT8 hand-made baseline" not in [trace.name for trace in one.data]
    figures.plot_pareto(make_summary(models=(), baselines=()))


def test_study_has_one_panel_per_size_and_one_line_per_operator(data: ReportData) -> None:
    rows = (
        StudyRow(operator="conv3x3", width=32, size=8, fp32_ms=3.0, int8_ms=1.0),
        StudyRow(operator="conv3x3", width=16, size=8, fp32_ms=1.0, int8_ms=1.0),
        StudyRow(operator="swish", width=16, size=16, fp32_ms=1.0, int8_ms=2.0),
    )
    study = data.study.model_copy(update={"rows": rows})
    panels = figures.plot_study(study)
    assert list(panels) == [8, 16]
    assert (panels[8].data[0].x, panels[8].data[0].y) == ((16, 32), (1.0, 3.0))
    assert panels[16].data[0].name == "swish"
    assert panels[8].layout.shapes[0].y0 == 1.0
    assert panels[8].data[0].line.color != panels[16].data[0].line.color
    heat = figures.plot_study_summary(study).data[0]
    assert rows_of(heat.z) == [[1.0, None], [None, -1.0]]  # log2 of the median
    assert rows_of(heat.text) == [["2.0×", ""], ["", "0.50×"]]


def test_styles_are_unique() -> None:
    all_styles = figures.styles([str(i) for i in range(72)])
    assert len({(style.color, style.symbol) for style in all_styles}) == 72


def test_predictor_separates_what_is_off(data: ReportData) -> None:
    networks = tuple(
        AssessedNetwork(encoding=str(i), measured_ms=1.0, predicted_ms=ms) for i, ms in enumerate((1.09, 0.8, 1.2))
    )
    assessment = data.assessment.model_copy(update={"networks": networks})
    figure = figures.plot_predictor(assessment, words.named_models(make_summary()))
    assert trace(figure, "unseen network").y == (1.09,)
    assert trace(figure, "unseen network, more than 10 % off").y == (0.8, 1.2)
    assert len(trace(figure, "exported model or baseline").x) == 6
    low, high = figure.layout.xaxis.range
    assert figure.data[1].fill == "tonexty"  # the upper end of the band, down to the lower one
    assert figure.data[0].y == pytest.approx((0.9 * low, 0.9 * high))
    assert figure.data[1].y == pytest.approx((1.1 * low, 1.1 * high))


def test_search_history(data: ReportData) -> None:
    figure = figures.plot_search(data.search)
    assert trace(figure, "best so far").y == tuple(step.best_score for step in data.search.history)
    assert trace(figure, "mean of the population").x[-1] == 2000


def test_block_table_fronts_keep_the_best_rows_and_leave_out_failed_cells(data: ReportData) -> None:
    table = data.table
    assert table is not None
    clouds = figures.block_table_numbers(table, data.hyperspace)
    assert [cloud.block_type for cloud in clouds["stage3"]] == [
        "mbv2-relu6", "mbv3-hard-swish", "bottleneck-relu", "fused-mbconv-swish"
    ]  # fmt: skip
    first = clouds["stage1"][0]
    rows = (table.stage == 0) & (table.block == 0)
    assert len(first.points) == figures.MAX_POINTS
    assert first.front[-1][1] == float(np.min(table.nsr_loss[rows]))
    assert first.front[0][0] == float(np.min(table.latency_ms[rows]))
    losses = [loss for _, loss in first.front]
    assert losses == sorted(losses, reverse=True)
    assert list(figures.plot_block_table(table, data.hyperspace)) == ["stage1", "stage2", "stage3"]


def test_choices_are_shares_of_the_near_equal_spaces(data: ReportData) -> None:
    names = ("micro-413-223", "micro-412-220", "micro-213-220", "micro-413-020")
    spaces = tuple(ScoredSpace(encoding=name, qt_score=1.0) for name in names)
    search = data.search.model_copy(update={"within_tolerance": spaces})
    numbers = figures.choice_numbers(search, data.hyperspace)
    assert numbers.stages == ("stage1", "stage2", "stage3")
    assert numbers.block_shares[4] == (0.75, 0, 0)
    assert numbers.block_shares[3] == (0, 0, 0.75)
    assert numbers.window_shares[0] == (0.25, 0, 0.75)
    assert numbers.window_shares[4] == (None, 0, 0)  # stage1 has four windows
    assert numbers.widths[2] == ("32–40", "40–56", "64–96")
    assert figures.plot_block_choices(search, data.hyperspace).data[0].z[4] == pytest.approx([0.75, 0, 0])
    assert figures.plot_window_choices(search, data.hyperspace).data[0].text[0][2] == "48–64: 75 %"


def test_curves_mark_where_quantization_begins() -> None:
    curve = make_curve(smallest=True, steps=100)
    figure = figures.plot_curve(curve)
    assert trace(figure, "large subnet").y == tuple(point.loss for point in curve)
    assert trace(figure, "small subnet").y[0] == curve[0].loss_smallest
    assert figure.layout.shapes[0].x0 == 70
    assert len(figures.plot_curve([p for p in curve if p.phase == "fp32"]).layout.shapes) == 0
    marked = [curve[0], curve[1].model_copy(update={"diverged_at": (7, 9)}), *curve[2:]]
    assert [shape.x0 for shape in figures.plot_curve(marked).layout.shapes[-2:]] == [7, 9]
    assert list(figures.plot_curves({"teacher": curve, "empty": ()})) == ["teacher"]


def test_long_curves_are_means_within_their_phase() -> None:
    curve = make_curve(steps=10_000)
    numbers = figures.curve_numbers(curve)
    assert len(numbers.steps) <= 2 * figures.MAX_POINTS
    assert list(numbers.steps) == sorted(numbers.steps)
    assert not any(6998 < step < 7000 for step in numbers.steps)
    assert numbers.losses[-1] == pytest.approx(0.35, abs=0.1)


def test_subnets_marks_the_chosen_and_the_budgets(data: ReportData) -> None:
    figure = figures.plot_subnets(data.subnets)
    chosen = trace(figure, "chosen")
    assert chosen.x == tuple(subnet.predicted_ms for subnet in data.subnets.found)
    assert chosen.y == pytest.approx([100 * subnet.top1 for subnet in data.subnets.found])
    assert [shape.x0 for shape in figure.layout.shapes] == [0.8, 1.2, 2.0]
    twice = data.subnets.model_copy(update={"evaluated": data.subnets.evaluated * 2})
    assert len(figures.subnet_numbers(twice).evaluated) == 450


def test_stage_times() -> None:
    bars = figures.plot_stage_times(make_summary()).data[0]
    assert bars.y[0] == "study"
    assert bars.x[0] == 64
    assert bars.text[2] == "10 min 11 s"


def test_texts_are_escaped(data: ReportData) -> None:
    table, hyperspace = data.table, data.hyperspace
    assert table is not None
    evil = replace(hyperspace.stages[1], name="<b>s</b>")
    stages = (hyperspace.stages[0], evil, *hyperspace.stages[2:])
    figure = figures.plot_block_choices(data.search, replace(hyperspace, stages=stages))
    assert figure.data[0].x[0] == "&lt;b&gt;s&lt;/b&gt;"
