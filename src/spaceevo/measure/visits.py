"""Visits of one session: what was measured when, which of it was quiet, and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import numpy as np

from spaceevo.records import Measurement

#: A visit to the reference model is quiet when it is close to this quantile of all visits to it. While less
#: than this share of a group is quiet, the busy state counts as the normal one.
FLOOR_QUANTILE = 0.1
#: What is reported: this quantile over a model's quiet visits of the fastest inference of a visit. Noise only
#: ever adds time. Measured three times with both cores busy, models of 0.1 to 0.5 ms were 1.3 % apart and
#: models of 2 to 9 ms at most 17 %; with medians over and within visits 1.6 % and up to 119 %.
LATENCY_QUANTILE = 0.25
MIN_VISITS = 3
_LASTING = 0.8
REFERENCE_SHARE = 4  # times the visits of a model, as all other latencies are scaled by it


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit to a model.

    Attributes:
        place: Number of the model in its group; from `Visits.num_models` on, the reference, measured as they are.
        samples_ms: Latencies of its inferences, at least one.
        segment: It lies between the reference visits `segment` and `segment + 1`.
    """

    place: int
    samples_ms: list[float]
    segment: int


class Visits:
    """All visits of a group so far, in the order of time. They are added to, and never changed.

    Attributes:
        num_models: Of the group, without the reference.
        references: Samples of every visit to the reference that tells when the machine is quiet.
        measured: The visits that measure something.
    """

    def __init__(self, num_models: int) -> None:
        self.num_models = num_models
        self.references: list[list[float]] = []
        self.measured: list[Visit] = []

    @property
    def places(self) -> range:
        """What is measured: the models, and the reference several times.

        The reference is also measured as the others are: it is visited oftener as a reference, sometimes twice in a
        row, and so finds the caches warmer.
        """
        return range(self.num_models + REFERENCE_SHARE)

    def add_reference(self, samples_ms: list[float]) -> None:
        """Note a visit that tells whether the machine is quiet."""
        self.references.append(samples_ms)

    def add(self, place: int, samples_ms: list[float]) -> None:
        """Note a visit that measures, after the last one of the reference."""
        self.measured.append(Visit(place, samples_ms, len(self.references) - 1))


@dataclass(frozen=True, slots=True)
class Reading:
    """How visits are read.

    Attributes:
        tolerance: As of a `Plan`.
        anchor_ms: What the reference took when the target was first measured; None where that is now.
        busy: Whether the target is busy all the time, and was when it was first measured: then every visit counts.
    """

    tolerance: float
    anchor_ms: float | None = None
    busy: bool = False


def reference_medians(visits: Visits) -> list[float]:
    """Median of each visit to the reference, in ms."""
    return [float(np.median(samples)) for samples in visits.references]


def quiet_limit_ms(visits: Visits, reading: Reading) -> float:
    """How slow the reference may be around a quiet visit; needs a visit to it."""
    floor_ms = float(np.quantile(reference_medians(visits), FLOOR_QUANTILE))
    if reading.anchor_ms is not None:
        floor_ms = min(floor_ms, reading.anchor_ms * (1 + reading.tolerance))
    return floor_ms * (1 + reading.tolerance)


def quiet_samples(visits: Visits, reading: Reading) -> list[list[list[float]]]:
    """[place][visit][inference], in ms: of the quiet visits; of all where the target is busy all the time."""
    quiet: list[list[list[float]]] = [[] for _ in visits.places]
    if reading.busy:
        for visit in visits.measured:
            quiet[visit.place].append(visit.samples_ms)
    elif visits.measured:
        limit_ms, references = quiet_limit_ms(visits, reading), reference_medians(visits)
        for visit in visits.measured:
            around = references[visit.segment : visit.segment + 2]
            if len(around) == 2 and max(around) <= limit_ms:
                quiet[visit.place].append(visit.samples_ms)
    return quiet


def reference_level(visits: Visits, reading: Reading) -> Measurement | None:
    """The reference, measured as the other models; None where it has too few quiet visits."""
    quiet = [visit for samples in quiet_samples(visits, reading)[visits.num_models :] for visit in samples]
    return summarized(quiet, reading.busy) if len(quiet) >= MIN_VISITS else None


def reference_now(visits: Visits, tolerance: float) -> Measurement | None:
    """The same, as if the target had never been measured before."""
    fresh = Reading(tolerance)
    return reference_level(visits, replace(fresh, busy=is_busy_throughout(visits, fresh)))


def is_busy_throughout(visits: Visits, reading: Reading) -> bool:
    """Whether a model hardly gets quiet visits, as the reference is seldom near its floor twice in a row."""
    fast = np.array(reference_medians(visits)) <= quiet_limit_ms(visits, reading)
    lasting = float(np.mean(fast[:-1] & fast[1:]))
    is_rare = min(map(len, quiet_samples(visits, reading))) < MIN_VISITS
    return is_rare and lasting < _LASTING * float(fast.mean())


def summarized(visits: Sequence[Sequence[float]], busy: bool) -> Measurement:
    """Lower quartile over visits of the fastest inference, its interval, and every sample; or medians of both."""
    quantile = 0.5 if busy else LATENCY_QUANTILE
    ordered = np.sort([np.median(samples) if busy else min(samples) for samples in visits])
    low, high = quantile_interval(len(ordered), quantile)
    return Measurement(
        latency_ms=float(np.quantile(ordered, quantile)),
        low_ms=float(ordered[low]),
        high_ms=float(ordered[high]),
        samples_ms=tuple(float(f"{sample:.6g}") for samples in visits for sample in samples),
        busy=busy,
    )


@cache
def quantile_interval(count: int, quantile: float, confidence: float = 0.95) -> tuple[int, int]:
    """Positions, in ascending order, between which a quantile of `count` values lies, distribution-free.

    Where the values do not reach far enough to be that confident, the outermost one stands in.

    >>> quantile_interval(100, 0.5), quantile_interval(10, 0.25)
    ((39, 60), (0, 5))
    """
    tail = (1 - confidence) / 2
    weights = [math.comb(count, k) * quantile**k * (1 - quantile) ** (count - k) for k in range(count + 1)]
    cumulative = list(accumulate(weights))  # [k]: at most k values lie below the quantile
    low = sum(share <= tail for share in cumulative) - 1
    high = next(k for k, share in enumerate(cumulative) if share >= 1 - tail)
    return max(low, 0), min(high, count - 1)
