"""Which classes a model takes for which."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from spaceevo.report.figures.drawing import BLUES, as_table, empty_figure

PIXELS = 26  # of a row
NUMBERED = 25  # classes of whose cells the numbers can be read


def confusion_shares(matrix: Sequence[Sequence[int]]) -> tuple[tuple[float | None, ...], ...]:
    """Shares of each class that are given each; None of a class without images.

    Args:
        matrix: Images [label][predicted].
    """
    return tuple(tuple(count / sum(row) if sum(row) else None for count in row) for row in matrix)


def plot_confusion(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> go.Figure:
    """Heat map of a confusion matrix: rows are what pictures are of, columns what they are taken for.

    Args:
        matrix: Images [label][predicted].
        class_names: Of both.
    """
    names = [escape(name) for name in class_names]
    figure = empty_figure("Taken for", "Is", height=140 + PIXELS * len(names), legend=False)
    texts = [[str(count) if count else "" for count in row] for row in matrix]
    figure.add_heatmap(
        x=names, y=names, z=confusion_shares(matrix), text=texts, customdata=matrix,
        texttemplate="%{text}" if len(names) <= NUMBERED else None,
        hovertemplate="%{y}, taken for %{x}: %{customdata} (%{z:.1%})<extra></extra>",
        colorscale=BLUES, zmin=0, zmax=1, showscale=False, xgap=1, ygap=1,
    )  # fmt: skip
    as_table(figure)
    return figure
