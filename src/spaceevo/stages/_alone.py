"""One network trained alone with the supernet's settings: hand-made ones, and what a space is tried by."""

from __future__ import annotations

from pathlib import Path

from spaceevo.config import TrainingSettings
from spaceevo.nets.network import Network, program_of, single_network
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.run.context import Context
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import split, torch_generator
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import TrainedFiles, train

BASELINE = "baseline"


def settings_alone(context: Context, share: float = 1.0) -> TrainingSettings:
    """The supernet's settings, as far as they concern a network that is trained alone.

    With the epochs of fine-tuning, which found subnets get, for equal effort.

    Args:
        context: Recipe, folder and target of the run.
        share: How much of the epochs of both phases is trained, above 0.
    """
    recipe = context.recipe
    values = recipe.supernet.model_dump(include=set(TrainingSettings.model_fields))
    epochs = {
        "epochs_fp32": share * values["epochs_fp32"],
        "epochs_int8": share * (values["epochs_int8"] + recipe.finetune.epochs),
    }
    return TrainingSettings.model_validate(values | epochs)


def train_alone(
    context: Context,
    subnet: Subnet,
    number: int,
    folder: Path,
    seed: int,
    settings: TrainingSettings,
    progress: ProgressCallback,
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train one network, continuing from the folder's checkpoint.

    Args:
        context: Data, and what weights may be.
        subnet: Architecture of the network.
        number: Names it within the folder.
        folder: For its files.
        seed: All that is random follows from it.
        settings: Of the training.
        progress: Called with work done and in all.
    """
    recipe, programs = context.recipe, [program_of(subnet)]
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return train(
        _network(context, subnet, number, seed),
        lambda rng: programs,
        images,
        settings,
        recipe.data,
        seed=seed,
        purpose=f"{BASELINE}{number}",
        folder=folder,
        progress=progress,
    )


def load_alone(context: Context, subnet: Subnet, number: int, folder: Path, precision: str) -> Network:
    """What `train_alone` left in a folder, in evaluation mode, with the rounding of the target's runtime."""
    network = _network(context, subnet, number, context.recipe.seed)
    load_weights(network, folder / f"{BASELINE}{number}-{precision}.safetensors")
    network.quantized, network.arithmetic = precision == "int8", context.arithmetic
    return network.eval()


def _network(context: Context, subnet: Subnet, number: int, seed: int) -> Network:
    generator = torch_generator(seed, BASELINE, number, "weights")
    return single_network(program_of(subnet), context.target.w_qmax, generator, context.recipe.supernet.per_channel)
