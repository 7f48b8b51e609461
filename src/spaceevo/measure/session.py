"""One measuring session: many models, interleaved; a reference model tells when the machine is quiet, and how fast.

More than 400 lines: the rounds of a session share its state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from spaceevo import seeding
from spaceevo.errors import TargetError, UnstableSessionError
from spaceevo.measure.target import connect
from spaceevo.measure.transports import DeviceState, LoadedModel, Transport
from spaceevo.measure.visits import (
    FLOOR_QUANTILE,
    MIN_VISITS,
    Reading,
    Visits,
    is_busy_throughout,
    quiet_samples,
    reference_level,
    reference_medians,
    reference_now,
    summarized,
)
from spaceevo.records import MachineState, Measurement, TargetDescription

Progress = Callable[[int, int], None]

#: A model that is loaded anew, elsewhere in memory, differs: nine sessions in nine processes, scaled by the reference,
#: had a standard deviation of 0.5 to 0.8 % (2.0 % unscaled). Both ends of an interval are so much further out.
RELOADED_SHARE = 0.01
#: Some loadings are worse than that by 5 to 25 %, those of small networks with many operators, so all models are loaded
#: anew after this share of the visits. In 14 sessions with 16 networks each latency had a standard deviation of at most
#: 1.5 %, and was at most 3.9 % from its median; loaded once, 3.8 % and 12.4 %.
_RELOAD_AFTER = 0.5
#: A model whose interval is wider than this share of its latency gets more visits; one that is still wider than the
#: other share is no measurement. With six busy programs on two cores, inferences of more than 5 ms are always
#: interrupted: latencies of 4 to 30 ms had intervals of 70 to 120 %, and were 11 to 101 % apart in two sessions.
WIDE_SHARE, TOO_WIDE_SHARE = 0.2, 0.5
_MORE_VISITS = 4  # times as many, at most
#: A shared processor may be busy all the time, with gaps of a millisecond: then nothing that takes longer is ever
#: undisturbed, and a floor says nothing. Told by models that hardly ever get a quiet visit, and a reference that is
#: near its floor, but not for two visits in a row. Then medians over all visits count, twice as many of them. In such
#: a state, sessions of 18 networks of 0.15 to 45 ms were 1.2 % (mean) to 7 % (at most) apart; floors 31 %, or without
#: any quiet visit. Floors of models below a ms, though, were within 1.4 %: while floors can be had, they count.
_LOOK_AFTER, _LOOK_AT = 0.5, 100  # share of the rounds of a plan (or its patience), and visits to the reference
_BUSY_VISITS = 2
_MAX_WARM_UPS = 10
_STEADY = 0.05  # between two warm-ups, as a share
_MIB = 2**20
_MODEL_OVERHEAD_MIB = 4
_FILE_FACTOR = 4  # a loaded model: the file, packed weights, arenas
# What counts as evidence when a session is refused.
_THROTTLED_SHARE = 0.93  # of the frequency at its beginning
_HOTTER_C = 10.0
_OTHERS_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session measures; the defaults suit models of about 0.1 to 10 ms.

    Attributes:
        warmup: Inferences of each model before the first round, and as many again until they get no faster or
            slower.
        visits: Quiet visits that every model gets, at least 3; up to four times as many where it is noisy.
        runs_per_visit: Timed inferences in a row per visit.
        max_ms_per_visit: A slow model gets fewer inferences per visit, at least 1.
        segment_ms: The reference model is visited again after about this time of inferences.
        tolerance: How much slower than its floor the reference may be in a quiet segment, as a share; also how
            far the device as a whole may be from what it was when it was first measured.
        max_rounds: Rounds over the models that lack quiet visits, at most; but more of them until
        patience_ms: of inferences are timed in a group.
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
    patience_ms: float = 20_000.0
    group_mib: int = 1024
    max_group: int = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """The model that all others are measured beside.

    Attributes:
        path: File of the reference model.
        latency_ms: What it took when the target was first measured; None where this is the first session.
        busy: Whether the target was busy all the time when it was first measured.
    """

    path: Path
    latency_ms: float | None = None
    busy: bool = False


class FasterReferenceError(UnstableSessionError):
    """The device is so much faster than when it was first measured that it must have been busy then.

    Attributes:
        measurement: Of the reference model, now.
    """

    def __init__(self, measurement: Measurement, first_ms: float, target: TargetDescription) -> None:
        self.measurement = measurement
        super().__init__(
            f"{target.name} was busy or throttled when it was first measured",
            found=f"The reference model took {first_ms:.4f} ms then, and {measurement.latency_ms:.4f} ms now",
            remedy="Measure everything again",
        )


def measure(
    target: TargetDescription,
    paths: Sequence[Path],
    plan: Plan,
    progress: Progress,
    measured: Callable[[int, Measurement], None] = lambda position, measurement: None,
    *,
    reference: Reference | None = None,
    anchored: Callable[[Measurement], float] = lambda measurement: measurement.latency_ms,
    size_bytes: Callable[[Path], int] | None = None,
) -> list[Measurement]:
    """Measure model files on a target.

    The models of a group are loaded together and visited round after round in random order, with short visits
    to the reference model in between. A segment between two of them is quiet when in both the reference is as
    fast as in its best tenth, within a tolerance; only quiet visits count, and models are visited until they
    have enough of them. A model's latency is the lower quartile over its quiet visits of the fastest inference
    of a visit; on a quiet machine that is within 1 or 2 % of the median.

    Why so: on a shared machine a latency has several levels (a busy sibling core makes a model 1.5 times
    slower). With both cores busy, medians or low quantiles over everything were 10 to 30 % apart when
    measured twice, and still 8 to 30 % after division by the reference; this way it is about 1 %, in the same
    time. On a quiet machine nothing is discarded.

    What is left is common to all models: within a minute, a whole machine gets up to 3 % faster and slower
    (four networks in one process, 15 times 2 seconds: by -2.9 to +2.4 %, and always by the same within 0.3 %). So the
    latencies of a group are scaled by what the reference took when the target was first measured over what it
    took in this group.

    A target that is busy all the time when it is first measured is measured as it is (`Measurement.busy`), by
    medians over all visits; and from then on, as the two states are not comparable.

    Args:
        target: As `describe` returns it.
        paths: Model files; one measurement each, in this order.
        plan: How to measure.
        progress: Called with (quiet visits done, quiet visits in all).
        measured: Called with (position in `paths`, measurement) as soon as a group is measured, and before an
            error is raised for the models of its group that have all their visits.
        reference: The first file where none is given.
        anchored: Where `reference` has no latency, called with its measurement as soon as the first group is
            measured, before `measured`; returns what counts as its latency.
        size_bytes: Of a model, where it may be more than that of its file.

    Raises:
        TargetError: The target cannot be reached, was lost, or answered with what is no latency.
        ArtifactError: The runtime refuses a file.
        UnstableSessionError: Too little of the session was quiet, and why; as `FasterReferenceError`, what was
            measured before does not hold.
    """
    if not paths:
        return []
    reference = reference or Reference(paths[0])
    anchor_ms, busy = reference.latency_ms, reference.busy
    results: dict[int, Measurement] = {}
    with _connected(target) as transport:
        device = _Device(target, transport)
        start = 0
        for files in group_files(paths, plan, size_bytes or _size_bytes):
            with closing(_Models(device, [*files, reference.path])) as models:
                models.load()
                group = _Group(models, plan, Reading(plan.tolerance, anchor_ms, busy))

                def advance(done: int, total: int, start: int = start) -> None:
                    progress(start * plan.visits + done, len(paths) * plan.visits)

                def hand_out(min_visits: int, start: int = start, group: _Group = group) -> None:
                    nonlocal anchor_ms, busy
                    level = reference_level(group.visits, group.reading)
                    if level is None:
                        return
                    if anchor_ms is None:
                        anchor_ms, busy = anchored(level), group.reading.busy
                    if level.latency_ms * (1 + plan.tolerance) < anchor_ms:
                        raise FasterReferenceError(
                            reference_now(group.visits, plan.tolerance) or level, anchor_ms, target
                        )
                    for number, measurement in group.finished(min_visits, level, anchor_ms):
                        results[start + number] = measurement
                        measured(start + number, measurement)

                try:
                    group.run(advance)
                except (TargetError, KeyboardInterrupt):
                    with suppress(FasterReferenceError):
                        hand_out(plan.visits)  # nothing that is finished is lost
                    raise
                hand_out(1)
            start += len(files)
    return [results[position] for position in range(len(paths))]


@contextmanager
def _connected(target: TargetDescription) -> Iterator[Transport]:
    transport = connect(target.name)
    try:
        yield transport
    finally:
        transport.close()


class _Device:
    """The device of a session, with its state when the session began."""

    def __init__(self, target: TargetDescription, transport: Transport) -> None:
        self.target = target
        self.transport = transport
        self.first = self.state()

    def load(self, path: Path) -> LoadedModel:
        return self.transport.load(self.target.runtime, path, self.target.threads, self.target.cores)

    def state(self) -> DeviceState:
        return self.transport.state(self.target.cores)


class _Models:
    """Models on a device, those of a group and last the reference."""

    def __init__(self, device: _Device, paths: Sequence[Path]) -> None:
        self.device = device
        self.names = [*(path.name for path in paths[:-1]), "the reference model"]
        self._paths = paths
        self._models: list[LoadedModel] = []

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> LoadedModel:
        return self._models[number]

    def load(self) -> None:
        """Load all; anew, and elsewhere in memory, those that are loaded."""
        for number, path in enumerate(self._paths):
            model = self.device.load(path)
            if number < len(self._models):
                self._models[number].close()
                self._models[number] = model
            else:
                self._models.append(model)

    def close(self) -> None:
        """Free them."""
        for model in self._models:
            model.close()


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0  # a missing file is told by the runtime


def group_files(paths: Sequence[Path], plan: Plan, size_bytes: Callable[[Path], int]) -> Iterator[list[Path]]:
    """Split models, of some sizes, into groups that may be loaded together, in order."""
    group: list[Path] = []
    total_mib = 0.0
    for path in paths:
        size_mib = _MODEL_OVERHEAD_MIB + size_bytes(path) * _FILE_FACTOR // _MIB
        if group and (total_mib + size_mib > plan.group_mib or len(group) == plan.max_group):
            yield group
            group, total_mib = [], 0.0
        group.append(path)
        total_mib += size_mib
    if group:
        yield group


class _Group:
    """Loaded models that are measured together, in interleaved rounds; see `measure`.

    Attributes:
        visits: All that were made so far.
        reading: How they are read; once it is seen that the target is busy all the time, with that.
    """

    def __init__(self, models: _Models, plan: Plan, reading: Reading, *, seed: int = 0) -> None:
        self.visits, self.reading = Visits(len(models) - 1), reading
        self._models, self._plan = models, plan
        self._rng = seeding.python_random(seed, "session")
        self._num_rounds = 0
        self._spent_ms = 0.0
        self._before = DeviceState()

    def run(self, progress: Progress) -> None:
        """Visit the models until all have enough quiet visits.

        Args:
            progress: Called with (quiet visits done, quiet visits in all).

        Raises:
            TargetError: The device was lost, or a latency is not a positive number.
            UnstableSessionError: Too little was quiet.
        """
        plan, models = self._plan, self._models
        self._before = models.device.state()
        repeats = self._warm_up()
        num_models = self.visits.num_models
        wanted, done, is_first = num_models * plan.visits, 0, True
        is_known = self.reading.anchor_ms is not None
        quiet = quiet_samples(self.visits, self.reading)
        while self._num_rounds < plan.max_rounds or self._spent_ms < plan.patience_ms:
            lacking = [place for place, visits in enumerate(quiet) if self._lacks(visits)]
            if not lacking:
                break
            if is_first and done >= _RELOAD_AFTER * wanted:
                is_first = False
                models.load()
                repeats = self._warm_up()
            # Looking at all visits takes a while when there are many: later on, after every tenth more of them.
            for _ in range(1 if self._num_rounds < plan.max_rounds else self._num_rounds // 10 + 1):
                self._num_rounds += 1
                self._round(list(lacking), repeats)
            is_late = self._num_rounds >= _LOOK_AFTER * plan.max_rounds or self._spent_ms >= plan.patience_ms
            if not is_known and is_late and len(self.visits.references) >= _LOOK_AT:
                busy, is_known = is_busy_throughout(self.visits, self.reading), True
                self.reading = replace(self.reading, busy=busy)
            quiet = quiet_samples(self.visits, self.reading)
            # A faster reference can turn earlier visits unquiet, but progress never goes back.
            done = max(done, sum(min(len(visits), plan.visits) for visits in quiet[:num_models]))
            progress(done, wanted)
        if min(map(len, quiet)) < min(MIN_VISITS, plan.visits):
            fewest = min(map(len, quiet))
            raise self._unstable(f"in {self._num_rounds} rounds a model had {fewest} of {plan.visits} quiet visits")
        for place, visits in enumerate(quiet):
            if len(visits) > 1 and _width(found := summarized(visits, self.reading.busy)) > TOO_WIDE_SHARE:
                name = models.names[min(place, num_models)]
                what = f"the latency of {name} is {found.low_ms:.3g} to {found.high_ms:.3g} ms"
                raise self._unstable(f"after {len(visits)} quiet visits, {what}")
        level, anchor_ms = reference_level(self.visits, self.reading), self.reading.anchor_ms
        if self.reading.busy and level and anchor_ms and level.latency_ms > anchor_ms * (1 + plan.tolerance):
            raise self._unstable("it was busier than when the target was first measured, and it was busy then")
        progress(wanted, wanted)

    def finished(self, min_visits: int, level: Measurement, anchor_ms: float) -> Iterator[tuple[int, Measurement]]:
        """(number, measurement) of the models that have so many quiet visits.

        Args:
            min_visits: At least 1.
            level: Of the reference, in this group.
            anchor_ms: What the reference took when the target was first measured.
        """
        before = MachineState(**asdict(self._before))
        try:
            after = MachineState(**asdict(self._models.device.state()))
        except TargetError:  # it was lost
            after = MachineState()
        for number, visits in enumerate(quiet_samples(self.visits, self.reading)[: self.visits.num_models]):
            if len(visits) >= min_visits and _width(found := summarized(visits, self.reading.busy)) <= TOO_WIDE_SHARE:
                yield (
                    number,
                    found.model_copy(
                        update={
                            "latency_ms": found.latency_ms * anchor_ms / level.latency_ms,
                            "low_ms": found.low_ms * anchor_ms / level.high_ms * (1 - RELOADED_SHARE),
                            "high_ms": found.high_ms * anchor_ms / level.low_ms * (1 + RELOADED_SHARE),
                            "scale": anchor_ms / level.latency_ms,
                            "before": before,
                            "after": after,
                        }
                    ),
                )

    def _time(self, place: int, repeats: int) -> list[float]:
        """Samples of what is measured at a place."""
        number = min(place, self.visits.num_models)
        samples_ms = self._models[number].time(repeats)
        if not samples_ms or not all(0 < sample < math.inf for sample in samples_ms):
            raise TargetError(
                f"A latency of {self._models.names[number]} is not a positive number",
                found=f"Samples in ms: {samples_ms[:8]}",
                remedy="Look whether the device works as it should",
            )
        self._spent_ms += sum(samples_ms)
        return samples_ms

    def _warm_up(self) -> list[int]:
        """Warm every model up until it gets no faster or slower; how many inferences to time per visit."""
        repeats = []
        for place in self.visits.places:
            typical_ms = 0.0
            for _ in range(_MAX_WARM_UPS):
                before_ms, typical_ms = typical_ms, float(np.median(self._time(place, self._plan.warmup)))
                if abs(typical_ms - before_ms) <= _STEADY * before_ms:
                    break
            repeats.append(max(1, min(self._plan.runs_per_visit, int(self._plan.max_ms_per_visit / typical_ms))))
        return repeats

    def _round(self, lacking: list[int], repeats: Sequence[int]) -> None:
        """Visit models once, in random order, the reference at both ends and in between."""

        def visit_reference() -> None:
            self.visits.add_reference(self._time(self.visits.places[-1], repeats[-1]))

        self._rng.shuffle(lacking)
        visit_reference()
        since_ms = 0.0
        for place in lacking:
            if since_ms > self._plan.segment_ms:
                visit_reference()
                since_ms = 0.0
            samples_ms = self._time(place, repeats[place])
            since_ms += sum(samples_ms)
            self.visits.add(place, samples_ms)
        visit_reference()

    def _lacks(self, visits: Sequence[list[float]]) -> bool:
        """Whether a model needs more than these quiet visits."""
        busy = self.reading.busy
        wanted = self._plan.visits * (_BUSY_VISITS if busy else 1)
        if len(visits) < wanted:
            return True
        return len(visits) < _MORE_VISITS * self._plan.visits and _width(summarized(visits, busy)) > WIDE_SHARE

    def _unstable(self, why: str) -> UnstableSessionError:
        plan, anchor_ms = self._plan, self.reading.anchor_ms
        references = reference_medians(self.visits)
        quantiles = np.quantile(references, [0.0, FLOOR_QUANTILE, 0.5, 0.9])
        varied = (
            "the reference model took "
            + ", ".join(f"{value:.3f}" for value in quantiles)
            + f" ms (fastest, {FLOOR_QUANTILE:.0%}, median, 90 %) in {len(references)} visits"
        )
        device = self._models.device
        reasons = _reasons(device.first, device.state(), device.target.threads)
        reasons += _drift(references, anchor_ms, plan.tolerance)
        found = "; ".join((*reasons, varied))
        return UnstableSessionError(
            f"The machine was not quiet enough to measure: {why}",
            found=found[0].upper() + found[1:],
            remedy=f"End other programs, let the device cool, or raise the plan's tolerance of {plan.tolerance:.0%}"
            + (anchor_ms is not None) * "; if the device stays as it is now, measure all anew with another store",
        )


def _reasons(first: DeviceState, last: DeviceState, threads: int) -> list[str]:
    """What the device itself tells of why a session was unstable."""
    found = []
    heat = ""
    if first.temperature_c is not None and last.temperature_c is not None:
        heat = f"from {first.temperature_c:.0f} to {last.temperature_c:.0f} °C"
    is_hotter = heat and (last.temperature_c or 0) - (first.temperature_c or 0) >= _HOTTER_C
    if first.frequency_mhz and last.frequency_mhz and last.frequency_mhz < _THROTTLED_SHARE * first.frequency_mhz:
        found.append(
            f"throttling: the processor went from {first.frequency_mhz:.0f} to {last.frequency_mhz:.0f} MHz"
            + (f" and {heat}" if heat else "")
        )
    elif is_hotter:
        found.append(f"heat: the device went {heat}")
    if last.load is not None and last.load - threads > _OTHERS_LOAD:
        found.append(f"other programs: the load is {last.load:.1f}, of which {threads} is the measuring itself")
    return found


def _drift(references: Sequence[float], anchor_ms: float | None, tolerance: float) -> list[str]:
    """How the reference moved, where it did."""
    quarter = max(1, len(references) // 4)
    start_ms, end_ms = float(np.median(references[:quarter])), float(np.median(references[-quarter:]))
    found = []
    if abs(end_ms - start_ms) > tolerance * start_ms:
        found.append(f"drift: the reference model went from {start_ms:.3f} to {end_ms:.3f} ms")
    if anchor_ms is not None and end_ms > anchor_ms * (1 + tolerance):
        found.append(f"drift: when the target was first measured, the reference model took {anchor_ms:.3f} ms")
    return found


def _width(measurement: Measurement) -> float:
    """Of its interval, as a share."""
    return (measurement.high_ms - measurement.low_ms) / measurement.latency_ms
