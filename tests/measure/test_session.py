"""Sessions on a simulated machine whose clock and load are under control."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.errors import TargetError, UnstableSessionError
from spaceevo.measure import session
from spaceevo.measure.session import Plan, group_files, measure_models, quantile_interval
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
    """Its `slowdown` says how much slower everything is at a time (in ms since it was switched on)."""

    def __init__(self, slowdown: Callable[[float], float] = lambda now_ms: 1.0) -> None:
        self.now_ms = 0.0
        self.slowdown = slowdown
        self.log: list[tuple[str, int]] = []

    def model(self, name: str, latency_ms: float) -> "Model":
        return Model(self, name, latency_ms)


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


def ignore(done: int, total: int) -> None:
    pass


def run(machine: Machine, latencies_ms: list[float], plan: Plan) -> list[Measurement]:
    models = [machine.model(str(number), latency_ms) for number, latency_ms in enumerate(latencies_ms)]
    return measure_models(models, machine.model("reference", 0.2), plan, ignore)


def test_a_quiet_machine_is_measured_exactly_and_without_waste() -> None:
    machine, plan = Machine(), Plan(visits=7)
    measured = run(machine, [0.1, 1.0, 3.0], plan)
    assert [m.latency_ms for m in measured] == pytest.approx([0.1, 1.0, 3.0])
    assert all(m.low_ms == m.latency_ms == m.high_ms for m in measured)
    assert all(len(m.samples_ms) == plan.visits * plan.runs_per_visit for m in measured)


@pytest.mark.parametrize("busy_share", [0.3, 0.8])
def test_busy_spells_do_not_count(busy_share: float) -> None:
    def slowdown(now_ms: float) -> float:
        return 1.6 if (now_ms % 300) / 300 < busy_share else 1.0

    latencies = list(np.linspace(0.1, 2.0, 12))
    measured = [m.latency_ms for m in run(Machine(slowdown), latencies, Plan())]
    assert measured == pytest.approx(latencies, rel=0.01)
    blind = Plan(tolerance=10.0)  # the same without looking at the reference
    if busy_share > 0.5:
        assert [m.latency_ms for m in run(Machine(slowdown), latencies, blind)] != pytest.approx(latencies, rel=0.02)


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
        run(machine, [0.5, 1.0, 1.5, 2.0], Plan(max_rounds=12))
    assert "in 12 rounds" in str(caught.value)


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
    # 3 visits of 5 x 0.2 ms exceed 2 ms: the reference never is further away than that
    gaps = [len(gap.split()) for gap in " ".join(visits).split("reference") if gap.strip()]
    assert max(gaps) <= 3


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
    models = [machine.model(str(i), 0.3) for i in range(5)]
    measure_models(models, machine.model("reference", 0.2), Plan(visits=4), lambda *step: seen.append(step))
    assert {total for _, total in seen} == {20}
    assert seen[-1] == (20, 20)


def test_groups_respect_number_and_size(tmp_path: Path) -> None:
    paths = []
    for number, size_mib in enumerate([1, 1, 1, 5, 1]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(bytes(size_mib * 2**20))
    by_number = list(group_files(paths, Plan(max_group=2)))
    assert [len(group) for group in by_number] == [2, 2, 1]
    by_size = list(group_files(paths, Plan(group_mib=20)))
    assert [path for group in by_size for path in group] == paths
    assert [len(group) for group in by_size] == [2, 1, 1, 1]


def test_all_groups_are_measured_in_order_and_handed_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()

    class Fake:
        def load(self, runtime: str, path: Path, threads: int) -> Model:
            return machine.model(path.name, float(path.read_text()))

    monkeypatch.setattr(session, "connect", lambda name: Fake())
    latencies = [0.1, 0.5, 0.2, 0.9, 0.4]
    paths = [tmp_path / str(number) for number in range(5)]
    for path, latency_ms in zip(paths, latencies, strict=True):
        path.write_text(str(latency_ms))
    kept: list[tuple[int, float]] = []
    steps: list[tuple[int, int]] = []
    measured = session.measure(
        TARGET,
        paths,
        Plan(max_group=2, visits=3),
        lambda *step: steps.append(step),
        lambda position, measurement: kept.append((position, measurement.latency_ms)),
    )
    assert [m.latency_ms for m in measured] == pytest.approx(latencies)
    assert kept == list(enumerate(m.latency_ms for m in measured))
    assert steps == sorted(steps)
    assert steps[-1] == (15, 15)
    assert session.measure(TARGET, [], Plan(), ignore) == []


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
