"""Sessions on a machine whose clock and load are under control, and on the simulated device."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, strategies as st

from spaceevo.errors import TargetError, UnstableSessionError
from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Tracer
from spaceevo.measure import campaign, session, target
from spaceevo.measure.session import RELOADED_SHARE, FasterReferenceError, Plan, Reference, _size_bytes, group_files
from spaceevo.measure.transports import DeviceState, fake
from spaceevo.measure.visits import (
    Reading,
    Visits,
    is_busy_throughout,
    quantile_interval,
    quiet_samples,
    reference_level,
    reference_now,
)
from spaceevo.records import Measurement, TargetDescription

TARGET = TargetDescription(
    name="fake@fake",
    runtime="fake",
    runtime_version="1",
    device="d",
    machine="m",
    flags=(),
    threads=1,
    w_qmax=127,
)


class Machine:
    """A transport. `slowdown` says how much slower everything is at a time (in ms since it was switched on).

    A file "name-1.5" takes 1.5 ms.
    """

    def __init__(self, slowdown: Callable[[float], float] = lambda now_ms: 1.0) -> None:
        self.now_ms = 0.0
        self.slowdown = slowdown
        self.log: list[tuple[str, int]] = []
        self.loaded: list[str] = []
        self.closed = False
        self.states: Iterator[DeviceState] | None = None

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> "Model":
        name, _, latency_ms = path.name.partition("-")
        self.loaded.append(name)
        return Model(self, name, float(latency_ms))

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        return next(self.states) if self.states else DeviceState()

    def close(self) -> None:
        self.closed = True


class Model:
    def __init__(self, machine: Machine, name: str, latency_ms: float) -> None:
        self.machine, self.name, self.latency_ms = machine, name, latency_ms

    def time(self, repeats: int) -> list[float]:
        self.machine.log.append((self.name, repeats))
        samples = []
        for _ in range(repeats):
            samples.append(self.latency_ms * self.machine.slowdown(self.machine.now_ms))
            self.machine.now_ms += samples[-1]
        return samples

    def close(self) -> None:
        self.machine.loaded.remove(self.name)


def ignore(done: int, total: int) -> None:
    pass


REFERENCE = Path("reference-0.2")


def run(machine: Machine, latencies_ms: list[float], plan: Plan, **options: object) -> list[Measurement]:
    paths = [Path(f"{number}-{latency_ms}") for number, latency_ms in enumerate(latencies_ms)]
    defaults = {"progress": ignore, "reference": Reference(REFERENCE)}
    with patch.object(session, "connect", lambda name: machine):
        return session.measure(TARGET, paths, plan, **{**defaults, **options})  # type: ignore[arg-type]


def test_a_quiet_machine_is_measured_exactly_and_without_waste() -> None:
    machine, plan = Machine(), Plan(visits=7)
    measured = run(machine, [0.1, 1.0, 3.0], plan)
    assert [m.latency_ms for m in measured] == pytest.approx([0.1, 1.0, 3.0])
    for m in measured:
        assert m.low_ms == pytest.approx(m.latency_ms * (1 - RELOADED_SHARE))
        assert m.high_ms == pytest.approx(m.latency_ms * (1 + RELOADED_SHARE))
    assert machine.closed
    assert machine.loaded == []
    assert all(len(m.samples_ms) == plan.visits * plan.runs_per_visit for m in measured)


class Unlucky(Machine):
    """Its n-th loading of a model, by `share_of`, makes this one slower."""

    def __init__(self, share_of: Callable[[str, int], float]) -> None:
        super().__init__()
        self.share_of, self.num_loaded = share_of, Counter[str]()

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> "Model":
        model = super().load(runtime, path, threads, cores)
        self.num_loaded[model.name] += 1
        model.latency_ms *= self.share_of(model.name, self.num_loaded[model.name])
        return model


@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("name", ["0", "2", "reference"])
def test_a_model_that_lies_badly_in_memory_once_is_not_slower(name: str, bad: int) -> None:
    machine = Unlucky(lambda own, number: 1.1 if (own, number) == (name, bad) else 1.0)
    measured = run(machine, [0.1, 1.0, 3.0], Plan(), reference=Reference(REFERENCE, 0.2))
    assert [m.latency_ms for m in measured] == pytest.approx([0.1, 1.0, 3.0])
    assert set(machine.num_loaded.values()) == {2}
    assert machine.loaded == []


@pytest.mark.parametrize("busy_share", [0.3, 0.8])
def test_busy_spells_do_not_count(busy_share: float) -> None:
    def slowdown(now_ms: float) -> float:
        return 1.6 if (now_ms % 300) / 300 < busy_share else 1.0

    latencies = list(np.linspace(0.1, 2.0, 12))
    measured = [m.latency_ms for m in run(Machine(slowdown), latencies, Plan())]
    assert measured == pytest.approx(latencies, rel=0.01)
    if busy_share > 0.5:  # the same without looking at the reference
        with pytest.raises(UnstableSessionError, match="the latency of"):
            run(Machine(slowdown), latencies, Plan(tolerance=10.0))


class Shared(Machine):
    """Busy all the time: slower, but for gaps of a quarter of a ms; an inference takes what its pieces take."""

    def __init__(self, slowdown: float, seed: int = 0) -> None:
        super().__init__()
        gaps = np.random.default_rng(seed).random(1_000_000) < 0.25
        self.work_ms = np.concatenate([[0.0], np.cumsum(np.where(gaps, 0.25, 0.25 / slowdown))])

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> "Model":
        model = super().load(runtime, path, threads, cores)

        def time(repeats: int) -> list[float]:
            at = 0.25 * np.arange(len(self.work_ms))
            ends = np.interp(self.now_ms, at, self.work_ms) + model.latency_ms * np.arange(1, repeats + 1)
            clock = [self.now_ms, *np.interp(ends, self.work_ms, at)]
            self.now_ms = float(clock[-1])
            return list(map(float, np.diff(clock)))

        model.time = time  # type: ignore[method-assign]
        return model


def test_a_machine_that_is_busy_all_the_time_is_measured_as_it_is() -> None:
    latencies = [0.2, 0.5, 1.0, 2.0, 5.0, 9.0]
    anchors: list[Measurement] = []

    def anchored(measurement: Measurement) -> float:
        anchors.append(measurement)
        return measurement.latency_ms

    measured = run(Shared(1.6), latencies, Plan(), anchored=anchored)
    assert all(m.busy for m in (*measured, *anchors))
    slowdown = 1 / (0.25 + 0.75 / 1.6)
    assert [m.latency_ms for m in measured[2:]] == pytest.approx([slowdown * x for x in latencies[2:]], rel=0.04)
    known = Reference(REFERENCE, anchors[0].latency_ms, anchors[0].busy)
    again = run(Shared(1.6, seed=1), latencies, Plan(), reference=known)
    assert [m.latency_ms for m in again[1:]] == pytest.approx([m.latency_ms for m in measured[1:]], rel=0.06)
    assert again[0].latency_ms == pytest.approx(measured[0].latency_ms, rel=0.1)  # as short as a gap
    # What is quiet now, or busier still, is not comparable.
    with pytest.raises(FasterReferenceError) as caught:
        run(Machine(), latencies, Plan(), reference=known)
    assert caught.value.measurement.latency_ms == pytest.approx(0.2)
    assert not caught.value.measurement.busy
    with pytest.raises(UnstableSessionError, match="it was busier than when the target was first measured"):
        run(Shared(2.4), latencies, Plan(), reference=known)
    with pytest.raises(UnstableSessionError):  # first measured when it was quiet
        run(Shared(1.6), latencies, Plan(patience_ms=0), reference=Reference(REFERENCE, 0.2))


def test_short_disturbances_within_visits_do_not_count() -> None:
    rng = np.random.default_rng(0)
    machine = Machine(lambda now_ms: 1 + float(rng.random() < 0.3) * float(rng.exponential(2.0)))
    latencies = [0.2, 0.5, 1.5]
    assert [m.latency_ms for m in run(machine, latencies, Plan())] == pytest.approx(latencies, rel=0.01)


def test_a_slow_but_steady_drift_within_the_tolerance_is_fine() -> None:
    machine = Machine(lambda now_ms: 1 + 0.05 * min(1.0, now_ms / 400))
    assert [m.latency_ms for m in run(machine, [0.5, 1.0], Plan())] == pytest.approx([0.5, 1.0], rel=0.06)


def test_a_machine_that_only_gets_slower_is_refused_with_evidence() -> None:
    machine = Machine(lambda now_ms: 1 + now_ms / 40)
    with pytest.raises(UnstableSessionError, match=r"took \d+\.\d+.*ms") as caught:
        run(machine, [0.5, 1.0, 1.5, 2.0], Plan(max_rounds=12, patience_ms=0))
    assert "in 12 rounds" in str(caught.value)
    assert "Drift: the reference model went from" in str(caught.value)


def test_a_session_is_patient_before_it_is_refused() -> None:
    def busy_for_long(now_ms: float) -> float:
        return 1.6 if 5 < now_ms < 5_000 else 1.0

    latencies = [0.5, 1.0]
    with pytest.raises(UnstableSessionError):
        run(Machine(busy_for_long), latencies, Plan(patience_ms=0), reference=Reference(REFERENCE, 0.2))
    measured = run(Machine(busy_for_long), latencies, Plan(), reference=Reference(REFERENCE, 0.2))
    assert [m.latency_ms for m in measured] == pytest.approx(latencies, rel=0.01)


def test_models_are_interleaved_in_changing_order_with_the_reference_between() -> None:
    machine, plan = Machine(), Plan(visits=4, segment_ms=2.0)
    run(machine, [0.2] * 6, plan)
    visits = [name for name, repeats in machine.log if repeats == plan.runs_per_visit]
    assert visits[0] == visits[-1] == "reference"
    visited = [name for name in visits if name != "reference"]
    rounds = [visited[i : i + 6] for i in range(0, len(visited), 6)]
    assert len(rounds) == plan.visits
    assert all(sorted(one) == [str(number) for number in range(6)] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_the_reference_is_never_far(tmp_path: Path) -> None:
    machine, plan = Machine(), Plan(visits=4, segment_ms=2.0)
    run(machine, [0.2] * 6, plan)
    # 3 visits of 5 x 0.2 ms exceed 2 ms
    visits = [name for name, repeats in machine.log if repeats == plan.runs_per_visit]
    gaps = [len(gap.split()) for gap in " ".join(visits).split("reference") if gap.strip()]
    assert max(gaps) <= 3


@pytest.mark.parametrize("start", [2.0, 0.5])
def test_models_are_warmed_up_until_they_are_steady(start: float) -> None:
    machine = Machine()
    machine.slowdown = lambda now_ms: 1 + (start - 1) * 0.7 ** (len(machine.log))
    run(machine, [1.0], Plan())
    warm_up = [repeats for name, repeats in machine.log if name == "0" and repeats == Plan().warmup]
    assert 4 <= len(warm_up) < session._MAX_WARM_UPS
    machine = Machine(lambda now_ms: 1.0)
    run(machine, [1.0], Plan())
    assert machine.log[:2] == [("0", Plan().warmup)] * 2
    assert machine.log[2][0] != "0"


def test_slow_models_run_less_often_per_visit() -> None:
    machine, plan = Machine(), Plan(runs_per_visit=5, max_ms_per_visit=20.0)
    run(machine, [1.0, 9.0, 100.0], plan)
    repeats = {name: count for name, count in machine.log if name != "reference"}  # the last visit
    assert repeats == {"0": 5, "1": 2, "2": 1}


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_none_is_an_error(wrong: float) -> None:
    with pytest.raises(TargetError, match="positive"):
        run(Machine(), [1.0, wrong], Plan())


def test_progress_never_goes_back_and_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    machine = Machine(lambda now_ms: 1.6 if now_ms % 100 < 50 else 1.0)
    run(machine, [0.3] * 5, Plan(visits=4), progress=lambda *step: seen.append(step))
    assert {total for _, total in seen} == {20}
    assert seen[-1] == (20, 20)


def test_groups_respect_number_and_size(tmp_path: Path) -> None:
    paths = []
    for number, size_mib in enumerate([1, 1, 1, 5, 1]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(bytes(size_mib * 2**20))
    by_number = list(group_files(paths, Plan(max_group=2), _size_bytes))
    assert [len(group) for group in by_number] == [2, 2, 1]
    by_size = list(group_files(paths, Plan(group_mib=20), _size_bytes))
    assert [path for group in by_size for path in group] == paths
    assert [len(group) for group in by_size] == [2, 1, 1, 1]


def test_all_groups_are_measured_in_order_and_handed_out_at_once() -> None:
    machine = Machine()
    latencies = [0.1, 0.5, 0.2, 0.9, 0.4]
    kept: list[tuple[int, float]] = []
    steps: list[tuple[int, int]] = []

    def keep(position: int, measurement: Measurement) -> None:
        assert len(machine.loaded) <= 3  # the reference, and the models of the group
        kept.append((position, measurement.latency_ms))

    measured = run(
        machine, latencies, Plan(max_group=2, visits=3), progress=lambda *step: steps.append(step), measured=keep
    )
    assert [m.latency_ms for m in measured] == pytest.approx(latencies)
    assert kept == list(enumerate(m.latency_ms for m in measured))
    assert steps == sorted(steps)
    assert steps[-1] == (15, 15)
    assert run(machine, [], Plan()) == []


def test_a_common_drift_is_taken_out() -> None:
    """The second group finds everything 5 % slower, as the reference tells."""
    machine = Machine()
    machine.slowdown = lambda now_ms: 1.05 if "2" in machine.loaded else 1.0
    measured = run(machine, [0.5, 1.0, 0.5, 1.0], Plan(max_group=2))
    assert [m.latency_ms for m in measured] == pytest.approx([0.5, 1.0, 0.5, 1.0])
    assert [m.scale for m in measured] == pytest.approx([1, 1, 1 / 1.05, 1 / 1.05])
    assert measured[3].samples_ms[0] == pytest.approx(1.05)
    # and so does a second session, told what the reference took in the first
    again = run(Machine(lambda now_ms: 0.95), [0.5, 1.0], Plan(), reference=Reference(REFERENCE, 0.2))
    assert [m.latency_ms for m in again] == pytest.approx([0.5, 1.0])


def test_a_device_that_stays_slower_than_it_was_is_refused() -> None:
    """However long: with 6 visits, the reference's best tenth would be of the busy time after 60 rounds."""
    machine = Machine()
    machine.slowdown = lambda now_ms: 1.4 if "2" in machine.loaded else 1.0
    kept: list[int] = []
    with pytest.raises(UnstableSessionError, match=r"first measured, the reference model took 0\.200 ms"):
        run(machine, [0.5] * 4, Plan(max_group=2, visits=6), measured=lambda position, _: kept.append(position))
    assert kept == [0, 1]


