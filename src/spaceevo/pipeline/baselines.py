"""Stage 8: hand-made networks of matching latency, trained and quantized with the supernet's effort.

Their latencies are told by a predictor of their own (predictor.json), fitted on networks like them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.nets.network import Network
from spaceevo.pipeline import predict
from spaceevo.pipeline.alone import BASELINE, load_alone, settings_alone, train_alone
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.curves import read_curve, write_curve
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.predict.fit import fit_networks
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import TrainingPoint
from spaceevo.spaces.handmade import every_mobilenet_v3, matching_mobilenet_v3
from spaceevo.spaces.subnet import Subnet

NAME = "baselines"
TITLE = "Train hand-made networks of matching latency with equal effort"
NEEDS = (predict.NAME,)
PREDICTOR = "predictor.json"
FIT_SHARE = 0.03  # of the time, for the progress only
NUM_FIT = 24
#: Networks are measured up to this many times the largest budget, by a predictor that knows none like them.
FIT_REACH = 2.0
FILES = (PREDICTOR, "baseline[0-9]*-*.safetensors", "baseline[0-9]*-curve.json", "tensorboard/*")


def inputs(context: Context) -> dict[str, object]:
    """Data, the supernet's training settings, and what the predictor is fitted on."""
    return {
        "data": context.data_hash,
        "training": settings_alone(context).model_dump(),
        "weight_scales": context.recipe.supernet.weight_scales,
        "w_qmax": context.target.w_qmax,
        "num_fit": NUM_FIT,
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Fit the predictor, then train one network per budget, as jobs of their own."""
    predictor = context.at_device(_predictor, part(progress, 0, FIT_SHARE))
    path = folder / PREDICTOR
    write_atomically(path, predictor.to_json())
    subnets = matching_subnets(context, predictor)
    jobs = [_Job(context, subnet, number, folder.absolute()) for number, subnet in enumerate(subnets)]
    for _ in context.engine.map(_fit, jobs, part(progress, FIT_SHARE, 1), needs=context.training):
        pass
    names = ("fp32.safetensors", "int8.safetensors", "curve.json")
    return [path, *(folder / f"{BASELINE}{number}-{name}" for number in range(len(jobs)) for name in names)]


def fit_subnets(context: Context) -> list[Subnet]:
    """Distinct hand-made networks, from the fastest to some that are slower than the largest budget."""
    latency_ms = predict.load_predictor(context).network_ms
    ascending = sorted(every_mobilenet_v3(context.hyperspace, context.data.num_classes), key=latency_ms)
    limit_ms = FIT_REACH * predict.load_budgets(context)[-1]
    near = ascending[: max(NUM_FIT, sum(latency_ms(subnet) <= limit_ms for subnet in ascending))]
    return [near[place] for place in np.linspace(0, len(near) - 1, min(NUM_FIT, len(near))).round().astype(int)]


def _predictor(context: Context, progress: ProgressCallback) -> LatencyPredictor:
    with context.store() as store:
        return fit_networks(fit_subnets(context), context.target, store, context.work_dir, progress)


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
    write_curve(job.folder / f"{BASELINE}{job.number}-curve.json", curve)
    return_free_memory()


def load_predictor(context: Context) -> LatencyPredictor:
    """Of the latency of hand-made networks; that of the hyperspace's subnets has seen none like them."""
    return LatencyPredictor.from_json(context.path(NAME, PREDICTOR).read_text(encoding="utf-8"))


def matching_subnets(context: Context, predictor: LatencyPredictor) -> list[Subnet]:
    """The hand-made network of every budget."""
    return [
        matching_mobilenet_v3(context.hyperspace, budget_ms, context.data.num_classes, predictor.network_ms)
        for budget_ms in predict.load_budgets(context)
    ]


def load_network(context: Context, subnet: Subnet, number: int, precision: str) -> Network:
    """A trained baseline at the end of its "fp32" or "int8" phase."""
    return load_alone(context, subnet, number, context.run.stage(NAME).path, precision)


def load_curve(context: Context, number: int) -> list[TrainingPoint]:
    """Losses of one baseline."""
    return read_curve(context.path(NAME, f"{BASELINE}{number}-curve.json"))
