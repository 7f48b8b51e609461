"""Stage 7: hand-made networks of matching latency, trained and quantized with the supernet's effort."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import write_atomically
from spaceevo.config import TrainingSettings
from spaceevo.nets.network import Network, program_of, single_network
from spaceevo.pipeline import predict
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.spaces.handmade import matching_mobilenet_v3
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import split, torch_generator
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import TrainedFiles, train

NAME = "baselines"
TITLE = "Train hand-made networks of matching latency with equal effort"
NEEDS = (predict.NAME,)


def inputs(context: Context) -> dict[str, object]:
    """Data and the supernet's training settings."""
    return {
        "data": context.data_hash,
        "training": settings_alone(context).model_dump(),
        "weight_scales": context.recipe.supernet.weight_scales,
        "w_qmax": context.target.w_qmax,
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train one network per budget, as jobs of their own."""
    jobs = [_Job(context, subnet, number, folder.absolute()) for number, subnet in enumerate(load_subnets(context))]
    for _ in context.engine.map(_fit, jobs, progress, needs=context.training):
        pass
    names = ("fp32.safetensors", "int8.safetensors", "curve.json")
    return [folder / f"baseline{number}-{name}" for number in range(len(jobs)) for name in names]


@dataclass(frozen=True)
class _Job:
    context: Context
    subnet: Subnet
    number: int
    folder: Path


def _fit(job: _Job, progress: ProgressCallback) -> None:
    with one_core():
        _, curve = train_network(job.context, job.subnet, job.number, job.folder, job.context.recipe.seed, progress)
    path = job.folder / f"baseline{job.number}-curve.json"
    write_atomically(path, json.dumps([point.model_dump() for point in curve]))
    return_free_memory()


def train_network(
    context: Context, subnet: Subnet, number: int, folder: Path, seed: int, progress: ProgressCallback
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train one network with the supernet's settings, continuing from the folder's checkpoint.

    Args:
        context: Data, settings and what weights may be.
        subnet: The network.
        number: Names it within the folder.
        folder: For its files.
        seed: Of all draws.
        progress: Called with work done and in all.
    """
    recipe, programs = context.recipe, [program_of(subnet)]
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return train(
        _network(context, subnet, number, seed),
        lambda rng: programs,
        images,
        settings_alone(context),
        recipe.data,
        seed=seed,
        purpose=f"baseline{number}",
        folder=folder,
        progress=progress,
    )


def load_subnets(context: Context) -> list[Subnet]:
    """The hand-made network of every budget."""
    predictor = predict.load_predictor(context)
    return [
        matching_mobilenet_v3(context.hyperspace, budget_ms, context.data.num_classes, predictor.network_ms)
        for budget_ms in predict.load_budgets(context)
    ]


def load_network(context: Context, subnet: Subnet, number: int, precision: str) -> Network:
    """A trained baseline at the end of its "fp32" or "int8" phase."""
    return load_trained(context, subnet, number, context.run.stage(NAME).path, precision)


def load_trained(context: Context, subnet: Subnet, number: int, folder: Path, precision: str) -> Network:
    """What `train_network` left in a folder, in evaluation mode, with the rounding of the target's runtime."""
    network = _network(context, subnet, number, context.recipe.seed)
    load_weights(network, folder / f"baseline{number}-{precision}.safetensors")
    network.quantized, network.arithmetic = precision == "int8", context.arithmetic
    return network.eval()


def load_curve(context: Context, number: int) -> list[TrainingPoint]:
    """Losses of one baseline."""
    content = json.loads(context.path(NAME, f"baseline{number}-curve.json").read_text())
    return [TrainingPoint.model_validate(point) for point in content]


def settings_alone(context: Context) -> TrainingSettings:
    """The supernet's settings, as far as they concern a network that is trained alone."""
    values = context.recipe.supernet.model_dump(include=set(TrainingSettings.model_fields))
    return TrainingSettings.model_validate(values)


def _network(context: Context, subnet: Subnet, number: int, seed: int) -> Network:
    generator = torch_generator(seed, "baseline", number, "weights")
    return single_network(program_of(subnet), context.target.w_qmax, generator, context.recipe.supernet.per_channel)
