"""Train the quantized-for-all supernet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from spaceevo.nets.network import Network
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import TrainingPoint
from spaceevo.run.context import Context
from spaceevo.run.curves import read_curve, write_curve
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.stages import predict, space
from spaceevo.stages._any_space import check_limits, load_network, train_supernet, weights_name
from spaceevo.train.ranks import Ranks, joined

CURVE = "curve.json"


@dataclass(frozen=True)
class TrainedSupernet:
    """The supernet of a run.

    Attributes:
        context: Of the run.
        space: Its space, which the run has chosen.
        folder: Of its weights, one file per phase.
        curve: Losses of every step.
    """

    context: Context
    space: SearchSpace
    folder: Path
    curve: Sequence[TrainingPoint]

    def network(self, precision: str) -> Network:
        """The supernet at the end of its "fp32" or "int8" phase, in evaluation mode."""
        return load_network(self.context, self.space, self.folder, precision)


class _Files:
    def save(self, value: TrainedSupernet, folder: Path) -> list[Path]:
        write_curve(folder / CURVE, value.curve)
        return [folder / weights_name("fp32"), folder / weights_name("int8"), folder / CURVE]

    def load(self, folder: Path, context: Context, given: Given) -> TrainedSupernet:
        return TrainedSupernet(context, given[space.STAGE].space, folder, read_curve(folder / CURVE))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Data, settings, and what weights may be."""
    return {
        "data": context.data_hash,
        "supernet": context.recipe.supernet.model_dump(),
        "w_qmax": context.target.w_qmax,
        "seed": context.recipe.seed,
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> TrainedSupernet:
    """Train, continuing from the last checkpoint, with the processes of the engine or of `torchrun`."""
    job = _job(context, given, folder.absolute())
    check_limits(context, job.space, job.predictor.network_ms, job.budgets_ms)
    if context.storage and context.ranks.count > 1:
        context.storage.push()
    context.ranks.agree(True)
    curve = context.engine.together(partial(_train, job), progress, context.trainer)
    return TrainedSupernet(context, job.space, folder, curve)


@dataclass(frozen=True)
class _Job:
    context: Context
    folder: Path
    space: SearchSpace
    predictor: LatencyPredictor
    budgets_ms: tuple[float, ...]


def _job(context: Context, given: Given, folder: Path) -> _Job:
    predicted = given[predict.STAGE]
    return _Job(context, folder, given[space.STAGE].space, predicted.predictor, predicted.budgets_ms)


def _train(job: _Job, progress: ProgressCallback) -> list[TrainingPoint]:
    with joined() as ranks:
        return _train_with(job, ranks, progress)


def _help(context: Context, given: Given, folder: Path) -> None:
    """What the other processes of `torchrun` do: train with the first one."""
    _train_with(_job(context, given, folder), context.ranks, silent)


def _train_with(job: _Job, ranks: Ranks, progress: ProgressCallback) -> list[TrainingPoint]:
    context = job.context
    _, curve = train_supernet(
        context, job.space, job.folder, context.recipe.seed, job.predictor.network_ms, job.budgets_ms, progress, ranks
    )
    return curve


def _work(planning: Planning) -> StageWork:
    work = planning.work
    return StageWork(planning.supernet(work.supernet_fp32, work.supernet_int8), disk_mib=work.supernet_mib)


STAGE: Stage[TrainedSupernet] = Stage(
    name="supernet",
    title="Train the quantized-for-all supernet",
    needs=(predict.STAGE, space.STAGE),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=("supernet-*.safetensors", CURVE, "tensorboard/*"),
    checks=Checks(trains=lambda context: True),
    work=_work,
    help_make=_help,
)
