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
