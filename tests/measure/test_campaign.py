"""Campaigns measure once, keep what they have, and leave no files behind."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from pydantic import ValidationError

from made_models import made_onnx
from spaceevo.errors import ArtifactError, ExportError, NoSpaceError, TargetError, UnstableSessionError
from spaceevo.graph.identity import identity, program_from_json
from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Tracer
from spaceevo.measure import campaign, target
from spaceevo.measure.campaign import (
    Precision,
    measure_files,
    measure_programs,
    reference_ms,
    reference_subject,
    stale_measurements,
)
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store, Subject
from spaceevo.measure.transports import fake
from spaceevo.records import Measurement, TargetDescription

TARGET = target.describe("onnxruntime@fake")
PLAN = Plan(visits=3, runs_per_visit=2)


def program(width: int) -> Program:
    net = Tracer(square(3, 8))
    x = net.conv("conv", net.input, width, kernel_size=3, activation="relu")
    net.linear("logits", net.pool("pool", x), 4)
    return net.program


PROGRAMS: list[tuple[str, Program, Precision]] = [
    ("a", program(8), "int8"),
    ("b", program(16), "int8"),
    ("a again", program(8), "int8"),
    ("a in float", program(8), "fp32"),
]


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the programs that are exported."""
    names: list[str] = []
    export = campaign.export_program

    def log(where: TargetDescription, job: tuple[str, Program, Precision], stem: Path) -> Path:
        if job[0] != "reference":
            names.append(job[0])
        return export(where, job, stem)

    monkeypatch.setattr(campaign, "export_program", log)
    return names


def test_each_program_is_measured_once_and_files_are_removed(tmp_path: Path, exported: list[str]) -> None:
    steps: list[tuple[int, int]] = []
    work_dir = tmp_path / "work"
    with Store(tmp_path / "m.db") as store:
        first = measure_programs(TARGET, PROGRAMS, store, work_dir, PLAN, lambda *step: steps.append(step))
        assert exported == ["a", "b", "a in float"]
        assert len(store) == 4  # with the reference
        again = measure_programs(TARGET, PROGRAMS, store, work_dir, PLAN, ignore)
        other_plan = Plan(visits=4, runs_per_visit=2)
        measure_programs(TARGET, PROGRAMS[:1], store, work_dir, other_plan, ignore)
    assert exported == ["a", "b", "a in float", "a"]
    assert again == first
    assert first[0] == first[2]
    assert all(0 < m.low_ms <= m.latency_ms <= m.high_ms for m in first)
    assert list(work_dir.iterdir()) == []
    assert steps == sorted(steps)
    assert steps[-1] == (6, 6)


def test_an_interrupted_campaign_goes_on_where_it_stood(tmp_path: Path, exported: list[str]) -> None:
    plan = Plan(visits=3, runs_per_visit=2, max_group=1)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2 + 1:  # the second model has been measured in part
            raise KeyboardInterrupt

    with Store(tmp_path / "m.db") as store:
        with pytest.raises(KeyboardInterrupt):
            measure_programs(TARGET, PROGRAMS, store, tmp_path / "work", plan, interrupt)
        done = len(store) - 1
        assert 1 <= done < 3
        assert list((tmp_path / "work").iterdir()) == []
        exported.clear()
        measure_programs(TARGET, PROGRAMS, store, tmp_path / "work", plan, ignore)
        assert len(exported) == 3 - done


def test_what_a_killed_campaign_left_is_removed(tmp_path: Path) -> None:
    left_behind = tmp_path / "work" / f"{campaign._FOLDER}xyz"
    left_behind.mkdir(parents=True)
    (left_behind / "0.onnx").write_bytes(b"half")
    with Store(tmp_path / "m.db") as store:
        measure_programs(TARGET, PROGRAMS[:1], store, tmp_path / "work", PLAN, ignore)
    assert not left_behind.exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "m.db") as store, pytest.raises(NoSpaceError, match="file"):
        measure_programs(TARGET, PROGRAMS, store, tmp_path / "file" / "work", PLAN, ignore)


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    first = campaign.export_program(TARGET, PROGRAMS[0], tmp_path / "first")
    second = campaign.export_program(TARGET, PROGRAMS[1], tmp_path / "second")
    shutil.copy(first, tmp_path / "copy.onnx")
    with Store(tmp_path / "m.db") as store:
        a, b = measure_files(TARGET, [first, second], store, PLAN, ignore)
        assert len(store) == 3
        assert measure_files(TARGET, [tmp_path / "copy.onnx"], store, PLAN, ignore) == [a]
        assert a != b
        with pytest.raises(ArtifactError, match="missing"):
            measure_files(TARGET, [tmp_path / "missing.onnx"], store, PLAN, ignore)


