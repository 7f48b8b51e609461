"""Pareto front and hypervolume."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from spaceevo.search.pareto import hypervolume, pareto_front, survivors

COORDINATE = st.integers(0, 20).map(lambda value: value / 4)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=40)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] >= b[1]


@given(POINTS)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    expected = {point for point in points if not any(dominates(other, point) for other in points)}
    assert {points[index] for index in front} == expected
    assert len(front) == len(expected)
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)
    assert all(points.index(points[index]) == index for index in front)


@given(POINTS)
def test_hypervolume_counts_covered_cells(points: list[tuple[float, float]]) -> None:
    reference = (4.0, 1.0)
    cells = sum(
        any(latency <= x / 4 and accuracy >= (y + 1) / 4 for latency, accuracy in points)
        for x in range(16)
        for y in range(4, 40)
    )
    assert hypervolume(points, reference) == pytest.approx(cells / 16)


def test_hypervolume_golden() -> None:
    points = [(2.0, 0.6), (5.0, 0.8), (4.0, 0.5), (20.0, 0.99), (1.0, 0.1)]
    assert hypervolume(points, (10.0, 0.2)) == pytest.approx(8 * 0.4 + 5 * 0.2)
    assert hypervolume([], (10.0, 0.2)) == 0


@given(POINTS, st.integers(0, 45))
def test_nothing_that_survives_is_dominated_by_what_does_not(points: list[tuple[float, float]], count: int) -> None:
    kept = survivors(points, count)
    assert len(kept) == len(set(kept)) == min(count, len(points))
    lost = set(range(len(points))) - set(kept)
    assert not any(dominates(points[loser], points[keeper]) for loser in lost for keeper in kept)
    if count >= 2 and points:
        front = pareto_front(points)
        assert {front[0], front[-1]} <= set(kept)


def test_survivors_golden() -> None:
    """Deb et al. (2002), Section III-B: distances to both neighbours, each as a share of the front's extent."""
    front = [(0.0, 0.0), (1.0, 4.0), (2.0, 5.0), (7.0, 6.0), (10.0, 10.0)]  # 0.7, 0.8, 1.3 between the ends
    assert survivors([*front, (5.0, 3.0)], 4) == [0, 4, 3, 2]
    assert survivors([*front, (5.0, 3.0), (9.0, 1.0)], 6) == [0, 1, 2, 3, 4, 5]
