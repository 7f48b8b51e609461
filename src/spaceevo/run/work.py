"""How much work a recipe is, in multiply-accumulates of forward passes, networks to measure, and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from statistics import mean, median_low

import numpy as np

from spaceevo.config import BlocksSettings, Recipe, SubnetsSettings, num_held_out
from spaceevo.graph.tensors import Shape
from spaceevo.search.budgets import AUTO_QUANTILES
from spaceevo.search.space_search import most_trials
from spaceevo.seeding import python_random
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Stage, stage_program
from spaceevo.train.distillation import NUM_RANDOM, all_cells, in_widths_of
from spaceevo.train.evaluation import BATCH_SIZE, RECALIBRATION_BATCHES
from spaceevo.train.supernet import Sandwich, Within
from spaceevo.train.teachers import builtin_teacher, map_sizes

NUM_SPACES = 15
NUM_SAMPLES = 24
AUTO_BUDGETS = 2
#: float32 weights of the FP32 and the LSQ+ phase, and a checkpoint with momentum and a copy to go back to.
FILES_PER_WEIGHT = 2 + 4
MIB = 2**20


@dataclass(frozen=True)
class CellMacs:
    """Of one training of a cell: its FP32 steps, its LSQ+ steps, the scoring of its sub-stages."""

    fp32: float
    int8: float
    score: float


@dataclass(frozen=True)
class RunWork:
    """What a recipe asks for.

    Attributes:
        hyperspace: Of the recipe.
        num_budgets: Latency budgets; of automatic ones, as many as are chosen.
        teacher: MACs of the teacher's training, which is a training of a network like the supernet.
        maps: MACs of the teacher's feature maps.
        cells: Of each cell.
        trials: MACs (FP32, LSQ+) of each trial of a space by a network, one per budget.
        supernet_fp32: MACs of the supernet's FP32 phase.
        supernet_int8: MACs of its LSQ+ phase.
        generations: Subnets that are evaluated at a time.
        evaluation: MACs of one evaluation.
        finetune: MACs of each found subnet's fine-tuning.
        baselines: MACs (FP32, LSQ+) of each hand-made network's training.
        export: MACs of recalibrating and judging what is exported.
        maps_mib: Of the teacher's feature maps.
        supernet_mib: Of the supernet's weights after both phases and while it trains.
        network_mib: Of the float32 weights of a subnet.
        data_mib: Of the decoded images.
    """

    hyperspace: Hyperspace
    num_budgets: int
    teacher: float
    maps: float
    cells: tuple[CellMacs, ...]
    trials: tuple[tuple[float, float], ...]
    supernet_fp32: float
    supernet_int8: float
    generations: tuple[int, ...]
    evaluation: float
    finetune: tuple[float, ...]
    baselines: tuple[tuple[float, float], ...]
    export: float
    maps_mib: float
    supernet_mib: float
    network_mib: float
    data_mib: float


def work_of(
    recipe: Recipe,
    hyperspace: Hyperspace,
    num_train: int,
    num_val: int,
    num_classes: int,
    found: SearchSpace | None = None,
) -> RunWork:
    """Count the work of a whole run; where draws decide, its mean over random spaces and subnets.

    Args:
        recipe: What is asked for.
        hyperspace: Its hyperspace.
        num_train: Training images, those held out for the search included.
        num_val: Validation images.
        num_classes: Of the logits.
        found: The space that the search has found, if it has been run: that of the supernet.
    """
    own, blocks = recipe.supernet, recipe.blocks
    num_images = num_train - num_held_out(num_train, recipe.data.search_share)
    spaces = _spaces(hyperspace, num_classes)
    supernets = [found] if found else spaces
    steps = [_step_macs(recipe, hyperspace, space) for space in supernets]
    large, sandwich = mean(one[0] for one in steps), mean(one[1] for one in steps)
    subnet = mean(_random(space, "macs") for space in spaces)  # those within the budgets
    own_subnet = mean(_random(space, "macs") for space in supernets)
    num_budgets = AUTO_BUDGETS if recipe.budgets_ms == "auto" else len(recipe.budgets_ms)
    teacher_macs = mean(_teacher_macs(hyperspace, num_classes))
    num_maps = min(num_images, blocks.num_images + blocks.score_images)
    score_images = min(recipe.subnets.num_images, num_train - num_images)
    recalibrated = min(num_images, recipe.subnets.recalibration_batches * BATCH_SIZE)
    recalibrated_last = min(num_images, RECALIBRATION_BATCHES * BATCH_SIZE)
    exported = 2 * recalibrated_last + 3 * num_val
    is_tuned = recipe.finetune.epochs > 0
    cells = tuple(cell_macs(hyperspace, *cell, blocks) for cell in all_cells(hyperspace))
    sizes = {r: map_sizes(hyperspace, r) for r in hyperspace.resolutions}
    widths = [_in_width(hyperspace, index) for index in range(len(hyperspace.searched))]
    widths.append(hyperspace.searched[-1].widths[-1])
    maps_bytes = 2 * num_maps * sum(width * prod(size) for of_taps in sizes.values()
                                    for width, size in zip(widths, of_taps, strict=True))  # fmt: skip
    weights = mean(space.largest().num_params for space in supernets) * 4 * FILES_PER_WEIGHT
    fp32 = own.epochs_fp32 * num_images * (own.large_first * large + (1 - own.large_first) * sandwich)
    int8 = own.epochs_int8 * num_images * sandwich
    epochs_alone = own.epochs_fp32, own.epochs_int8 + recipe.finetune.epochs
    alone = epochs_alone[0] * num_images * subnet, epochs_alone[1] * num_images * subnet
    num_trials = most_trials(recipe.space.num_tried)
    return RunWork(
        hyperspace=hyperspace,
        num_budgets=num_budgets,
        teacher=0.0 if blocks.teacher_network else blocks.teacher.epochs_fp32 * num_images * teacher_macs,
        maps=maps_macs(hyperspace, num_classes, num_maps),
        cells=cells,
        trials=((recipe.space.tried_share * alone[0], recipe.space.tried_share * alone[1]),) * num_trials * num_budgets,
        supernet_fp32=fp32,
        supernet_int8=int8,
        generations=_generations(recipe.subnets, num_budgets),
        evaluation=(recalibrated + score_images) * own_subnet,
        finetune=(recipe.finetune.epochs * num_images * own_subnet,) * num_budgets,
        baselines=(alone,) * num_budgets,
        # Both precisions are recalibrated; the network is judged as fake-quantized and in integers, and both files by
        # the runtime, which is several times faster. What was fine-tuned is judged as the supernet left it, too
        export=num_budgets * ((subnet + own_subnet) * exported + is_tuned * own_subnet * (recalibrated_last + num_val)),
        maps_mib=maps_bytes / MIB,
        supernet_mib=weights / MIB,
        network_mib=mean(_random(space, "num_params") for space in spaces) * 4 / MIB,
        data_mib=(num_train + num_val) * 3 * recipe.data.image_size**2 / MIB,
    )


def typical_space(hyperspace: Hyperspace, num_classes: int) -> SearchSpace:
    """Of some random spaces the one whose largest subnet has the median of MACs."""
    spaces = _spaces(hyperspace, num_classes)
    macs = {space.largest().macs: space for space in spaces}
    return macs[median_low(macs)]


def cell_macs(hyperspace: Hyperspace, index: int, block: int, settings: BlocksSettings) -> CellMacs:
    """What one training of a cell takes: (stage, block type) by their indices."""
    stage = hyperspace.searched[index]
    elastic, in_widths = stage.all_widths(block), in_widths_of(hyperspace, index)
    rng = python_random(0, "work", index, block)
    teacher_in, teacher_out = _in_width(hyperspace, index), stage.widths[-1]

    def macs(stage: Stage, in_width: int, resolution: int) -> int:
        before, after = map_sizes(hyperspace, resolution)[index : index + 2]
        program = stage_program(stage, Shape(in_width, *before))
        out_width = program[-1].out_shape.channels
        projections = teacher_in * in_width * prod(before) + out_width * teacher_out * prod(after)
        return sum(node.macs for node in program) + projections

    steps, rows = [], []
    for resolution in hyperspace.resolutions:
        drawn = [macs(elastic.sample(rng), rng.choice(in_widths), resolution) for _ in range(NUM_SAMPLES)]
        extremes = macs(elastic.largest(), in_widths[-1], resolution) + macs(
            elastic.smallest(), in_widths[0], resolution
        )
        steps.append(extremes + NUM_RANDOM * mean(drawn))
        for window in range(stage.num_windows):
            inside = stage.elastic(block, window)
            rows.append(mean(macs(inside.sample(rng), rng.choice(in_widths), resolution) for _ in range(NUM_SAMPLES)))
    per_step = mean(steps) * settings.batch_size
    return CellMacs(
        settings.steps_fp32 * per_step,
        settings.steps_int8 * per_step,
        sum(rows) * settings.substages * settings.score_images,
    )


def maps_macs(hyperspace: Hyperspace, num_classes: int, num_images: int) -> float:
    """What the feature maps of our own teacher take at every resolution."""
    return num_images * sum(_teacher_macs(hyperspace, num_classes))


def _teacher_macs(hyperspace: Hyperspace, num_classes: int) -> list[int]:
    """By resolution."""
    teacher = builtin_teacher(hyperspace, num_classes)
    return [replace(teacher, resolution=resolution).macs for resolution in hyperspace.resolutions]


def _in_width(hyperspace: Hyperspace, index: int) -> int:
    """Channels of our own teacher before a searched stage."""
    return in_widths_of(hyperspace, index)[-1]


def _spaces(hyperspace: Hyperspace, num_classes: int) -> list[SearchSpace]:
    rng = python_random(0, "work", "spaces")
    return [hyperspace.space(hyperspace.sample(rng), num_classes) for _ in range(NUM_SPACES)]


def _random(space: SearchSpace, cost: str) -> float:
    """Mean of a cost over random subnets."""
    rng = python_random(0, "work", space.encoding)
    return float(mean(getattr(space.sample(rng), cost) for _ in range(NUM_SAMPLES)))


def sandwich_of(recipe: Recipe, hyperspace: Hyperspace, space: SearchSpace) -> Sandwich:
    """What the steps of the supernet train.

    Latencies are not known yet: of random subnets of random spaces, those of fewest MACs are taken to meet a budget,
    as many as meet an automatic one.
    """
    if recipe.supernet.subnets == "all":
        return Sandwich.all_of(space)
    smallest = space.smallest()
    few, many = (max(macs, smallest.macs) for macs in _most_macs(hyperspace, space.num_classes))
    within = Within(space, lambda subnet: subnet.macs <= many, smallest)
    smaller = Within(space, lambda subnet: subnet.macs <= few, smallest)
    has_smaller = recipe.budgets_ms == "auto" or len(recipe.budgets_ms) > 1
    return Sandwich.of(within, smaller if has_smaller else None, recipe.seed)


@cache
def _most_macs(hyperspace: Hyperspace, num_classes: int) -> tuple[float, float]:
    """Of a subnet within the smallest and within the largest automatic budget."""
    rng = python_random(0, "work", "within")
    macs = [space.sample(rng).macs for space in _spaces(hyperspace, num_classes) for _ in range(NUM_SAMPLES)]
    few, many = np.quantile(macs, (AUTO_QUANTILES[0], AUTO_QUANTILES[-1]))
    return float(few), float(many)


def _step_macs(recipe: Recipe, hyperspace: Hyperspace, space: SearchSpace) -> tuple[float, float]:
    """Per image, of a step that trains the large subnet alone, and of one that trains all."""
    sandwich, rng = sandwich_of(recipe, hyperspace, space), python_random(0, "work", "sandwich", space.encoding)
    steps = [sandwich.draw(recipe.supernet.num_random, rng) for _ in range(NUM_SAMPLES)]
    return sandwich.large.macs, mean(sum(one.macs for one in subnets) for subnets in steps)


def _generations(settings: SubnetsSettings, num_budgets: int) -> tuple[int, ...]:
    per_generation = settings.num_mutations + settings.num_crossovers
    if settings.method == "pareto":
        return (settings.population_size,) * num_budgets + (num_budgets * per_generation,) * settings.num_generations
    return (settings.population_size, *(per_generation,) * settings.num_generations) * num_budgets