@pytest.fixture
def devices() -> Iterator[None]:
    """Simulated devices that are new."""
    fake.reset()
    yield
    fake.reset()


MANY: list[tuple[str, Program, Precision]] = [(f"width {width}", program(width), "int8") for width in range(8, 128, 10)]
BY_TWO = Plan(visits=3, runs_per_visit=2, max_group=2)


def created(path: Path) -> dict[str, str]:
    """When every program was measured."""
    if not path.exists():
        return {}
    with Store(path) as store:
        return {row.subject.name: row.created for row in store.rows()}


def test_a_campaign_that_is_killed_goes_on_and_measures_nothing_twice(tmp_path: Path, exported: list[str]) -> None:
    path = tmp_path / "m.db"
    name = "onnxruntime@fake:shared"
    code = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
from test_campaign import BY_TWO, MANY, measure_programs, target
from spaceevo.measure.store import Store, Subject
def kill(done, total):
    if done > total * 0.75 + 1:  # in the middle of a group
        os.kill(os.getpid(), signal.SIGKILL)
with Store(Path({str(path)!r})) as store:
    measure_programs(target.describe({name!r}), MANY, store, Path({str(tmp_path / "work")!r}), BY_TWO, kill)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    before = created(path)
    assert 4 <= len(before) < len(MANY)
    left_behind = list((tmp_path / "work").iterdir())
    assert len(left_behind) == 1
    with Store(path) as store:
        measured = measure_programs(target.describe(name), MANY, store, tmp_path / "work", BY_TWO, ignore)
    assert len(exported) == len(MANY) - (len(before) - 1)
    after = created(path)
    assert {name: after[name] for name in before} == before
    assert len(measured) == len(MANY) == len(after) - 1
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("devices")
def test_a_campaign_on_a_device_that_comes_and_goes_is_finished_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    described = target.describe("onnxruntime@fake:exact,replug_after=3")
    device = fake._devices["exact,replug_after=3"]
    counts = [0]
    for _ in range(40):
        device.settings = replace(device.settings, unplug_after=device.num_requests + 90)
        before = created(path)
        try:
            with Store(path) as store:
                measured = measure_programs(described, MANY, store, tmp_path / "work", BY_TWO, ignore)
            break
        except TargetError as error:
            told = str(error)
        after = created(path)
        assert {name: after[name] for name in before} == before
        counts.append(len(after))
        assert f"{len(after) - max(len(before), 1)} of " in told or counts[-1] == 0
        assert "run it again to go on from there" in told
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    true_ms = [
        fake.true_ms(campaign.export_program(described, job, tmp_path / str(number)), "exact")
        for number, job in enumerate(MANY)
    ]
    assert [m.latency_ms for m in measured] == pytest.approx(true_ms)


@pytest.mark.usefixtures("devices")
def test_a_device_without_space_is_told_and_loses_nothing(tmp_path: Path) -> None:
    jobs = [*MANY, ("large", program(4096), "int8")]
    name = "exact,space_mib=0.1"
    described = target.describe(f"onnxruntime@fake:{name}")
    with Store(tmp_path / "m.db") as store:
        with pytest.raises(TargetError, match=r"no space for .* MiB are free.* 12 of 13 measurements are kept"):
            measure_programs(described, jobs, store, tmp_path / "work", BY_TWO, ignore)  # type: ignore[arg-type]
        assert len(store) == 13
        device = fake._devices[name]
        assert device.loaded_mib == {}
        device.settings = replace(device.settings, space_mib=100.0)
        assert len(measure_programs(described, jobs, store, tmp_path / "work", BY_TWO, ignore)) == 13  # type: ignore[arg-type]


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("fault", ["garbage_at=30", "timeout_at=30", "unplug_after=30"])
def test_what_could_not_be_measured_is_missing_and_never_0_ms(tmp_path: Path, fault: str) -> None:
    described = target.describe(f"onnxruntime@fake:exact,{fault}")
    with Store(tmp_path / "m.db") as store:
        with pytest.raises(TargetError) as caught:
            measure_programs(described, MANY, store, tmp_path / "work", BY_TWO, ignore)
        assert type(caught.value) is TargetError
        assert all(row.measurement.latency_ms > 0 for row in store.rows())
        assert len(store) < len(MANY)
    for latency_ms in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Measurement(latency_ms=latency_ms, low_ms=1, high_ms=1, samples_ms=(1,))


