"""Train hand-made networks of matching latency with equal effort.

Their latencies are told by a predictor of their own (predictor.json), fitted on networks like them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.nets.network import Network
from spaceevo.predict.fit import fit_networks
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import TrainingPoint
from spaceevo.run.context import Context
from spaceevo.run.curves import read_curve, write_curve
from spaceevo.run.jobs import one_core
from spaceevo.run.memory import return_free_memory
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.run.work import FILES_PER_WEIGHT
from spaceevo.spaces.handmade import every_mobilenet_v3, matching_mobilenet_v3
from spaceevo.spaces.subnet import Subnet
from spaceevo.stages import predict
from spaceevo.stages._alone import BASELINE, load_alone, settings_alone, train_alone
from spaceevo.stages.predict import Predicted

PREDICTOR = "predictor.json"
FIT_SHARE = 0.03  # of the time, for the progress only
NUM_FIT = 24
#: Networks are measured up to this many times the largest budget, by a predictor that knows none like them.
FIT_REACH = 2.0
PHASES = ("fp32", "int8")


@dataclass(frozen=True)
class Baselines:
    """The hand-made networks of a run, trained.

    Attributes:
        context: Of the run.
        predictor: Of the latency of hand-made networks; that of the hyperspace's subnets has seen none like them.
        subnets: One per budget.
        folder: Of their weights.
        curves: Losses of each.
    """

    context: Context
    predictor: LatencyPredictor
    subnets: Sequence[Subnet]
    folder: Path
    curves: Sequence[Sequence[TrainingPoint]]

    def network(self, number: int, precision: str) -> Network:
        """The network of a budget at the end of its "fp32" or "int8" phase, in evaluation mode."""
        return load_alone(self.context, self.subnets[number], number, self.folder, precision)


class _Files:
    def save(self, value: Baselines, folder: Path) -> list[Path]:
        write_atomically(folder / PREDICTOR, value.predictor.to_json())
        names = (*(f"{phase}.safetensors" for phase in PHASES), "curve.json")
        numbers = range(len(value.subnets))
        return [folder / PREDICTOR, *(folder / f"{BASELINE}{number}-{name}" for number in numbers for name in names)]

    def load(self, folder: Path, context: Context, given: Given) -> Baselines:
        predictor = LatencyPredictor.from_json((folder / PREDICTOR).read_text(encoding="utf-8"))
        subnets = matching_subnets(context, predictor, given[predict.STAGE].budgets_ms)
        return Baselines(context, predictor, subnets, folder, _curves(folder, len(subnets)))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Data, the supernet's training settings, and what the predictor is fitted on."""
    return {
        "data": context.data_hash,
        "training": settings_alone(context).model_dump(),
        "weight_scales": context.recipe.supernet.weight_scales,
        "w_qmax": context.target.w_qmax,
        "num_fit": NUM_FIT,
        "seed": context.recipe.seed,
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> Baselines:
    """Fit the predictor, then train one network per budget, as jobs of their own."""
    predicted = given[predict.STAGE]
    near = fit_subnets(context, predicted)
    predictor = context.at_device(partial(_predictor, near), part(progress, 0, FIT_SHARE))
    write_atomically(folder / PREDICTOR, predictor.to_json())
    subnets = matching_subnets(context, predictor, predicted.budgets_ms)
    jobs = [_Job(context, subnet, number, folder.absolute()) for number, subnet in enumerate(subnets)]
    for _ in context.engine.map(_fit, jobs, part(progress, FIT_SHARE, 1), needs=context.training):
        pass
    return Baselines(context, predictor, subnets, folder, _curves(folder, len(jobs)))


def fit_subnets(context: Context, predicted: Predicted) -> list[Subnet]:
    """Distinct hand-made networks, from the fastest to some that are slower than the largest budget."""
    latency_ms = predicted.predictor.network_ms
    ascending = sorted(every_mobilenet_v3(context.hyperspace, context.data.num_classes), key=latency_ms)
    limit_ms = FIT_REACH * predicted.budgets_ms[-1]
    near = ascending[: max(NUM_FIT, sum(latency_ms(subnet) <= limit_ms for subnet in ascending))]
    return [near[place] for place in np.linspace(0, len(near) - 1, min(NUM_FIT, len(near))).round().astype(int)]


def _predictor(subnets: Sequence[Subnet], context: Context, progress: ProgressCallback) -> LatencyPredictor:
    with context.store() as store:
        return fit_networks(subnets, context.target, store, context.work_dir, progress)


@dataclass(frozen=True)
class _Job:
    context: Context
    subnet: Subnet
    number: int
    folder: Path

    def __str__(self) -> str:
        return f"baseline {self.number}"


def _fit(job: _Job, progress: ProgressCallback) -> None:
    with one_core():
        _, curve = train_alone(
            job.context,
            job.subnet,
            job.number,
            job.folder,
            job.context.recipe.seed,
            settings_alone(job.context),
            progress,
        )
    write_curve(_curve_path(job.folder, job.number), curve)
    return_free_memory()


def matching_subnets(context: Context, predictor: LatencyPredictor, budgets_ms: Sequence[float]) -> list[Subnet]:
    """The hand-made network of every budget."""
    return [
        matching_mobilenet_v3(context.hyperspace, budget_ms, context.data.num_classes, predictor.network_ms)
        for budget_ms in budgets_ms
    ]


def _curve_path(folder: Path, number: int) -> Path:
    return folder / f"{BASELINE}{number}-curve.json"


def _curves(folder: Path, count: int) -> list[Sequence[TrainingPoint]]:
    return [read_curve(_curve_path(folder, number)) for number in range(count)]


def _work(planning: Planning) -> StageWork:
    work = planning.work
    return StageWork(planning.networks(work.baselines), NUM_FIT, work.num_budgets * FILES_PER_WEIGHT * work.network_mib)


STAGE: Stage[Baselines] = Stage(
    name="baselines",
    title="Train hand-made networks of matching latency with equal effort",
    needs=(predict.STAGE,),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=(PREDICTOR, "baseline[0-9]*-*.safetensors", "baseline[0-9]*-curve.json", "tensorboard/*"),
    checks=Checks(trains=lambda context: True),
    work=_work,
)
