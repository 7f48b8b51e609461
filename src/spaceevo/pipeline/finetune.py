"""Stage 7: fine-tune the found subnets, each alone, if the recipe asks for it.

A supernet that was trained for minutes leaves something to gain; one that was trained for long should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceevo.config import TrainingSettings
from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network, extract, program_of
from spaceevo.pipeline import space, subnets, supernet
from spaceevo.pipeline.alone import settings_alone
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.curves import read_curve, write_curve
from spaceevo.pipeline.jobs import one_core
from spaceevo.pipeline.memory import return_free_memory
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.spaces.encoding import decode
from spaceevo.train.batches import split
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import train

NAME = "finetune"
TITLE = "Fine-tune the found subnets, each alone"
NEEDS = (supernet.NAME, subnets.NAME)
#: Reaches it through the supernet, whose files differ with the space.
READS = (space.NAME,)
FILES = ("subnet[0-9]*-*.safetensors", "subnet[0-9]*-curve.json", "tensorboard/*")


def inputs(context: Context) -> dict[str, object]:
    """Data and settings."""
    return {
        "data": context.data_hash,
        "training": settings(context, context.recipe.finetune.epochs).model_dump(),
        "seed": context.recipe.seed,
    }


def run(context: Context, folder: Path, progress: ProgressCallback) -> list[Path]:
    """Train one subnet per budget, as jobs of their own; none without epochs."""
    if not is_wanted(context):
        return []
    best = space.load_space(context)
    jobs = [
        _Job(context, program_of(decode(found.encoding, best)), number, folder.absolute())
        for number, found in enumerate(subnets.load(context).found)
    ]
    for _ in context.engine.map(_fit, jobs, progress, needs=context.training):
        pass
    return [
        folder / f"subnet{number}-{name}" for number in range(len(jobs)) for name in ("int8.safetensors", "curve.json")
    ]


def is_wanted(context: Context) -> bool:
    """Whether the recipe asks for it."""
    return context.recipe.finetune.epochs > 0


def settings(context: Context, epochs: float, lr_factor: float = 1.0) -> TrainingSettings:
    """Those of the supernet's LSQ+ phase, for so many epochs, with so many times its learning rate."""
    alone = settings_alone(context)
    return alone.model_copy(update={"epochs_int8": epochs, "lr_int8": lr_factor * alone.lr_int8})


def tune(
    context: Context,
    trained: Network,
    program: Program,
    settings: TrainingSettings,
    name: str,
    seed: int,
    folder: Path,
    progress: ProgressCallback,
) -> tuple[Network, Sequence[TrainingPoint]]:
    """Train what a supernet's LSQ+ phase left of a subnet, continuing from the folder's checkpoint.

    Args:
        context: Gives the data and how they are augmented.
        trained: The supernet at the end of its LSQ+ phase; it stays as it is.
        program: Operators of the subnet.
        settings: Of the training, of which only the LSQ+ phase is done.
        name: Names it within the folder, and its draws.
        seed: All that is random follows from it.
        folder: For its files.
        progress: Called with work done and in all.

    Returns:
        The network in evaluation mode, its batch norm to be recalibrated, and the losses.
    """
    recipe = context.recipe
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    network = extract(trained, program)
    _, curve = train(
        network,
        lambda rng: [program],
        images,
        settings,
        recipe.data,
        seed=seed,
        purpose=name,
        folder=folder,
        progress=progress,
    )
    network.arithmetic = context.arithmetic
    return network.eval(), curve


@dataclass(frozen=True)
class _Job:
    context: Context
    program: Program
    number: int
    folder: Path

    def __str__(self) -> str:
        return f"subnet {self.number}"


def _fit(job: _Job, progress: ProgressCallback) -> None:
    context, trained = job.context, supernet.load_supernet(job.context, "int8")
    curve = tune_found(context, trained, job.program, job.number, context.recipe.seed, job.folder, progress)
    write_curve(job.folder / f"subnet{job.number}-curve.json", curve)


def tune_found(
    context: Context,
    trained: Network,
    program: Program,
    number: int,
    seed: int,
    folder: Path,
    progress: ProgressCallback,
) -> Sequence[TrainingPoint]:
    """Fine-tune what was found for a budget as the recipe asks for it, on one core; see `tune`.

    Args:
        context: Data and settings.
        trained: As of `tune`.
        program: The subnet's.
        number: Of the budget.
        seed: All that is random follows from it.
        folder: For its files, which `load_tuned` reads.
        progress: Called with work done and in all.

    Returns:
        The losses.
    """
    own = settings(context, context.recipe.finetune.epochs)
    with one_core():
        _, curve = tune(context, trained, program, own, f"subnet{number}", seed, folder, progress)
    return_free_memory()
    return curve


def load_network(context: Context, program: Program, number: int) -> Network:
    """A fine-tuned subnet, in evaluation mode, with the rounding of the target's runtime."""
    return load_tuned(supernet.load_supernet(context, "int8"), program, number, context.run.stage(NAME).path)


def load_tuned(trained: Network, program: Program, number: int, folder: Path) -> Network:
    """What `tune_found` left of a supernet's subnet, in evaluation mode, with the supernet's rounding."""
    network = extract(trained, program)
    load_weights(network, folder / f"subnet{number}-int8.safetensors")
    return network.eval()


def load_curve(context: Context, number: int) -> list[TrainingPoint]:
    """Losses of one subnet; none where it was not fine-tuned."""
    if not is_wanted(context):
        return []
    return read_curve(context.path(NAME, f"subnet{number}-curve.json"))