def test_a_device_that_was_busy_when_first_measured_is_told() -> None:
    kept: list[int] = []
    reference = Reference(REFERENCE, 0.3)
    with pytest.raises(FasterReferenceError) as caught:
        run(Machine(), [0.5], Plan(), reference=reference, measured=lambda position, _: kept.append(position))
    assert caught.value.measurement.latency_ms == pytest.approx(0.2)
    assert kept == []


class FragileMachine(Machine):
    """Is gone when the model "4" is visited for the last time."""

    num_visits = 2 * 2 + 10  # twice warmed up

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> Model:
        model = super().load(runtime, path, threads, cores)
        time = model.time

        def fragile(repeats: int) -> list[float]:
            if path == Path("4-0.7") and sum(name == "4" for name, _ in self.log) == self.num_visits - 1:
                raise TargetError("Gone")
            return time(repeats)

        model.time = fragile  # type: ignore[method-assign]
        return model


def test_what_has_all_its_visits_is_kept_when_the_device_is_lost() -> None:
    machine, kept = FragileMachine(), dict[int, Measurement]()
    latencies = [*[0.5] * 4, 0.7, *[0.9] * 5]
    with pytest.raises(TargetError, match="Gone"):
        run(machine, latencies, Plan(), measured=lambda *own: kept.update([own]))
    # those before it in the last round have all their visits; where no reference came after one, it is lost
    complete = {
        number
        for number in range(10)
        if sum(name == str(number) for name, _ in machine.log) == FragileMachine.num_visits
    }
    assert 2 <= len(complete) <= 9
    assert kept.keys() < complete
    assert len(complete) - len(kept) <= 3
    assert all(m.latency_ms == pytest.approx(latencies[number]) for number, m in kept.items())
    assert all(len(m.samples_ms) == 50 for m in kept.values())
    assert machine.closed
    assert machine.loaded == []


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        (DeviceState(0.5, 2000, 40), DeviceState(1.0, 1500, 80), r"Throttling: .* 2000 to 1500 MHz and from 40 to 80"),
        (DeviceState(0.5, None, 40), DeviceState(1.0, None, 60), r"Heat: .* from 40 to 60"),
        (DeviceState(0.5, 1000, 40), DeviceState(3.2, 2000, 45), r"Other programs: the load is 3.2, of which 1 is"),
        (DeviceState(), DeviceState(), r"^((?!hrottling|eat:|ther programs:).)*$"),
    ],
)
def test_an_unstable_session_says_why(first: DeviceState, last: DeviceState, told: str) -> None:
    machine = Machine(lambda now_ms: 1 + now_ms / 40)
    machine.states = iter([first, first, *[last] * 9])
    with pytest.raises(UnstableSessionError, match=told):
        run(machine, [0.5, 1.0, 1.5, 2.0], Plan(max_rounds=12, patience_ms=0))


