"""The study finds the costs that a simulated device has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.errors import UnstableSessionError
from spaceevo.graph.ops import Quantize, Relabel
from spaceevo.measure import study, target
from spaceevo.measure.campaign import Precision, Program
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.records import Measurement, StudyRow, TargetDescription
from spaceevo.spaces.hyperspace import load_hyperspace

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


MICRO = load_hyperspace("micro")


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
            macs = sum(node.macs for node in program)
            calls = sum(not isinstance(node.op, Quantize | Relabel) for node in program)
            ms = overhead_ms + per_operator_ms * calls + macs * (1e-6 if precision == "int8" else 4e-6)
            measured.append(Measurement(latency_ms=ms, low_ms=ms, high_ms=ms, samples_ms=(ms,)))
        return measured

    return measure_programs


def run(tmp_path: Path) -> dict[tuple[str, int, int], StudyRow]:
    with Store(tmp_path / "m.db") as store:
        found = study.study(
            TARGET,
            store,
            tmp_path,
            hyperspace=MICRO,
            conv_widths=(8, 12),
            widths=(8, 16),
            sizes=(4, 6),
            progress=ignore,
        )
    assert found.target == TARGET
    rows = {(row.operator, row.width, row.size): row for row in found.rows}
    assert len(rows) == len(found.rows) == (len(study.OPERATORS) + len(study.block_types(MICRO))) * 4 + 1
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
    assert rows["conv1x1", 12, 6].int8_ms == pytest.approx(0.01 + 12 * 12 * 36 * 1e-6)
    hidden = 48
    block = 2 * 16 * hidden * 36 + 9 * hidden * 36
    assert rows["mbv2-relu6", 16, 6].int8_ms == pytest.approx(0.04 + block * 1e-6)


def test_a_latency_lost_in_the_noise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "measure_programs", fake_campaign(overhead_ms=50.0, per_operator_ms=-0.1))
    with pytest.raises(UnstableSessionError, match="lost in the noise"):
        run(tmp_path)


def test_a_real_study_of_one_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "OPERATORS", {"conv1x1": study.OPERATORS["conv1x1"]})
    steps: list[tuple[int, int]] = []
    with Store(tmp_path / "m.db") as store:
        found = study.study(
            target.describe("onnxruntime@local"),
            store,
            tmp_path,
            hyperspace=replace(MICRO, stages=()),
            conv_widths=(),
            widths=(32,),
            sizes=(12,),
            plan=Plan(visits=3, runs_per_visit=2),
            progress=lambda *step: steps.append(step),
        )
    assert [(row.operator, row.width, row.size) for row in found.rows] == [("conv1x1", 32, 12)]
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


def test_advice_on_block_types_of_a_hyperspace() -> None:
    rows = [row("conv1x1", 9.0), row("mbv2-relu6", 3.0), row("mbv3-swish", 2.0)]
    text = " ".join(study.advise(TARGET, rows, ("mbv2-relu6", "mbv3-swish"), "mine"))
    assert "INT8 gains most in conv1x1 (9.0x)" in text
    assert "Of the block types of mine, INT8 gains most in mbv2-relu6 (3.0x) and least in mbv3-swish (2.0x)" in text


def conv(width: int, int8_ms: float) -> StudyRow:
    return StudyRow(operator="conv1x1", width=width, size=6, fp32_ms=3 * int8_ms, int8_ms=int8_ms)


def test_advice_on_widths() -> None:
    widths = range(8, 72, 8)
    padded = [conv(width, (-(-width // 16) * 16) ** 2 * 1e-6) for width in widths]  # computed in tiles of 16
    text = " ".join(study.advise(TARGET, padded))
    assert "The speedup of a 1x1 convolution is 3.0 at 8 channels and 3.0 at 64." in text
    assert "multiples of 16 pay" in text
    smooth = [conv(width, (width**2 + 100) * 1e-6) for width in widths]
    assert "pay" not in " ".join(study.advise(TARGET, smooth))