@pytest.mark.usefixtures("devices")
def test_a_runtime_that_is_missing_on_the_device_is_told(tmp_path: Path) -> None:
    described = target.describe("onnxruntime@fake").model_copy(update={"name": "onnxruntime@fake:missing=onnxruntime"})
    with Store(tmp_path / "m.db") as store, pytest.raises(TargetError, match="onnxruntime is not installed"):
        measure_programs(described, MANY, store, tmp_path / "work", BY_TWO, ignore)


@pytest.mark.usefixtures("devices")
def test_an_upgrade_of_the_runtime_measures_anew_and_tells_what_is_stale(tmp_path: Path) -> None:
    described = target.describe("onnxruntime@fake")
    upgraded = described.model_copy(update={"runtime_version": "1.1"})
    with Store(tmp_path / "m.db") as store:
        measure_programs(described, MANY[:3], store, tmp_path / "work", BY_TWO, ignore)
        assert stale_measurements(store, described) == []
        told = [str(one) for one in stale_measurements(store, upgraded)]
        assert told == ["3 measurements are of onnxruntime 1 and are not used"]
        measure_programs(upgraded, MANY[:3], store, tmp_path / "work", BY_TWO, ignore)
        assert [one.count for one in stale_measurements(store, upgraded)] == [3]
        assert len(store) == 8


@pytest.mark.usefixtures("devices")
def test_sessions_are_scaled_to_the_first_one(tmp_path: Path) -> None:
    described = target.describe("onnxruntime@fake:exact")
    device = fake._devices["exact"]
    path = campaign.export_program(described, MANY[0], tmp_path / "a")
    other = campaign.export_program(described, MANY[1], tmp_path / "b")
    with Store(tmp_path / "m.db") as store:
        (first,) = measure_files(described, [path], store, PLAN, ignore)
        device.settings = replace(device.settings, throttled_speed=0.95)
        device._heat = 1.0
        (second,) = measure_files(described, [other], store, PLAN, ignore)
        assert (first.scale, second.scale) == pytest.approx((1.0, 0.95), rel=1e-3)
        assert second.latency_ms == pytest.approx(fake.true_ms(other), rel=1e-3)
        assert (second.after.frequency_mhz or 0) == pytest.approx(1900)


@pytest.mark.usefixtures("devices")
def test_what_was_measured_while_the_device_was_busy_is_measured_again(tmp_path: Path) -> None:
    described = target.describe("onnxruntime@fake:exact")
    device = fake._devices["exact"]
    device.settings = replace(device.settings, throttled_speed=0.5)
    device._heat = 1.0
    with Store(tmp_path / "m.db") as store:
        assert reference_ms(store, described) is None
        slow = measure_programs(described, MANY[:2], store, tmp_path / "work", PLAN, ignore)
        slow_ms = reference_ms(store, described)
        assert slow_ms is not None
        device._heat = 0.0
        steps: list[float] = []
        found = measure_programs(
            described, MANY[:3], store, tmp_path / "work", PLAN, lambda done, total: steps.append(done / total)
        )
        assert found[0].latency_ms == pytest.approx(slow[0].latency_ms / 2)
        assert reference_ms(store, described) == pytest.approx(slow_ms / 2)
        assert steps == sorted(steps)
        (stale,) = stale_measurements(store, described)
        assert stale.count == 2
        assert "from when the reference model took" in str(stale)
        reference = store.get(reference_subject(described))
        assert reference is not None
        assert {row.subject.reference_ms for row in store.rows()} >= {reference.latency_ms}
        # and the other way round it is refused
        device._heat = 1.0
        hasty = replace(PLAN, patience_ms=0.0)
        with pytest.raises(UnstableSessionError, match=r"first measured.*0 of 1 measurements are kept"):
            measure_programs(described, MANY[3:4], store, tmp_path / "work", hasty, ignore)


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(("num_kept", "sessions"), [(2, [8, 6, 4, 2]), (0, [8, 8, 8])])
def test_unstable_sessions_follow_each_other_while_they_keep_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_kept: int, sessions: list[int]
) -> None:
    described = target.describe("onnxruntime@fake:exact")
    started: list[int] = []
    measure = campaign.measure

    def unstable(device: TargetDescription, paths: list[Path], *words: object, **more: object) -> None:
        started.append(len(paths))
        measure(device, paths[:num_kept], *words, **more)  # type: ignore[arg-type]
        if len(paths) > num_kept:
            raise UnstableSessionError("A spell of noise")

    monkeypatch.setattr(campaign, "measure", unstable)
    with Store(tmp_path / "m.db") as store:
        if num_kept:
            assert len(measure_programs(described, MANY[:8], store, tmp_path / "work", BY_TWO, ignore)) == 8
        else:
            with pytest.raises(UnstableSessionError, match=r"spell of noise.*0 of 8 measurements are kept"):
                measure_programs(described, MANY[:8], store, tmp_path / "work", BY_TWO, ignore)
    assert started == sessions


