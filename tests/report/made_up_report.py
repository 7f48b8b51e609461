"""Made-up records of a whole run."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from spaceevo.records import (
    AssessedNetwork,
    BlockTable,
    DistilledCell,
    FoundSubnet,
    LogitAgreement,
    ModelResult,
    PredictorAssessment,
    PredictorSummary,
    ScoredSpace,
    SpaceSearchResult,
    SpaceSearchStep,
    SpaceSummary,
    StageChoice,
    StageTime,
    Study,
    StudyRow,
    SubnetSearchResult,
    Summary,
    TargetDescription,
    TrainingPoint,
    Verification,
)
from spaceevo.report.data import ReportData
from spaceevo.spaces.hyperspace import load_hyperspace

OPERATORS = {
    "conv1x1": 2.4, "conv3x3": 2.6, "depthwise3x3": 1.7, "depthwise5x5": 1.9, "se": 0.8,
    "hard_swish": 0.6,
    "swish": 0.7, "mbv2": 1.9, "fused-mbconv": 2.3,
}  # fmt: skip
ENCODING = "r40_stem-conv-relu-16_stage1-mbv2-relu6-3#24#4.0_stage2-fused-mbconv-swish-3#48#2.0_5#56#1.0"


def make_model(budget_ms: float, top1_int8: float, **changes: object) -> ModelResult:
    int8_ms = 0.98 * budget_ms
    values: dict[str, object] = {
        "origin": "found",
        "budget_ms": budget_ms,
        "encoding": ENCODING,
        "macs": int(9.87e6 * budget_ms),
        "params": int(123_456 * budget_ms),
        "predicted_ms": 0.96 * budget_ms,
        "int8_ms": int8_ms,
        "fp32_ms": 2.1 * int8_ms,
        "speedup": 2.1,
        "top1_fp32": top1_int8 + 0.004,
        "top1_fake_quant": top1_int8 + 0.0005,
        "top1_int8": top1_int8,
        "verification": make_verification(),
        "int8_file": f"export/model_{budget_ms:g}ms_int8.onnx",
        "fp32_file": f"export/model_{budget_ms:g}ms_fp32.onnx",
        "network_file": f"export/model_{budget_ms:g}ms.safetensors",
    }
    return ModelResult.model_validate(values | changes)


def make_verification(top1: float = 1.0, float_operators: tuple[str, ...] = ()) -> Verification:
    return Verification(
        file="model-int8.onnx",
        runtime="onnxruntime 1.27.0",
        exported_for="x86-vnni",
        verified_on="x86-vnni",
        num_images=2000,
        top1=0.81,
        top1_fake_quantized=0.8105,
        integer=LogitAgreement(top1=top1, identical_codes=1.0, mean_steps=0.0, max_steps=0.0),
        fake_quantized=LogitAgreement(top1=0.9985, identical_codes=0.97, mean_steps=0.03, max_steps=1.7),
        float_operators=float_operators,
        changed_constants=(),
    )


def make_target(**changes: object) -> TargetDescription:
    values: dict[str, object] = {
        "name": "onnxruntime@local",
        "runtime": "onnxruntime",
        "runtime_version": "1.27.0",
        "device": "Intel Xeon Platinum 8370C",
        "machine": "x86_64",
        "flags": ("avx2", "avx512f", "avx512_vnni"),
        "threads": 2,
        "w_qmax": 127,
    }
    return TargetDescription.model_validate(values | changes)


def make_summary(**changes: object) -> Summary:
    stages = (("study", 64), ("measure", 148), ("distill", 611), ("search-spaces", 9.4), ("supernet", 903),
              ("subnets", 88), ("export", 21.5))  # fmt: skip
    values: dict[str, Any] = {
        "name": "digits-demo",
        "data": "digits",
        "num_classes": 10,
        "num_val_images": 2000,
        "target": make_target(),
        "versions": {"spaceevo": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.27.0", "python": "3.11.9"},
        "seed": 7,
        "stages": tuple(StageTime(name=name, seconds=seconds) for name, seconds in stages),
        "peak_rss_mib": 2345.6,
        "predictor": PredictorSummary(
            num_fit=200, num_unseen=60, within_10_percent=0.95, within_5_percent=0.75, mape=0.041, spearman=0.987
        ),
        "space": SpaceSummary(encoding="micro-413-223", qt_score=2.345, num_within_tolerance=12),
        "models": (make_model(0.8, 0.812), make_model(1.2, 0.843), make_model(2.0, 0.871)),
        "baselines": (
            make_model(0.8, 0.79, int8_ms=0.75, fp32_ms=1.6, predicted_ms=0.78, speedup=2.13),
            make_model(1.2, 0.809),
            make_model(2.0, 0.866, int8_ms=1.93, fp32_ms=3.5, predicted_ms=1.85, speedup=1.81),
        ),
    }
    values |= changes
    values["baselines"] = tuple(model.model_copy(update={"origin": "hand-made"}) for model in values["baselines"])
    return Summary.model_validate(values)


def make_study(target: TargetDescription) -> Study:
    rng = random.Random(1)
    rows = []
    for size in (8, 16, 32):
        for operator, speedup in OPERATORS.items():
            for width in (16, 32, 64, 96, 128):
                int8_ms = 1e-6 * width * size**2 * (2 if "conv" in operator else 1)
                factor = speedup * (0.75 + 0.1 * math.log2(width / 16)) * rng.uniform(0.92, 1.08)
                rows.append(
                    StudyRow(operator=operator, width=width, size=size, fp32_ms=factor * int8_ms, int8_ms=int8_ms)
                )
    advice = (
        "Avoid swish, hard_swish and se: INT8 is slower than FP32 there.",
        "Prefer widths of 32 and more.",
    )
    return Study(target=target, rows=tuple(rows), advice=advice)


def make_assessment() -> PredictorAssessment:
    rng = random.Random(2)
    measured = [rng.uniform(0.3, 3.0) for _ in range(60)]
    networks = tuple(
        AssessedNetwork(encoding=f"{ENCODING}_{i}", measured_ms=ms, predicted_ms=ms * rng.gauss(1.0, 0.05))
        for i, ms in enumerate(measured)
    )
    return PredictorAssessment(
        num_fit=200,
        num_unseen=60,
        within_10_percent=0.95,
        within_5_percent=0.75,
        mape=0.041,
        spearman=0.987,
        networks=networks,
    )


def make_table() -> BlockTable:
    rng = np.random.default_rng(3)
    hyperspace = load_hyperspace("micro")
    columns: dict[str, list[float]] = {name: [] for name in ("stage", "block", "window", "resolution", "nsr", "ms")}
    for s, stage in enumerate(hyperspace.searched):
        for b in range(len(stage.choices)):
            for w in range(stage.num_windows):
                for _ in range(80):
                    ms = float(rng.lognormal(-1.8 + 0.15 * w, 0.5))
                    loss = (0.1 + 0.03 * b + 0.05 * s) * (0.3 / ms) ** 0.35 * float(rng.uniform(1, 1.5))
                    for name, value in zip(columns, (s, b, w, 40, loss, ms), strict=True):
                        columns[name].append(value)
    count = len(columns["ms"])
    whole = {name: np.asarray(columns[name], dtype=np.int64) for name in ("stage", "block", "window", "resolution")}
    return BlockTable(
        **whole, nsr_loss=np.asarray(columns["nsr"]), latency_ms=np.asarray(columns["ms"]),
        macs=np.full(count, 1000), num_params=np.full(count, 100), in_width=np.full(count, 16),
        blocks=np.full(count, "3#24#4.0"), failed=frozenset({(2, 0)}),
    )  # fmt: skip


def make_cells() -> tuple[DistilledCell, ...]:
    rng = random.Random(4)
    cells = []
    for s, stage in enumerate(load_hyperspace("micro").searched):
        for b, choice in enumerate(stage.choices):
            fp32 = rng.uniform(0.05, 0.2) * (1 + s)
            failed = (s, b) == (2, 0)
            cells.append(
                DistilledCell(
                    stage=stage.name,
                    block=b,
                    block_type=str(choice.block_type),
                    nsr_fp32=fp32,
                    nsr_int8=1.02 if failed else fp32 * 1.1,
                    curve=(1.0, 0.5, fp32),
                    attempts=3 if failed else 1,
                    failure="the loss stayed above 0.95" if failed else "",
                )
            )
    return tuple(cells)


def make_search() -> SpaceSearchResult:
    rng = random.Random(5)
    blocks = ("4", "4", "4", "2"), ("1", "1", "1", "4"), ("1", "3", "2", "2")
    names = ["micro-413-223"]
    while len(names) < 12:
        digits = "".join(rng.choice(choices) for choices in blocks)
        name = f"micro-{digits}-{rng.randrange(1, 4)}{rng.randrange(1, 4)}3"
        if name not in names:
            names.append(name)
    history = tuple(
        SpaceSearchStep(
            num_evaluated=50 * i,
            best_score=2.345 - 0.9 * math.exp(-i / 5),
            population_mean=2.2 - math.exp(-i / 9),
        )
        for i in range(1, 41)
    )
    scored = tuple(ScoredSpace(encoding=name, qt_score=2.345 - 0.001 * i) for i, name in enumerate(names))
    return SpaceSearchResult(
        hyperspace="micro", budgets_ms=(0.8, 1.2, 2.0), best=scored[0], within_tolerance=scored,
        tolerance=0.01, num_evaluated=2000, history=history, sampled_score=2.331,
        excluded=("stage3/mbv1-dual-relu",), num_allowed=10_000, why_unbounded="A cell has 9 rows, fewer than 30",
        choices=(
            StageChoice(stage="stage1", kind="block", index=4, name="fused-ib-relu", share=1.0, loss_without=0.031),
            StageChoice(stage="stage2", kind="window", index=1, name="48-80", share=0.5, loss_without=0.0),
        ),
    )  # fmt: skip


def make_curve(*, smallest: bool = False, steps: int = 900) -> tuple[TrainingPoint, ...]:
    rng = random.Random(6)
    points = []
    for step in range(0, steps, 2):
        quantized = step >= 0.7 * steps
        loss = 0.35 + 2 * math.exp(-step / (steps / 6)) + rng.gauss(0, 0.05)
        loss += 0.3 * math.exp(-(step - 0.7 * steps) / 30) if quantized else 0
        points.append(
            TrainingPoint(
                phase="lsq+" if quantized else "fp32",
                step=step,
                loss=loss,
                loss_smallest=1.4 * loss + 0.1 if smallest else None,
                lr=0.1,
            )
        )
    return tuple(points)


def make_subnets() -> SubnetSearchResult:
    rng = random.Random(7)
    evaluated, found = [], []
    for budget_ms in (0.8, 1.2, 2.0):
        for i in range(150):
            ms = rng.uniform(0.45, 1.0) * budget_ms
            top1 = 0.89 - 0.07 / ms - abs(rng.gauss(0, 0.02))
            evaluated.append(FoundSubnet(budget_ms=budget_ms, encoding=f"{budget_ms}-{i}", predicted_ms=ms, top1=top1))
        found.append(
            max((s for s in evaluated if s.predicted_ms <= budget_ms), key=lambda s: s.top1).model_copy(
                update={"budget_ms": budget_ms}
            )
        )
    return SubnetSearchResult(space="micro-413-223", found=tuple(found), evaluated=tuple(evaluated))


def make_data(**summary_changes: object) -> ReportData:
    summary = make_summary(**summary_changes)
    return ReportData(
        summary=summary,
        study=make_study(summary.target),
        assessment=make_assessment(),
        cells=make_cells(),
        table=make_table(),
        search=make_search(),
        hyperspace=load_hyperspace("micro"),
        curves={
            "teacher": make_curve(steps=500),
            "supernet": make_curve(smallest=True),
            "baseline 1.2 ms": make_curve(steps=300),
        },
        subnets=make_subnets(),
    )
