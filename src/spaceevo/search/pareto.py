"""Which points of (latency, accuracy) are not beaten by another, and how much they cover."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other point dominates, in order of latency.

    Args:
        points: (latency, accuracy) each; lower latency and higher accuracy are better. Of equal points the
            first counts.

    >>> pareto_front([(2.0, 0.7), (1.0, 0.6), (3.0, 0.65)])
    [1, 0]
    """
    front: list[int] = []
    best = -inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            front.append(index)
            best = points[index][1]
    return front


def survivors(points: Sequence[tuple[float, float]], count: int) -> list[int]:
    """The indices of the points that NSGA-II keeps (Deb et al., 2002, Section III): front after front.

    Of the front that fits only in part, those in the least crowded places: the sum over both axes of the distance
    between their neighbours, relative to the front's extent; its ends come first.

    Args:
        points: (latency, accuracy) each; lower latency and higher accuracy are better.
        count: How many to keep, at least 0; all where there are fewer.

    >>> survivors([(1.0, 0.6), (1.1, 0.61), (2.0, 0.7), (3.0, 0.65), (4.0, 0.8)], 3)
    [0, 4, 2]
    """
    kept: list[int] = []
    left = list(range(len(points)))
    while left and len(kept) < count:
        front = [left[place] for place in pareto_front([points[index] for index in left])]
        if len(kept) + len(front) > count:
            distances = _crowding_distances([points[index] for index in front])
            front = [front[place] for place in sorted(range(len(front)), key=lambda place: -distances[place])]
        kept += front[: count - len(kept)]
        ranked = set(front)
        left = [index for index in left if index not in ranked]
    return kept


def _crowding_distances(front: Sequence[tuple[float, float]]) -> list[float]:
    """Of each point of a front, which ascends on both axes."""
    (low, worst), (high, best) = front[0], front[-1]
    inner = [
        (after[0] - before[0]) / (high - low) + (after[1] - before[1]) / (best - worst)
        for before, after in zip(front, front[2:], strict=False)
    ]
    return [inf, *inner, inf][: len(front)]


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that the points dominate, in latency times accuracy.

    Args:
        points: (latency, accuracy) each; those that do not beat the reference in both add nothing.
        reference: (latency, accuracy), worse than the points of interest in both.

    >>> hypervolume([(1.0, 0.5), (2.0, 0.75)], reference=(4.0, 0.0))
    2.0
    """
    area = 0.0
    worst_latency, floor = reference
    for index in pareto_front(points):
        latency, accuracy = points[index]
        if latency < worst_latency and accuracy > floor:
            area += (worst_latency - latency) * (accuracy - floor)
            floor = accuracy
    return area