@pytest.mark.usefixtures("devices")
def test_programs_are_stored_with_their_measurements(tmp_path: Path) -> None:
    described = target.describe("onnxruntime@fake:exact")
    with Store(tmp_path / "m.db") as store:
        measure_programs(described, MANY[:1], store, tmp_path / "work", PLAN, ignore)
        (row,) = (row for row in store.rows() if row.subject.precision == "int8")
    rows = json.loads(row.subject.program)
    assert [one["op"]["op"] for one in rows] == [type(node.op).__name__ for node in MANY[0][1]]
    assert program_from_json(rows) == MANY[0][1]
    assert row.subject.what == identity(MANY[0][1])
    assert "stays_float" not in row.subject.program  # nor anything else that has its default


def test_what_an_earlier_version_measured_is_kept_and_not_reused(tmp_path: Path, exported: list[str]) -> None:
    """It knew programs by the `repr` of their operators."""
    earlier = Subject("0" * 64, "int8", TARGET, repr(PLAN), 0.1, name="a", program='[{"name": "c", "kind": "conv"}]')
    measurement = Measurement(latency_ms=1.0, low_ms=1.0, high_ms=1.0, samples_ms=(1.0,))
    with Store(tmp_path / "m.db") as store:
        store.put(earlier, measurement)
        measure_programs(TARGET, PROGRAMS[:1], store, tmp_path / "work", PLAN, ignore)
        assert "a" in exported
        assert store.get(earlier) == measurement
        assert {row.subject.what for row in store.rows()} >= {earlier.what, identity(PROGRAMS[0][1])}


def test_weights_in_another_file_count(tmp_path: Path) -> None:
    path = tmp_path / "parts.onnx"
    whole = onnx.load(made_onnx(path, ("x", "float32", (1, 3))))
    onnx.save_model(whole, path, save_as_external_data=True, location="parts.bin", size_threshold=0)
    with Store(tmp_path / "m.db") as store:
        (first,) = measure_files(TARGET, [path], store, PLAN, ignore)
        assert measure_files(TARGET, [path], store, PLAN, ignore) == [first]
        (tmp_path / "parts.bin").write_bytes(bytes(256))
        assert measure_files(TARGET, [path], store, PLAN, ignore) != [first]


def test_what_cannot_be_measured_is_told_before_anything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "measure", lambda *_, **__: pytest.fail("measured"))
    good = made_onnx(tmp_path / "good.onnx", ("x", "float32", (1, 3)))
    bad = made_onnx(tmp_path / "bad.onnx", ("x", "float32", (1, 3, "height")))
    with Store(tmp_path / "m.db") as store:
        with pytest.raises(ArtifactError, match=r"bad.onnx has no fixed shape.*\[1, 3, height\]"):
            measure_files(TARGET, [good, bad], store, PLAN, ignore)
        large = [*PROGRAMS, ("large", program(2**29), "int8")]
        with pytest.raises(ExportError, match="network large is too large to be measured"):
            measure_programs(TARGET, large, store, tmp_path, PLAN, ignore)
