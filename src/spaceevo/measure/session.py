"""One measuring session: many models, interleaved; a reference model tells when the machine is quiet."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from spaceevo import seeding
from spaceevo.errors import TargetError, UnstableSessionError
from spaceevo.measure.target import connect
from spaceevo.measure.transports import LoadedModel
from spaceevo.records import Measurement, TargetDescription

Progress = Callable[[int, int], None]

#: A visit to the reference model is quiet when it is close to this quantile of all visits to it. While less
#: than this share of a session is quiet, the busy state counts as the normal one.
FLOOR_QUANTILE = 0.1
#: What is reported: this quantile over a model's quiet visits of the fastest inference of a visit. Noise only
#: ever adds time. Measured three times with both cores busy, models of 0.1 to 0.5 ms were 1.3 % apart and
#: models of 2 to 9 ms at most 17 %; with medians over and within visits 1.6 % and up to 119 %.
LATENCY_QUANTILE = 0.25
_MIN_VISITS = 3
_MIB = 2**20
_MODEL_OVERHEAD_MIB = 4
_FILE_FACTOR = 4  # a loaded model: the file, packed weights, arenas


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session measures; the defaults suit models of about 0.1 to 10 ms.

    Attributes:
        warmup: Inferences of each model before the first round.
        visits: Quiet visits that every model gets, at least 3.
        runs_per_visit: Timed inferences in a row per visit.
        max_ms_per_visit: A slow model gets fewer inferences per visit, at least 1.
        segment_ms: The reference model is visited again after about this time of inferences.
        tolerance: How much slower than its floor the reference may be in a quiet segment, as a share.
        max_rounds: Rounds over the models that lack quiet visits, at most.
        group_mib: Models are loaded in groups of about this size; groups follow each other.
        max_group: Largest number of models of a group.
    """

    warmup: int = 3
    visits: int = 10
    runs_per_visit: int = 5
    max_ms_per_visit: float = 20.0
    segment_ms: float = 5.0
    tolerance: float = 0.12
    max_rounds: int = 80
    group_mib: int = 1024
    max_group: int = 64


def measure(
    target: TargetDescription,
    paths: Sequence[Path],
    plan: Plan,
    progress: Progress,
    measured: Callable[[int, Measurement], None] = lambda position, measurement: None,
) -> list[Measurement]:
    """Measure model files on a target.

    The models of a group are loaded together and visited round after round in random order, with short visits
    to the reference model (the first file) in between. A segment between two of them is quiet when in both
    the reference is as fast as in its best tenth, within a tolerance; only quiet visits count, and models are
    visited until they have enough of them. `latency_ms` is the lower quartile over a model's quiet visits of
    the fastest inference of a visit; on a quiet machine that is within 1 or 2 % of the median.

    Why so: on a shared machine a latency has several levels (a busy sibling core makes a model 1.5 times
    slower). With both cores busy, medians or low quantiles over everything were 10 to 30 % apart when
    measured twice, and still 8 to 30 % after division by the reference; this way it is about 1 %, in the same
    time. On a quiet machine nothing is discarded.

    Args:
        target: As `describe` returns it.
        paths: Model files; one measurement each, in this order.
        plan: How to measure.
        progress: Called with (quiet visits done, quiet visits in all).
        measured: Called with (position in `paths`, measurement) as soon as a group is measured.

    Raises:
        TargetError: The target cannot be reached.
        ArtifactError: The runtime refuses a file.
        UnstableSessionError: Too little of the session was quiet.
    """
    transport = connect(target.name)
    results: list[Measurement] = []
    references: list[float] = []
    reference = transport.load(target.runtime, paths[0], target.threads) if paths else None
    for group in group_files(paths, plan):
        models = [transport.load(target.runtime, path, target.threads) for path in group]
        start = len(results)

        def advance(done: int, total: int, start: int = start) -> None:
            progress(start * plan.visits + done, len(paths) * plan.visits)

        assert reference is not None
        for measurement in measure_models(models, reference, plan, advance, references):
            measured(len(results), measurement)
            results.append(measurement)
    return results


def group_files(paths: Sequence[Path], plan: Plan) -> Iterator[list[Path]]:
    """Split model files into groups that may be loaded together, in order."""
    group: list[Path] = []
    total_mib = 0.0
    for path in paths:
        size_mib = _MODEL_OVERHEAD_MIB
        if path.is_file():  # a missing file is told by the runtime
            size_mib += path.stat().st_size * _FILE_FACTOR // _MIB
        if group and (total_mib + size_mib > plan.group_mib or len(group) == plan.max_group):
            yield group
            group, total_mib = [], 0.0
        group.append(path)
        total_mib += size_mib
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Visit:
    model: int
    samples_ms: list[float]
    segment: int  # lies between the reference visits `segment` and `segment + 1`


