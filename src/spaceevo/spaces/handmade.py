"""Hand-made networks to compare with, as declarations over a hyperspace's macro architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spaceevo.spaces.choices import Block, make_divisible
from spaceevo.spaces.hyperspace import Hyperspace
from spaceevo.spaces.subnet import BlockType, Head, Stage, Subnet

#: Of MobileNetV3-Large's stages (ICCV 2019, Table 1), in its proportions: output width relative to the stage
#: before, kernel size and expand ratio per block.
STEM_WIDTH = 16
WIDTH_GROWTH = 1.7
STAGES: tuple[tuple[tuple[int, float], ...], ...] = (
    ((3, 4.0), (3, 3.0)),
    ((5, 3.0), (5, 3.0), (5, 3.0)),
    ((3, 6.0), (3, 2.5), (3, 2.3)),
    ((5, 6.0), (5, 6.0), (5, 6.0)),
)
MULTIPLIERS = tuple(step / 20 for step in range(5, 101))


def mobilenet_v3(hyperspace: Hyperspace, multiplier: float, resolution: int, num_classes: int) -> Subnet:
    """A MobileNetV3-style network: inverted residuals with SE and hard-swish, widths times a multiplier.

    Args:
        hyperspace: Gives the strides of the stages and the head.
        multiplier: Of every width.
        resolution: Of the input.
        num_classes: Of the logits.
    """
    stages = []
    width = float(STEM_WIDTH)
    searched = {stage.name: index for index, stage in enumerate(hyperspace.searched)}
    for stage in hyperspace.stages:
        if stage.name in searched:
            width *= WIDTH_GROWTH
            plan = STAGES[min(searched[stage.name], len(STAGES) - 1)]
            blocks = tuple(Block(make_divisible(width * multiplier), k, e) for k, e in plan)
            stages.append(Stage(stage.name, BlockType("mbv3", "hard_swish"), stage.stride, blocks))
        else:
            first = Block(make_divisible(STEM_WIDTH * multiplier), 3, 0.0)
            stages.append(Stage(stage.name, BlockType("conv", "hard_swish"), stage.stride, (first,)))
    head = hyperspace.head
    head = Head(make_divisible(head.final_expand * multiplier), head.feature_mix, "hard_swish")
    return Subnet(resolution, tuple(stages), head, num_classes)


def every_mobilenet_v3(hyperspace: Hyperspace, num_classes: int) -> Iterator[Subnet]:
    """Every MobileNetV3-style network that may match a budget, once: of all resolutions and multipliers, ascending."""
    for resolution in hyperspace.resolutions:
        yield from dict.fromkeys(
            mobilenet_v3(hyperspace, multiplier, resolution, num_classes) for multiplier in MULTIPLIERS
        )


def matching_mobilenet_v3(
    hyperspace: Hyperspace, budget_ms: float, num_classes: int, latency_ms: Callable[[Subnet], float]
) -> Subnet:
    """The largest MobileNetV3-style network whose latency meets a budget.

    The highest resolution at which any width multiplier meets the budget; where none does, the smallest network.

    Args:
        hyperspace: Gives strides, head and resolutions.
        budget_ms: Latency budget.
        num_classes: Of the logits.
        latency_ms: Predicts a subnet's latency.
    """
    for resolution in reversed(hyperspace.resolutions):
        for multiplier in reversed(MULTIPLIERS):
            subnet = mobilenet_v3(hyperspace, multiplier, resolution, num_classes)
            if latency_ms(subnet) <= budget_ms:
                return subnet
    return mobilenet_v3(hyperspace, MULTIPLIERS[0], hyperspace.resolutions[0], num_classes)
