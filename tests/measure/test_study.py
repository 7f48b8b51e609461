"""The study finds the costs that a simulated device has."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from spaceevo.errors import UnstableSessionError
from spaceevo.measure import study, target
from spaceevo.measure.campaign import Precision, Program
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.records import Measurement, StudyRow, TargetDescription

TARGET = TargetDescription(
    name="onnxruntime@local",
    runtime="onnxruntime",
    runtime_version="1",
    device="d",
    machine="x86_64",
    flags=("avx2",),
    threads=1,
    w_qmax=63,
)


def ignore(done: int, total: int) -> None:
    pass


def fake_campaign(overhead_ms: float, per_operator_ms: float) -> object:
    """INT8 takes a quarter of the time per MAC; every executed operator has a price, and so has the input."""

    def measure_programs(
        target: object,
        programs: Sequence[tuple[str, Program, Precision]],
        *rest: object,
    ) -> list[Measurement]:
        measured = []
        for _, program, precision in programs:
            macs = sum(operator.macs for operator in program)
            calls = sum(operator.kind not in ("quantize", "relabel") for operator in program)
            ms = overhead_ms + per_operator_ms * calls + macs * (1e-6 if precision == "int8" else 4e-6)
            measured.append(Measurement(latency_ms=ms, low_ms=ms, high_ms=ms, samples_ms=(ms,)))
        return measured

    return measure_programs


def run(tmp_path: Path) -> dict[tuple[str, int, int], StudyRow]:
    with Store(tmp_path / "m.db") as store:
        found = study.study(TARGET, store, tmp_path, widths=(8, 16), sizes=(4, 6), progress=ignore)
    assert found.target == TARGET
    rows = {(row.operator, row.width, row.size): row for row in found.rows}
    assert len(rows) == len(found.rows) == len(study.OPERATORS) * 4
    return rows


def test_overheads_of_the_chain_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measure_programs", fake_campaign(overhead_ms=5.0, per_operator_ms=0.01))
    rows = run(tmp_path)
    row = rows["conv3x3", 16, 6]
    macs = 9 * 16 * 16 * 36
    assert row.int8_ms == pytest.approx(0.01 + macs * 1e-6)
    assert row.fp32_ms == pytest.approx(0.01 + macs * 4e-6)
    assert rows["hard_swish", 16, 6].int8_ms == pytest.approx(0.03 + 16 * 16 * 36 * 1e-6)  # gate, product
    assert rows["relu", 16, 6].int8_ms == pytest.approx(rows["conv1x1", 16, 6].int8_ms)
    assert rows["se", 8, 4].int8_ms == pytest.approx(0.04 + 2 * 8 * 8 * 1e-6)
    hidden = 64
    block = 2 * 16 * hidden * 36 + 9 * hidden * 36
    assert rows["mbv2", 16, 6].int8_ms == pytest.approx(0.04 + block * 1e-6)


def test_a_latency_lost_in_the_noise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measure_programs", fake_campaign(overhead_ms=5.0, per_operator_ms=-0.1))
    with pytest.raises(UnstableSessionError, match="lost in the noise"):
        run(tmp_path)


def test_a_real_study_of_one_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "OPERATORS", {"conv3x3": study.OPERATORS["conv3x3"]})
    steps: list[tuple[int, int]] = []
    with Store(tmp_path / "m.db") as store:
        found = study.study(
            target.describe("onnxruntime@local"),
            store,
            tmp_path,
            widths=(32,),
            sizes=(12,),
            plan=Plan(visits=3, runs_per_visit=2),
            progress=lambda *step: steps.append(step),
        )
    assert [(row.operator, row.width, row.size) for row in found.rows] == [("conv3x3", 32, 12)]
    assert found.rows[0].int8_ms > 0
    assert found.rows[0].fp32_ms > 0
    assert steps[-1] == (8, 8)


def row(operator: str, speedup: float, width: int = 16) -> StudyRow:
    return StudyRow(operator=operator, width=width, size=6, fp32_ms=speedup, int8_ms=1.0)


def test_advice_follows_from_the_rows() -> None:
    rows = [row("conv3x3", 4.0), row("conv1x1", 2.0), row("se", 0.5), row("conv3x3", 9.0, 128)]
    text = " ".join(study.advise(TARGET, rows))
    assert "gains most in conv3x3 (6.0x)" in text
    assert "least in se (0.5x)" in text
    assert "slower than FP32 in 1 of 4 rows: se (1 of 1)" in text
    assert "63" in text
    assert "lacks VNNI" in text
    vnni = TARGET.model_copy(update={"flags": ("avx512_vnni",), "w_qmax": 127})
    assert "has VNNI" in study.advise(vnni, rows)[-1]
    arm = TARGET.model_copy(update={"machine": "aarch64", "w_qmax": 127})
    assert "VNNI" not in study.advise(arm, rows)[-1]


def test_advice_where_int8_never_loses() -> None:
    assert any("faster than FP32 in every row" in line for line in study.advise(TARGET, [row("conv1x1", 2.0)]))
