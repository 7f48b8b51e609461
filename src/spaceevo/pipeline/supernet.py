"""Stage 5: train one quantized-for-all supernet over the space."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from spaceevo.nets.network import Network
from spaceevo.pipeline import predict, space
from spaceevo.pipeline.any_space import SUPERNET, check_limits, load_network, train_supernet
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.curves import read_curve, write_curve
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import TrainingPoint
from spaceevo.train.loop import TrainedFiles
from spaceevo.train.ranks import Ranks, joined

NAME = SUPERNET
TITLE = "Train the quantized-for-all supernet"
NEEDS = (predict.NAME, space.NAME)
FILES = ("supernet-*.safetensors", "curve.json", "tensorboard/*")


def inputs(context: Context) -> dict[str, object]:
    """Data, settings, and what weights may be."""
    return {
        "data": context.data_hash,
        "supernet": context.recipe.supernet.model_dump(),
        "w_qmax": context.target.w_qmax,
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train, continuing from the last checkpoint, with the processes of the engine or of `torchrun`."""
    check_limits(context, space.load_space(context), predict.load_predictor(context).network_ms)
    if context.storage and context.ranks.count > 1:
        context.storage.push()
    context.ranks.agree(True)
    files, curve = context.engine.together(partial(_train, context, folder.absolute()), progress, context.trainer)
    files = TrainedFiles(folder / files.fp32.name, folder / files.int8.name)
    curve_path = folder / "curve.json"
    write_curve(curve_path, curve)
    return [files.fp32, files.int8, curve_path]


def _train(context: Context, folder: Path, progress: ProgressCallback) -> tuple[TrainedFiles, list[TrainingPoint]]:
    with joined() as ranks:
        return _train_found(context, folder, progress, ranks)


def help_train(context: Context) -> None:
    """What the other processes of `torchrun` do: wait for the first one, train with it, until it has ended."""
    while context.ranks.agree(False):
        if context.storage:
            context.storage.joined().pull()
        _train_found(context, context.run.stage(NAME).path, silent, context.ranks)


def _train_found(
    context: Context, folder: Path, progress: ProgressCallback, ranks: Ranks
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train the supernet of the space that the run has found."""
    own, latency_ms = space.load_space(context), predict.load_predictor(context).network_ms
    return train_supernet(context, own, folder, context.recipe.seed, latency_ms, progress, ranks)


def load_curve(context: Context) -> list[TrainingPoint]:
    """Losses of every step."""
    return read_curve(context.path(NAME, "curve.json"))


def load_supernet(context: Context, precision: str) -> Network:
    """The supernet at the end of its "fp32" or "int8" phase."""
    return load_network(context, space.load_space(context), context.run.stage(NAME).path, precision)
