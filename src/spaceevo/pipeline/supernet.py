"""Stage 5: train one quantized-for-all supernet over the space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from spaceevo.nets.network import Network, program_of
from spaceevo.pipeline import predict, space
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.curves import read_curve, write_curve
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import TrainingPoint
from spaceevo.search.subnet_search import fastest_within
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import split
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import TrainedFiles, train
from spaceevo.train.losses import DISTILLATION_LOSSES
from spaceevo.train.ranks import ALONE, Ranks, joined
from spaceevo.train.supernet import Within, make_supernet, sandwich_within

NAME = "supernet"
TITLE = "Train the quantized-for-all supernet"
NEEDS = (predict.NAME, space.NAME)


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


def train_supernet(
    context: Context,
    own: SearchSpace,
    folder: Path,
    seed: int,
    latency_ms: Callable[[Subnet], float],
    progress: ProgressCallback,
    ranks: Ranks = ALONE,
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train the supernet of a space with the settings of the recipe, continuing from the folder's checkpoint.

    Args:
        context: Data, settings and what weights may be.
        own: The space.
        folder: For its files.
        seed: Of all draws.
        latency_ms: Predicts.
        progress: Called with work done and in all.
        ranks: The processes that train together.

    Raises:
        InfeasibleBudgetError: No subnet meets the largest budget, and only those that do are to be trained.
    """
    recipe = context.recipe
    network = make_supernet(own, context.target.w_qmax, seed, recipe.supernet.per_channel)
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return train(
        network,
        sandwich_within(trained_subnets(context, own, latency_ms), recipe.supernet.num_random, recipe.seed),
        images,
        recipe.supernet,
        recipe.data,
        seed=seed,
        purpose=NAME,
        folder=folder,
        progress=progress,
        distillation_loss=DISTILLATION_LOSSES[recipe.supernet.distillation],
        first_alone=recipe.supernet.large_first,
        complete=program_of(own.largest()),
        ranks=ranks,
    )


def trained_subnets(context: Context, own: SearchSpace, latency_ms: Callable[[Subnet], float]) -> Within:
    """Those that the recipe wants trained.

    Within budgets, the small one is a large one of the smallest budget that the space can meet; of a single budget, a
    fast one. What every step trains is by far the most accurate, so it should be something that may be chosen.

    Raises:
        InfeasibleBudgetError: See `train_supernet`.
    """
    if context.recipe.supernet.subnets == "all":
        return Within.all_of(own)
    seed, budgets = context.recipe.seed, predict.load_budgets(context)
    small = fastest = fastest_within(own, budgets[-1], latency_ms, seed)
    smaller = [budget_ms for budget_ms in budgets[:-1] if latency_ms(fastest) <= budget_ms]
    if smaller:
        small = _within(own, latency_ms, smaller[0], fastest).large(seed)
    return _within(own, latency_ms, budgets[-1], small)


def _within(own: SearchSpace, latency_ms: Callable[[Subnet], float], budget_ms: float, small: Subnet) -> Within:
    return Within(own, lambda subnet: latency_ms(subnet) <= budget_ms, small)


def load_curve(context: Context) -> list[TrainingPoint]:
    """Losses of every step."""
    return read_curve(context.path(NAME, "curve.json"))


def load_supernet(context: Context, precision: str) -> Network:
    """The supernet at the end of its "fp32" or "int8" phase."""
    return load_network(context, space.load_space(context), context.run.stage(NAME).path, precision)


def weights_name(precision: str) -> str:
    """Of the file with the weights at the end of a phase."""
    return f"{NAME}-{precision}.safetensors"


def load_network(context: Context, own: SearchSpace, folder: Path, precision: str) -> Network:
    """What `train_supernet` left in a folder, in evaluation mode, with the rounding of the target's runtime."""
    network = make_supernet(own, context.target.w_qmax, context.recipe.seed, context.recipe.supernet.per_channel)
    load_weights(network, folder / weights_name(precision))
    network.quantized, network.arithmetic = precision == "int8", context.arithmetic
    return network.eval()
