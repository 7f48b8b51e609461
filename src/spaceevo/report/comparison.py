"""What a comparison of spaces says: means over seeds, and one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

from spaceevo.records import ComparedNetwork, ComparedSpace, Comparison
from spaceevo.report import words

COLUMNS = ("Space", "Budget", "INT8", "INT8 top-1", "Seeds' range", "FP32 top-1", "Speed-up", "MACs")


@dataclass(frozen=True, slots=True)
class MeanNetwork:
    """What a space has under one budget, over the seeds.

    Attributes:
        budget_ms: Latency budget.
        num_seeds: In how many seeds the space met it.
        int8_ms: Mean measured latency.
        top1_int8: Mean top-1, 0 to 1.
        lowest: Lowest of the seeds' top-1.
        highest: Highest of the seeds' top-1.
        top1_fp32: Mean top-1 in FP32.
        speedup: Mean of INT8 over FP32.
        macs: Mean of the MACs for one image.
    """

    budget_ms: float
    num_seeds: int
    int8_ms: float
    top1_int8: float
    lowest: float
    highest: float
    top1_fp32: float
    speedup: float
    macs: float


def means(comparison: Comparison, space: ComparedSpace) -> tuple[MeanNetwork, ...]:
    """By ascending budget, those that the space met in any seed."""
    result = []
    for budget_ms in comparison.budgets_ms:
        own = [network for run in space.networks for network in run if network.budget_ms == budget_ms]
        if own:

            def mean(value: Callable[[ComparedNetwork], float], networks: list[ComparedNetwork] = own) -> float:
                return fmean(map(value, networks))

            result.append(
                MeanNetwork(
                    budget_ms,
                    len(own),
                    mean(lambda one: one.int8_ms),
                    mean(lambda one: one.top1_int8),
                    min(one.top1_int8 for one in own),
                    max(one.top1_int8 for one in own),
                    mean(lambda one: one.top1_fp32),
                    mean(lambda one: one.fp32_ms / one.int8_ms),
                    mean(lambda one: one.macs),
                )
            )
    return tuple(result)


def rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Lines of the table of networks, see `COLUMNS`."""
    for space in comparison.spaces:
        for one in means(comparison, space):
            yield (
                space.name,
                words.budget(one.budget_ms),
                words.ms(one.int8_ms),
                words.percent(one.top1_int8),
                f"{words.percent(one.lowest)} – {words.percent(one.highest)}",
                words.percent(one.top1_fp32),
                words.times(one.speedup),
                words.count(round(one.macs)),
            )


def areas(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """(space, mean hypervolume, its 95 % interval), the highest first."""
    for space in sorted(comparison.spaces, key=lambda space: -fmean(space.hypervolumes)):
        interval = space.hypervolume_interval
        told = f"{interval[0]:.4g} – {interval[1]:.4g}" if interval else words.NO_VALUE
        yield space.name, f"{fmean(space.hypervolumes):.4g}", told


def headline(comparison: Comparison) -> str:
    """Whether the searched space is the best, and by how much."""
    searched, *others = comparison.spaces
    own = fmean(searched.hypervolumes)
    spaces = [space for space in others if space.kind != "network"] or others
    best = max(spaces, key=lambda space: fmean(space.hypervolumes))
    theirs = fmean(best.hypervolumes)
    difference = own / theirs - 1 if theirs else float("inf")
    sentence = (
        f"The searched space covers {words.percent(abs(difference))} {'more' if difference >= 0 else 'less'} area than "
        f"the best other space, {best.name}"
    )
    intervals = searched.hypervolume_interval, best.hypervolume_interval
    if intervals[0] and intervals[1] and intervals[0][0] <= intervals[1][1] and intervals[1][0] <= intervals[0][1]:
        sentence += "; the intervals of the two overlap"
    return f"{sentence}."
