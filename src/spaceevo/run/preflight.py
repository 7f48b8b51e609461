"""Before a run: whether all that its recipe names is there, while nothing is measured, trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spaceevo.config import TrainingSettings, num_held_out
from spaceevo.engines import ENGINES
from spaceevo.measure import target
from spaceevo.progress import ProgressCallback, silent
from spaceevo.run.context import Context, data_options
from spaceevo.run.stage import Stage
from spaceevo.train.datasets import some
from spaceevo.train.loop import device_of
from spaceevo.train.tracking import writer_class


def check_names(context: Context, stages: Sequence[Stage[Any]]) -> None:
    """Whether what the stages name exists, as far as that is known at once.

    Args:
        context: Of the run.
        stages: Those that are wanted.

    Raises:
        PluginError: There is no such hyperspace, data set, target, engine or metric.
        RecipeError: An option of the data set is wrong, or what a stage names is not of its kind.
        TargetError: The target's name is malformed.
    """
    recipe = context.recipe
    _ = context.hyperspace
    data_options(recipe.data)
    target.parse(recipe.target.name)
    ENGINES.load(recipe.engine.name)
    for stage in stages:
        stage.checks.names(context)


def check_here(context: Context, stages: Sequence[Stage[Any]]) -> None:
    """Whether the data set, the libraries, the GPU and the teacher of this machine are what the stages want.

    Args:
        context: Of the run.
        stages: Those that are wanted and not finished.

    Raises:
        DataError: The data set is not there.
        RecipeError: The teacher cannot be loaded.
        TrainingError: There is no such GPU or library, or the teacher does not fit.
    """
    plugin, options = data_options(context.recipe.data)
    if plugin.check and not context.has_data:
        plugin.check(options)
    if _trains(context, stages) and not _trains_elsewhere(context):
        check_training(context.recipe.supernet, silent)
    for stage in stages:
        stage.checks.here(context)


def check_elsewhere(context: Context, stages: Sequence[Stage[Any]]) -> None:
    """Whether the machines of the engine, and the target, can do what the stages want.

    Args:
        context: Of the run.
        stages: Those that are wanted and not finished.

    Raises:
        EngineError: The engine cannot run here, or no machine has what a training needs.
        TargetError: The target cannot be reached, lacks the runtime, or cannot tell a metric.
        TrainingError: There is no such GPU or library where it trains.
    """
    recipe = context.recipe
    _ = context.engine, context.target
    if _trains(context, stages) and _trains_elsewhere(context):
        for needs in (context.training, context.trainer):
            list(context.engine.map(check_training, [recipe.supernet], silent, needs=needs))
    for stage in stages:
        stage.checks.elsewhere(context)


def check_training(settings: TrainingSettings, progress: ProgressCallback) -> None:
    """Whether a training can run in this process.

    Args:
        settings: Of the training.
        progress: Not called.

    Raises:
        TrainingError: There is no such GPU, it lacks the precision, or TensorBoard is not installed.
    """
    device_of(settings)
    if settings.tensorboard:
        writer_class()


def check_data(context: Context, stages: Sequence[Stage[Any]]) -> list[str]:
    """Whether the images are enough for the stages and the subnet search.

    Args:
        context: Of the run.
        stages: Those that are wanted and not finished.

    Returns:
        Sentences on classes that the search does not see, and on settings that ask for more images than there are.

    Raises:
        DataError: Nothing can be held out of the training images.
        TrainingError: There are too few to distil from.
    """
    notes = []
    if context.not_searched:
        notes.append(
            f"The subnet search sees no image of {some(context.not_searched)}: such a class has one training image "
            "alone, or data.search_share leaves no room for it."
        )
    for stage in stages:
        notes += stage.checks.data(context)
    if _trains(context, stages):
        notes += all_of(
            "supernet.batch_size", context.recipe.supernet.batch_size, num_train(context), "training images"
        )
    return notes


def num_train(context: Context) -> int:
    """Training images without those that are held out for the subnet search."""
    total = len(context.data.train_labels)
    return total - num_held_out(total, context.recipe.data.search_share)


def all_of(key: str, wanted: int, found: int, what: str) -> list[str]:
    """The sentence on a setting that asks for more images than there are; none where there are enough.

    Args:
        key: Of the setting.
        wanted: Its value.
        found: How many there are.
        what: They are, in the plural.
    """
    return [f"{key} is {wanted}: it is all {found} {what}."] if wanted > found else []


def _trains(context: Context, stages: Sequence[Stage[Any]]) -> bool:
    """Whether one of the stages trains with the supernet's settings."""
    return any(stage.checks.trains(context) for stage in stages)


def _trains_elsewhere(context: Context) -> bool:
    engine = context.recipe.engine
    return bool(engine.address or engine.gpus or engine.trainers)
