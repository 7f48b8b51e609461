"""The fastest and the slowest network of a hyperspace: latencies add up over stages, so each stage decides alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from spaceevo.graph.tensors import Shape, square
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice
from spaceevo.spaces.subnet import stage_program


class Extreme(NamedTuple):
    """A space at one end of its hyperspace, and the predicted latency of its smallest or largest subnet."""

    choice: SpaceChoice
    latency_ms: float


def fastest(
    predictor: LatencyPredictor, hyperspace: Hyperspace, num_classes: int, excluded: Collection[tuple[int, int]] = ()
) -> Extreme:
    """Of the spaces of smallest widths the one whose smallest subnet is predicted fastest.

    Args:
        predictor: Predicts.
        hyperspace: Of the spaces.
        num_classes: Of the logits.
        excluded: (stage, block) pairs that no space may have, by index among the searched stages; of each stage a block
            type is left.
    """
    choice = SpaceChoice(_blocks(predictor, hyperspace, False, excluded), (0,) * len(hyperspace.searched))
    return Extreme(choice, predictor.network_ms(hyperspace.space(choice, num_classes).smallest()))


def slowest(predictor: LatencyPredictor, hyperspace: Hyperspace, num_classes: int) -> Extreme:
    """Of the spaces of largest widths the one whose largest subnet is predicted slowest."""
    windows = tuple(stage.num_windows - 1 for stage in hyperspace.searched)
    choice = SpaceChoice(_blocks(predictor, hyperspace, True, ()), windows)
    return Extreme(choice, predictor.network_ms(hyperspace.space(choice, num_classes).largest()))


def _blocks(
    predictor: LatencyPredictor, hyperspace: Hyperspace, largest: bool, excluded: Collection[tuple[int, int]]
) -> tuple[int, ...]:
    """Per searched stage the block type whose largest sub-stage is slowest, or whose smallest one is fastest.

    Of the stage before it a stage knows the shape only, which is the same for all block types there.
    """
    shape = square(3, hyperspace.resolutions[-1 if largest else 0])
    chosen: list[int] = []
    for stage in hyperspace.stages:
        window = stage.num_windows - 1 if largest else 0
        latencies = {}
        for block in range(len(stage.choices)):
            if stage.is_searched and (len(chosen), block) in excluded:
                continue
            elastic = stage.elastic(block, window)
            program = stage_program(elastic.largest() if largest else elastic.smallest(), shape)
            latencies[block] = predictor.stage_ms(program)
        if stage.is_searched:
            chosen.append((max if largest else min)(latencies, key=latencies.__getitem__))
        shape = program[-1].out_shape
    return tuple(chosen)


class SmallestLatency:
    """Predicts the smallest subnet of a space at its best resolution, for thousands of spaces: stages are remembered.

    Equal to `network_ms` of that subnet but for rounding.

    Args:
        predictor: Predicts.
        hyperspace: Of the spaces.
        num_classes: Of the logits.
    """

    def __init__(self, predictor: LatencyPredictor, hyperspace: Hyperspace, num_classes: int) -> None:
        self._predictor, self._hyperspace, self._num_classes = predictor, hyperspace, num_classes
        self._known: dict[tuple[int, int, int, Shape], tuple[float, Shape]] = {}
        self._rest: dict[tuple[int, int], float] = {}

    def __call__(self, choice: SpaceChoice) -> float:
        """The latency in ms."""
        return min(self._at(choice, resolution) for resolution in self._hyperspace.resolutions)

    def _at(self, choice: SpaceChoice, resolution: int) -> float:
        chosen = iter(zip(choice.blocks, choice.windows, strict=True))
        total, shape = 0.0, square(3, resolution)
        for number, stage in enumerate(self._hyperspace.stages):
            block, window = next(chosen) if stage.is_searched else (0, 0)
            key = (number, block, window, shape)
            if key not in self._known:
                program = stage_program(stage.elastic(block, window).smallest(), shape)
                self._known[key] = self._predictor.stage_ms(program), program[-1].out_shape
            stage_ms, shape = self._known[key]
            total += stage_ms
        width = shape.channels
        if (width, resolution) not in self._rest:  # input and head
            space = self._hyperspace.space(choice, self._num_classes)
            subnet = space.subnet(resolution, space.smallest().stages)
            self._rest[width, resolution] = self._predictor.network_ms(subnet) - total
        return total + self._rest[width, resolution]