def measure_models(
    models: Sequence[LoadedModel],
    reference: LoadedModel,
    plan: Plan,
    progress: Progress,
    references: list[float] | None = None,
    seed: int = 0,
) -> list[Measurement]:
    """Measure loaded models in interleaved rounds; see `measure`.

    Args:
        models: What is measured.
        reference: The reference model.
        plan: How to measure.
        progress: Called with (quiet visits done, quiet visits in all).
        references: Latencies of all visits to the reference so far; those of this group are appended.
        seed: Of the order of visits.

    Raises:
        TargetError: A latency is not a positive number.
        UnstableSessionError: Too little of the session was quiet.
    """
    rng = seeding.python_random(seed, "session")
    references = [] if references is None else references
    repeats = [_warm_up(model, plan) for model in models]
    reference_repeats = _warm_up(reference, plan)
    visits: list[_Visit] = []
    wanted, done = len(models) * plan.visits, 0
    quiet: list[list[list[float]]] = [[] for _ in models]
    for _ in range(plan.max_rounds):
        lacking = [number for number in range(len(models)) if len(quiet[number]) < plan.visits]
        if not lacking:
            break
        visits += _round(models, repeats, lacking, reference, reference_repeats, references, plan, rng)
        quiet = _quiet_samples(visits, references, len(models), plan)
        # A faster reference can turn earlier visits unquiet, but progress never goes back.
        done = max(done, sum(min(len(own), plan.visits) for own in quiet))
        progress(done, wanted)
    if models and min(map(len, quiet)) < min(_MIN_VISITS, plan.visits):
        raise _unstable(references, quiet, plan)
    progress(wanted, wanted)
    return [_summary(own) for own in quiet]


def _warm_up(model: LoadedModel, plan: Plan) -> int:
    """Warm a model up; how many inferences to time per visit."""
    typical_ms = float(np.median(_checked(model.time(plan.warmup))))
    return max(1, min(plan.runs_per_visit, int(plan.max_ms_per_visit / typical_ms)))


def _round(
    models: Sequence[LoadedModel],
    repeats: Sequence[int],
    lacking: list[int],
    reference: LoadedModel,
    reference_repeats: int,
    references: list[float],
    plan: Plan,
    rng: random.Random,
) -> list[_Visit]:
    """Visit the models that lack visits once, in random order, the reference at both ends and in between."""

    def visit_reference() -> None:
        references.append(float(np.median(_checked(reference.time(reference_repeats)))))

    rng.shuffle(lacking)
    visits = []
    visit_reference()
    since_ms = 0.0
    for number in lacking:
        if since_ms > plan.segment_ms:
            visit_reference()
            since_ms = 0.0
        samples = _checked(models[number].time(repeats[number]))
        since_ms += sum(samples)
        visits.append(_Visit(number, samples, len(references) - 1))
    visit_reference()
    return visits


def _checked(samples_ms: list[float]) -> list[float]:
    if not samples_ms or not all(0 < sample < math.inf for sample in samples_ms):
        raise TargetError("A latency is not a positive number", found=f"samples in ms: {samples_ms[:8]}")
    return samples_ms


def _quiet_samples(
    visits: Sequence[_Visit], references: Sequence[float], num_models: int, plan: Plan
) -> list[list[list[float]]]:
    """For each model the samples of its quiet visits."""
    limit = float(np.quantile(references, FLOOR_QUANTILE)) * (1 + plan.tolerance)
    quiet: list[list[list[float]]] = [[] for _ in range(num_models)]
    for visit in visits:
        if max(references[visit.segment : visit.segment + 2]) <= limit:
            quiet[visit.model].append(visit.samples_ms)
    return quiet


def _summary(visits: Sequence[Sequence[float]]) -> Measurement:
    """Lower quartile over visits of the fastest inference, its interval, and every sample."""
    fastest = np.sort([min(samples) for samples in visits])
    low, high = quantile_interval(len(fastest), LATENCY_QUANTILE)
    return Measurement(
        latency_ms=float(np.quantile(fastest, LATENCY_QUANTILE)),
        low_ms=float(fastest[low]),
        high_ms=float(fastest[high]),
        samples_ms=tuple(round(sample, 6) for samples in visits for sample in samples),
    )


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


def _unstable(references: Sequence[float], quiet: Sequence[Sequence[object]], plan: Plan) -> UnstableSessionError:
    quantiles = np.quantile(references, [0.0, FLOOR_QUANTILE, 0.5, 0.9])
    return UnstableSessionError(
        f"The machine was not quiet enough to measure: in {plan.max_rounds} rounds a model had "
        f"{min(map(len, quiet))} of {plan.visits} quiet visits",
        found="The reference model took "
        + ", ".join(f"{value:.3f}" for value in quantiles)
        + f" ms (fastest, {FLOOR_QUANTILE:.0%}, median, 90 %) in {len(references)} visits",
        remedy=f"End other programs, let the device cool, or raise the plan's tolerance of {plan.tolerance:.0%}",
    )
