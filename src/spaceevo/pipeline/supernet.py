"""Stage 5: train one quantized-for-all supernet over the space."""

from __future__ import annotations

import json
from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.nets.network import Network
from spaceevo.pipeline import space
from spaceevo.pipeline.context import Context
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.train.batches import split
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import train
from spaceevo.train.losses import DISTILLATION_LOSSES
from spaceevo.train.supernet import make_supernet, sandwich

NAME = "supernet"
TITLE = "Train the quantized-for-all supernet"
NEEDS = (space.NAME,)


def inputs(context: Context) -> dict[str, object]:
    """Data, settings, and what weights may be."""
    return {
        "data": context.data_hash,
        "supernet": context.recipe.supernet.model_dump(),
        "w_qmax": context.target.w_qmax,
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train, continuing from the last checkpoint."""
    recipe = context.recipe
    best = space.load_space(context)
    network = make_supernet(best, context.target.w_qmax, recipe.seed, recipe.supernet.per_channel)
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    files, curve = train(
        network,
        sandwich(best, recipe.supernet.num_random),
        images,
        recipe.supernet,
        recipe.data,
        seed=recipe.seed,
        purpose=NAME,
        folder=folder,
        progress=progress,
        distillation_loss=DISTILLATION_LOSSES[recipe.supernet.distillation],
    )
    curve_path = folder / "curve.json"
    write_atomically(curve_path, json.dumps([point.model_dump() for point in curve]))
    return [files.fp32, files.int8, curve_path]


def load_curve(context: Context) -> list[TrainingPoint]:
    """Losses of every step."""
    content = json.loads(context.path(NAME, "curve.json").read_text())
    return [TrainingPoint.model_validate(point) for point in content]


def load_supernet(context: Context, precision: str) -> Network:
    """The supernet at the end of its "fp32" or "int8" phase."""
    recipe = context.recipe
    network = make_supernet(space.load_space(context), context.target.w_qmax, recipe.seed, recipe.supernet.per_channel)
    load_weights(network, context.path(NAME, f"{NAME}-{precision}.safetensors"))
    network.quantized, network.arithmetic = precision == "int8", context.arithmetic
    return network.eval()
