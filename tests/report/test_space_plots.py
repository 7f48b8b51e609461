"""The plots of `space score` and `space search`: their numbers, and that the page holds them."""

from __future__ import annotations

import numpy as np
import pytest

from spaceevo.records import ScoredSpace, SpaceSearchResult
from spaceevo.report import figures


def test_distributions_share_their_bins() -> None:
    numbers = figures.distribution_numbers({"a": np.array([0.0, 0.1, 3.9]), "b": np.array([4.0]), "c": np.zeros(0)}, 4)
    assert numbers["a"].edges == numbers["b"].edges == (0, 1, 2, 3, 4)
    assert numbers["a"].shares == pytest.approx((2 / 3, 0, 0, 1 / 3))
    assert numbers["b"].shares == (0, 0, 0, 1)
    assert numbers["c"].shares == (0, 0, 0, 0)
    assert figures.distribution_numbers({"a": np.zeros(0)})["a"].shares == (0,) * 80


def test_losses_are_of_subnets_within_the_budget() -> None:
    draws = {"one": (np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 2.0, 2.5, 3.0]))}
    (line,) = figures.plot_losses(draws, 2.5).data
    assert max(line.x) < 3.0
    assert sum(line.y) == pytest.approx(100)
    latencies = figures.plot_latencies(draws, [2.5, 1.5], "mflops")
    assert latencies.layout.xaxis.title.text == "mflops"
    assert [shape.x0 for shape in latencies.layout.shapes] == [2.5, 1.5]


def test_plateau() -> None:
    within = tuple(ScoredSpace(encoding=f"<b>{rank}", qt_score=1 - rank / 1000) for rank in range(700))
    search = SpaceSearchResult(hyperspace="h", budgets_ms=(1.0,), best=within[0], within_tolerance=within,
                               tolerance=0.01, num_evaluated=800, history=(), sampled_score=1.0)  # fmt: skip
    (line,) = figures.plot_plateau(search).data
    assert len(line.x) == figures.MAX_POINTS
    assert (line.x[0], line.x[-1]) == (1, 700)
    assert line.text[0] == "&lt;b&gt;0"
    page = figures.page("Spaces <1>", {"Rank & score": figures.plot_plateau(search)})
    assert "<h1>Spaces &lt;1&gt;</h1>" in page
    assert "<h2>Rank &amp; score</h2>" in page
    assert page.count("plotly.js v") == 1
