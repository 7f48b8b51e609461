"""Fine-tune the found subnets, each alone, if the recipe asks for it.

A supernet that was trained for minutes leaves something to gain; one that was trained for long should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceevo.config import TrainingSettings
from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network, extract, program_of
from spaceevo.progress import ProgressCallback
from spaceevo.records import TrainingPoint
from spaceevo.run.context import Context
from spaceevo.run.curves import read_curve, write_curve
from spaceevo.run.jobs import one_core
from spaceevo.run.memory import return_free_memory
from spaceevo.run.planning import Planning, StageWork
from spaceevo.run.stage import Checks, Given, Stage
from spaceevo.run.work import FILES_PER_WEIGHT
from spaceevo.spaces.encoding import decode
from spaceevo.stages import space, subnets, supernet
from spaceevo.stages._alone import settings_alone
from spaceevo.stages.supernet import TrainedSupernet
from spaceevo.train.batches import split
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.loop import train


@dataclass(frozen=True)
class FineTuned:
    """The fine-tuned subnets, if there are any.

    Attributes:
        folder: Of their weights.
        curves: Losses of each, by the number of its budget; none where the recipe does not ask for them.
    """

    folder: Path
    curves: tuple[Sequence[TrainingPoint], ...]

    def curve(self, number: int) -> Sequence[TrainingPoint]:
        """Losses of the subnet of a budget; none where it was not fine-tuned."""
        return self.curves[number] if self.curves else ()

    def network(self, trained: Network, program: Program, number: int) -> Network:
        """A fine-tuned subnet, in evaluation mode, with the supernet's rounding.

        Args:
            trained: The supernet at the end of its LSQ+ phase.
            program: The subnet's.
            number: Of its budget.
        """
        return load_tuned(trained, program, number, self.folder)


class _Files:
    def save(self, value: FineTuned, folder: Path) -> list[Path]:
        names = ("int8.safetensors", "curve.json")
        return [folder / f"subnet{number}-{name}" for number in range(len(value.curves)) for name in names]

    def load(self, folder: Path, context: Context, given: Given) -> FineTuned:
        count = len(given[subnets.STAGE].result.found) if is_wanted(context) else 0
        return FineTuned(folder, tuple(read_curve(_curve_path(folder, number)) for number in range(count)))


def _inputs(context: Context, folder: Path) -> dict[str, object]:
    """Data and settings."""
    return {
        "data": context.data_hash,
        "training": settings(context, context.recipe.finetune.epochs).model_dump(),
        "seed": context.recipe.seed,
    }


def _make(context: Context, given: Given, folder: Path, progress: ProgressCallback) -> FineTuned:
    """Train one subnet per budget, as jobs of their own; none without epochs."""
    if not is_wanted(context):
        return FineTuned(folder, ())
    chosen, trained = given[space.STAGE].space, given[supernet.STAGE]
    jobs = [
        _Job(context, trained, program_of(decode(found.encoding, chosen)), number, folder.absolute())
        for number, found in enumerate(given[subnets.STAGE].result.found)
    ]
    for _ in context.engine.map(_fit, jobs, progress, needs=context.training):
        pass
    return FineTuned(folder, tuple(read_curve(_curve_path(folder, number)) for number in range(len(jobs))))


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
    training: TrainingSettings,
    name: str,
    seed: int,
    folder: Path,
    progress: ProgressCallback,
) -> tuple[Network, Sequence[TrainingPoint]]:
    """Train what a supernet's LSQ+ phase left of a subnet, continuing from the folder's checkpoint.

    Args:
        context: Data.
        trained: The supernet at the end of its LSQ+ phase; it stays as it is.
        program: The subnet's.
        training: Its settings, of which only the LSQ+ phase is done.
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
        training,
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
    trained: TrainedSupernet
    program: Program
    number: int
    folder: Path

    def __str__(self) -> str:
        return f"subnet {self.number}"


def _fit(job: _Job, progress: ProgressCallback) -> None:
    context, trained = job.context, job.trained.network("int8")
    curve = tune_found(context, trained, job.program, job.number, context.recipe.seed, job.folder, progress)
    write_curve(_curve_path(job.folder, job.number), curve)


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
    training = settings(context, context.recipe.finetune.epochs)
    with one_core():
        _, curve = tune(context, trained, program, training, f"subnet{number}", seed, folder, progress)
    return_free_memory()
    return curve


def load_tuned(trained: Network, program: Program, number: int, folder: Path) -> Network:
    """What `tune_found` left of a supernet's subnet, in evaluation mode, with the supernet's rounding."""
    network = extract(trained, program)
    load_weights(network, folder / f"subnet{number}-int8.safetensors")
    return network.eval()


def _curve_path(folder: Path, number: int) -> Path:
    return folder / f"subnet{number}-curve.json"


def _work(planning: Planning) -> StageWork:
    work = planning.work
    jobs = [(0.0, macs) for macs in work.finetune]
    files = FILES_PER_WEIGHT - 1 if any(work.finetune) else 0  # there is no FP32 phase
    return StageWork(planning.networks(jobs), disk_mib=work.num_budgets * files * work.network_mib)


STAGE: Stage[FineTuned] = Stage(
    name="finetune",
    title="Fine-tune the found subnets, each alone",
    needs=(supernet.STAGE, subnets.STAGE),
    through=(space.STAGE,),
    inputs=_inputs,
    make=_make,
    artifact=_Files(),
    files=("subnet[0-9]*-*.safetensors", "subnet[0-9]*-curve.json", "tensorboard/*"),
    checks=Checks(trains=is_wanted),
    work=_work,
)
