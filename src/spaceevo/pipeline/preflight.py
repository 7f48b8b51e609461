"""Before a run: whether all that its recipe names is there, while nothing is measured, trained or written."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path

from spaceevo.config import TrainingSettings, num_held_out
from spaceevo.engines import ENGINES
from spaceevo.measure import target
from spaceevo.measure.campaign import measure_metric, reference_program
from spaceevo.measure.metrics import METRICS
from spaceevo.pipeline import baselines, blocks, compare, finetune, space, subnets, supernet
from spaceevo.pipeline.context import Context, data_options
from spaceevo.progress import ProgressCallback, silent
from spaceevo.train.datasets import some
from spaceevo.train.distillation import check_num_images
from spaceevo.train.loop import device_of
from spaceevo.train.teachers import check_teacher, load_teacher
from spaceevo.train.tracking import writer_class


def check_names(context: Context, stages: Collection[str]) -> None:
    """Whether what the stages name exists, as far as that is known at once.

    Args:
        context: Recipe, folder and target of the run.
        stages: Names of those that are wanted.

    Raises:
        PluginError: There is no such hyperspace, data set, target, engine or metric.
        RecipeError: An option of the data set is wrong, or a space is no hand-made one.
        TargetError: The target's name is malformed.
    """
    recipe = context.recipe
    _ = context.hyperspace
    data_options(recipe.data)
    target.parse(recipe.target.name)
    ENGINES.load(recipe.engine.name)
    if subnets.NAME in stages:
        for metric in recipe.subnets.limits:
            METRICS.load(metric)
    if compare.NAME in stages:
        for name in recipe.compare.handmade:
            compare.handmade_space(name)


def check_here(context: Context, stages: Collection[str]) -> None:
    """Whether the data set, the libraries, the GPU and the teacher of this machine are what the stages want.

    Args:
        context: Recipe, folder and target of the run.
        stages: Names of those that are wanted and not finished.

    Raises:
        DataError: The data set is not there.
        RecipeError: The teacher cannot be loaded.
        TrainingError: There is no such GPU or library, or the teacher does not fit.
    """
    recipe = context.recipe
    plugin, options = data_options(recipe.data)
    if plugin.check and "data" not in vars(context):
        plugin.check(options)
    teacher = recipe.blocks.teacher_network
    if blocks.NAME in stages and not teacher:
        check_training(recipe.blocks.teacher, silent)
    if _trains(context, stages) and not _trains_elsewhere(context):
        check_training(recipe.supernet, silent)
    if blocks.NAME in stages and teacher:
        check_teacher(load_teacher(teacher, context.hyperspace), teacher, context.hyperspace)


def check_elsewhere(context: Context, stages: Collection[str]) -> None:
    """Whether the machines of the engine, and the target, can do what the stages want.

    Args:
        context: Recipe, folder and target of the run.
        stages: Names of those that are wanted and not finished.

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
    if subnets.NAME in stages:
        for metric in recipe.subnets.limits:
            if METRICS.load(metric).measure:
                context.at_device(partial(_try_metric, metric), silent)


def check_training(settings: TrainingSettings, progress: ProgressCallback) -> None:
    """Whether a training can run in this process.

    Args:
        settings: Device, precision and logging of the training.
        progress: Not called; an engine gives one to every job.

    Raises:
        TrainingError: There is no such GPU, it lacks the precision, or TensorBoard is not installed.
    """
    device_of(settings)
    if settings.tensorboard:
        writer_class()


def check_data(context: Context, stages: Collection[str]) -> list[str]:
    """Whether the images are enough for the stages and the subnet search.

    Args:
        context: Recipe, folder and target of the run.
        stages: Names of those that are wanted and not finished.

    Returns:
        Sentences on classes that the search does not see, and on settings that ask for more images than there are.

    Raises:
        DataError: Nothing can be held out of the training images.
        TrainingError: There are too few to distil from.
    """
    recipe = context.recipe
    total = len(context.data.train_labels)
    num_search = num_held_out(total, recipe.data.search_share)
    num_train = total - num_search
    notes = []
    if context.not_searched:
        notes.append(
            f"The subnet search sees no image of {some(context.not_searched)}: such a class has one training image "
            "alone, or data.search_share leaves no room for it."
        )
    asked = []
    if blocks.NAME in stages:
        settings = recipe.blocks
        check_num_images(num_train, settings)
        num_distilled = num_train - settings.score_images
        asked.append(("blocks.num_images", settings.num_images, num_distilled, "training images that are left"))
        asked.append(("blocks.batch_size", settings.batch_size, min(num_distilled, settings.num_images), "of them"))
    if subnets.NAME in stages:
        asked.append(("subnets.num_images", recipe.subnets.num_images, num_search, "held-out images"))
    if _trains(context, stages):
        asked.append(("supernet.batch_size", recipe.supernet.batch_size, num_train, "training images"))
    notes += [f"{key} is {wanted}: it is all {found} {what}." for key, wanted, found, what in asked if wanted > found]
    largest = context.hyperspace.resolutions[-1]
    if recipe.data.image_size < largest and blocks.NAME in stages:
        notes.append(
            f"data.image_size is {recipe.data.image_size}, and {context.hyperspace.name} reads up to {largest} pixels: "
            "smaller images are enlarged."
        )
    return notes


def _trains(context: Context, stages: Collection[str]) -> bool:
    """Whether one of the stages trains with the supernet's settings."""
    always = {supernet.NAME, baselines.NAME, compare.NAME}
    tries = space.NAME in stages and context.recipe.space.num_tried > 1
    return tries or not always.isdisjoint(stages) or (finetune.NAME in stages and finetune.is_wanted(context))


def _trains_elsewhere(context: Context) -> bool:
    engine = context.recipe.engine
    return bool(engine.address or engine.gpus or engine.trainers)


def _try_metric(metric: str, context: Context, progress: ProgressCallback) -> None:
    """Measure it of a small network, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        measure_metric(context.target, metric, [("small", reference_program(), 1.0)], Path(folder), progress)
