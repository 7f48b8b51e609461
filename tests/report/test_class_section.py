"""The report's section on classes."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_report import make_data

from spaceevo.records import ClassScore, ClassScores, Confusion
from spaceevo.report import figures, html, words
from spaceevo.report.data import ReportData

EVIL = "<b>eel</b>"


def make_scores(int8_file: str, num: int = 3) -> ClassScores:
    names = ("cat", "dog", EVIL, *(f"more {number}" for number in range(num - 3)))
    classes = tuple(
        ClassScore(name=name, num_images=10, recall_int8=0.9 - 0.01 * number, recall_fp32=0.95,
                   precision_int8=0.8, precision_fp32=None)
        for number, name in enumerate(names)
    )  # fmt: skip
    matrix = ((9, 1, 0), (0, 10, 0), (0, 2, 8)) if num == 3 else None
    confusion = Confusion(label=EVIL, predicted="dog", num_int8=2, num_fp32=1, examples=(4, 7))
    return ClassScores(
        int8_file=int8_file, classes=classes, confusions=(confusion,), matrix_int8=matrix, matrix_fp32=matrix
    )


@pytest.fixture
def data() -> ReportData:
    made = make_data()
    examples = {number: np.full((3, 5, 5), number, np.uint8) for number in (4, 7)}
    model = words.headline_model(made.summary.models)
    assert model
    return replace(made, classes=(make_scores(model.int8_file),), examples=examples)


def section(data: ReportData) -> str:
    page = html.render(data)
    start = page.index('<section id="classes">')
    return page[start : page.index("</section>", start)]


def test_classes_and_what_int8_costs_them(data: ReportData) -> None:
    shown = section(data)
    assert "INT8 costs most in &lt;b&gt;eel&lt;/b&gt;: 7.0 points of recall, 1 of 10 images." in shown
    assert EVIL not in shown
    assert shown.index("<b>eel</b>".replace("<", "&lt;").replace(">", "&gt;") + "</th>") < shown.index("cat</th>")
    assert "89.0 %" in shown
    assert "+6.0 points" in shown
    assert shown.count('class="plot"') == 2


def test_the_worst_confusions_are_pictures(data: ReportData) -> None:
    shown = section(data)
    assert shown.count('<img src="data:image/png;base64,') == 2
    assert "taken for dog: 2 in INT8, 1 in FP32" in shown


def test_runs_of_earlier_versions_have_none() -> None:
    assert 'id="classes"' not in html.render(make_data())


def test_of_many_classes_the_worst_are_shown(data: ReportData) -> None:
    many = make_scores(data.classes[0].int8_file, 30)
    shown = section(replace(data, classes=(many,)))
    assert "The 20 of 30 classes with the lowest recall in INT8." in shown
    assert 'class="plot"' not in shown


def test_shares_of_a_matrix() -> None:
    matrix = ((3, 1), (0, 0))
    assert figures.confusion_shares(matrix) == ((0.75, 0.25), (None, None))
    heat = figures.plot_confusion(matrix, ("a", EVIL)).data[0]
    assert heat.y == ("a", "&lt;b&gt;eel&lt;/b&gt;")
    assert [list(row) for row in heat.text] == [["3", "1"], ["", ""]]


def test_int8_that_costs_nothing() -> None:
    scores = make_scores("a")
    better = tuple(one.model_copy(update={"recall_fp32": 0.1}) for one in scores.classes)
    assert words.class_cost(scores.model_copy(update={"classes": better})) == "INT8 costs no class anything."