def test_the_state_of_the_device_is_recorded_with_every_group() -> None:
    machine = Machine()
    machine.states = iter(DeviceState(load=number) for number in range(9))
    measured = run(machine, [0.5, 1.0], Plan(max_group=1))
    assert [(m.before.load, m.after.load) for m in measured] == [(1, 2), (3, 4)]


class InterruptedMachine(Machine):
    """The inferences of the model "0" are interrupted at random; the reference is too short for that."""

    def __init__(self, share: float, slowdown: float) -> None:
        rng = np.random.default_rng(0)
        super().__init__(
            lambda now_ms: 1 + slowdown * float(rng.random()) if self.log[-1][0] == "0" and rng.random() < share else 1
        )


def test_a_noisy_model_gets_more_visits() -> None:
    plan = Plan(runs_per_visit=1)
    (calm,) = run(InterruptedMachine(0.0, 0.4), [20.0], plan)
    (wild,) = run(InterruptedMachine(0.9, 1.0), [20.0], plan)
    assert len(calm.samples_ms) == plan.visits < len(wild.samples_ms) <= 4 * plan.visits


def test_a_latency_that_cannot_be_told_from_noise_is_refused() -> None:
    kept: list[int] = []
    machine, plan = InterruptedMachine(0.95, 5.0), Plan(runs_per_visit=1)
    with pytest.raises(UnstableSessionError, match=r"after \d+ quiet visits, the latency of 0-20\.0 is \d\d.* to \d\d"):
        run(machine, [20.0, 1.0], plan, measured=lambda position, _: kept.append(position))
    assert kept == [1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A reference and four networks."""
    folder, paths = tmp_path_factory.mktemp("models"), []
    description = target.describe("onnxruntime@fake")
    for width in (0, 16, 48, 96, 160):
        net = Tracer(square(3, 32))
        x = net.conv("conv", net.input, width or 1, kernel_size=3, stride=2, activation="relu")
        net.conv("point", net.depthwise("depthwise", x, kernel_size=3), width or 1)
        program = net.program if width else campaign.reference_program()
        paths.append(campaign.export_program(description, (str(width), program, "int8"), folder / str(width)))
    return paths


def fake_session(device: str, files: list[Path], *anchor_ms: float) -> tuple[float, list[Measurement]]:
    """What the reference took, and measurements; on a new device."""
    fake.reset()
    anchors = list(anchor_ms)

    def anchored(measurement: Measurement) -> float:
        anchors.append(measurement.latency_ms)
        return measurement.latency_ms

    described, reference = target.describe(f"onnxruntime@fake:{device}"), Reference(files[0], *anchor_ms)
    measured = session.measure(described, files[1:], Plan(), ignore, reference=reference, anchored=anchored)
    return anchors[0], measured


SHARED = "shared,busy_ms=10,busy_every_ms=15"  # a session takes 0.1 s


def test_two_sessions_agree_within_their_intervals(files: list[Path]) -> None:
    agreeing, bare, ratios = [], [], []
    for seed in range(25):
        anchor_ms, first = fake_session(f"{SHARED},seed={seed}", files)
        _, second = fake_session(f"{SHARED},seed={1000 + seed}", files, anchor_ms)
        for a, b, path in zip(first, second, files[1:], strict=True):
            agreeing.append(max(a.low_ms, b.low_ms) <= min(a.high_ms, b.high_ms))
            bare.append(a.latency_ms / a.scale / (b.latency_ms / b.scale))
            ratios.append(a.latency_ms / b.latency_ms)
            assert a.latency_ms == pytest.approx(fake.true_ms(path), rel=0.1)
    assert np.mean(agreeing) >= 0.99
    assert np.std(ratios) < 0.6 * np.std(bare)  # what the reference is for


def test_a_device_that_throttles_is_refused_or_measured_right(files: list[Path]) -> None:
    described = target.describe("onnxruntime@fake:exact,throttle_after_ms=40")
    kept: dict[int, Measurement] = {}
    many, plan = files[1:] * 6, Plan(max_group=2, patience_ms=0)
    with pytest.raises(UnstableSessionError, match=r"Throttling: the processor went from 2000 to 1\d+ MHz") as caught:
        session.measure(described, many, plan, ignore, lambda *own: kept.update([own]))
    assert "drift" in str(caught.value)
    assert 2 <= len(kept) < len(many)
    for position, measurement in kept.items():
        assert measurement.latency_ms == pytest.approx(fake.true_ms(many[position]), rel=0.03)


def made_visits(references_ms: list[float], latency_ms: float = 1.0) -> Visits:
    """One model; between any two visits to the reference, a visit to each place."""
    visits = Visits(1)
    for number, reference_ms in enumerate(references_ms):
        visits.add_reference([reference_ms] * 3)
        if number < len(references_ms) - 1:
            for place in visits.places:
                visits.add(place, [latency_ms * reference_ms] * 2)
    return visits


def test_only_what_lies_between_two_quiet_references_is_quiet() -> None:
    visits = made_visits([1.0, 1.05, 2.0, 1.0, 1.1, 1.0])
    quiet = quiet_samples(visits, Reading(0.12))
    assert {len(one) for one in quiet} == {3}  # segments 0, 3 and 4
    assert quiet[0] == [[1.0] * 2, [1.0] * 2, [1.1] * 2]
    assert {len(one) for one in quiet_samples(visits, Reading(0.12, busy=True))} == {5}
    assert quiet_samples(visits, Reading(0.12, anchor_ms=0.8)) == [[] for _ in visits.places], "all slower than then"
    assert quiet_samples(Visits(3), Reading(0.12)) == [[] for _ in Visits(3).places]


def test_a_visit_that_no_reference_follows_is_not_quiet() -> None:
    visits = made_visits([1.0] * 4)
    before = quiet_samples(visits, Reading(0.12))
    visits.add(0, [1.0])
    assert quiet_samples(visits, Reading(0.12)) == before
    visits.add_reference([1.0])
    assert quiet_samples(visits, Reading(0.12))[0] == [*before[0], [1.0]]


@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=30), st.sampled_from([None, 0.7, 1.0]), st.booleans())
def test_a_question_changes_nothing(references_ms: list[float], anchor_ms: float | None, busy: bool) -> None:
    visits, reading = made_visits(references_ms), Reading(0.12, anchor_ms, busy)
    before = copy.deepcopy(vars(visits))
    level = reference_level(visits, reading)
    now = reference_now(visits, 0.12)
    is_busy_throughout(visits, reading)
    assert vars(visits) == before
    assert reference_level(visits, reading) == level
    fresh = Reading(0.12)
    assert now == reference_level(visits, Reading(0.12, busy=is_busy_throughout(visits, fresh)))


@given(count=st.integers(1, 200), quantile=st.floats(0.05, 0.95))
def test_the_interval_lies_around_the_quantile(count: int, quantile: float) -> None:
    low, high = quantile_interval(count, quantile)
    assert 0 <= low <= quantile * count
    assert low <= high <= count - 1
    assert high >= quantile * (count - 1) - 1


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    low, high = quantile_interval(40, 0.25)
    draws = np.sort(rng.random((4000, 40)), axis=1)  # the true quantile is 0.25
    covered = ((draws[:, low] <= 0.25) & (draws[:, high] >= 0.25)).mean()
    assert 0.945 <= covered <= 0.985
