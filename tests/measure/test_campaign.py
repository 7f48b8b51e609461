"""Campaigns measure once, keep what they have, and leave no files behind."""

import shutil
from pathlib import Path

import pytest

from spaceevo.errors import ArtifactError, NoSpaceError
from spaceevo.measure import campaign, target
from spaceevo.measure.campaign import Precision, Program, measure_files, measure_programs
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.spaces.layers import INPUT, Feature, Tracer
from spaceevo.spaces.operators import operators

TARGET = target.describe("onnxruntime@local")
PLAN = Plan(visits=3, runs_per_visit=2)


def program(width: int) -> Program:
    net = Tracer()
    x = net.conv("conv", Feature(INPUT, 3, 8), width, kernel_size=3, activation="relu")
    net.linear("logits", net.pool("pool", x), 4)
    return operators(tuple(net.layers))


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
    export = campaign._export

    def log(where: object, job: tuple[str, Program, Precision], stem: Path) -> Path:
        names.append(job[0])
        return export(TARGET, job, stem)

    monkeypatch.setattr(campaign, "_export", log)
    return names


def test_each_program_is_measured_once_and_files_are_removed(tmp_path: Path, exported: list[str]) -> None:
    steps: list[tuple[int, int]] = []
    work_dir = tmp_path / "work"
    with Store(tmp_path / "m.db") as store:
        first = measure_programs(TARGET, PROGRAMS, store, work_dir, PLAN, lambda *step: steps.append(step))
        assert exported == ["a", "b", "a in float"]
        assert len(store) == 3
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
        done = len(store)
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
    first = campaign._export(TARGET, PROGRAMS[0], tmp_path / "first")
    second = campaign._export(TARGET, PROGRAMS[1], tmp_path / "second")
    shutil.copy(first, tmp_path / "copy.onnx")
    with Store(tmp_path / "m.db") as store:
        a, b = measure_files(TARGET, [first, second], store, PLAN, ignore)
        assert len(store) == 2
        assert measure_files(TARGET, [tmp_path / "copy.onnx"], store, PLAN, ignore) == [a]
        assert a != b
        with pytest.raises(ArtifactError, match="missing"):
            measure_files(TARGET, [tmp_path / "missing.onnx"], store, PLAN, ignore)
