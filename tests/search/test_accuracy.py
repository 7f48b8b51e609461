"""The accuracy predictor: exact where choices add up, the same for the same data, useful where they do not."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from scipy.stats import spearmanr

from spaceevo.search.accuracy import _features, predict_top1
from spaceevo.seeding import python_random
from spaceevo.spaces.choices import Axis
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import Subnet

SPACE = load_hyperspace("micro").space(SpaceChoice((1, 4, 2), (0, 2, 1)), num_classes=10)
RNG = python_random(0, "subnets")
SUBNETS = [SPACE.sample(RNG) for _ in range(300)]


def additive(subnet: Subnet) -> float:
    blocks = [block for stage in subnet.stages for block in stage.blocks]
    gain = sum(block.width / 500 + (block.kernel_size == 5) / 30 + block.expand_ratio / 100 for block in blocks)
    return 0.4 + gain / 4 + subnet.resolution / 400


def test_learns_a_sum_over_choices() -> None:
    known, unseen = SUBNETS[:200], SUBNETS[200:]
    predicted = predict_top1(SPACE, known, [additive(s) for s in known], unseen)
    assert np.abs(predicted - [additive(s) for s in unseen]).max() < 0.005


def test_ranks_what_it_cannot_learn_exactly() -> None:
    def rough(subnet: Subnet) -> float:
        return additive(subnet) * (1 + 0.1 * len(subnet.stages[1].blocks)) + 0.005 * np.sin(subnet.macs)

    known, unseen = SUBNETS[:60], SUBNETS[200:]
    predicted = predict_top1(SPACE, known, [rough(s) for s in known], unseen)
    assert spearmanr(predicted, [rough(s) for s in unseen])[0] > 0.7


def test_few_subnets_or_equal_accuracies_are_enough() -> None:
    assert (predict_top1(SPACE, SUBNETS[:1], [0.3], SUBNETS) == 0.3).all()
    assert np.isfinite(predict_top1(SPACE, SUBNETS[:2], [0.1, 0.3], SUBNETS)).all()
    assert predict_top1(SPACE, SUBNETS[:9], [0.5] * 9, SUBNETS) == pytest.approx(np.full(300, 0.5))


def test_every_choice_is_a_column() -> None:
    """The macs, then one-hot: resolution, and per stage depth and, per block, width, kernel size, expand ratio."""
    row = _features(SPACE, SUBNETS[:1])[0].tolist()
    expected = [log(SUBNETS[0].macs), *(SUBNETS[0].resolution == resolution for resolution in SPACE.resolutions)]
    for elastic, stage in zip(SPACE.stages, SUBNETS[0].stages, strict=True):
        expected += [len(stage.blocks) == depth for depth in elastic.depths]
        for index in range(max(elastic.depths)):
            block = stage.blocks[index] if index < len(stage.blocks) else None
            expected += [block is not None and block.width == width for width in elastic.widths]
            expected += [block is not None and block.kernel_size == size for size in elastic.choice.kernel_sizes]
            expected += [block is not None and block.expand_ratio == ratio for ratio in elastic.choice.expand_ratios]
    assert row == expected


def test_added_axes_are_columns() -> None:
    last = SPACE.stages[-1]
    choice = replace(last.choice, added=(Axis("groups", (1, 2, 4)),))
    space = replace(SPACE, stages=(*SPACE.stages[:-1], replace(last, choice=choice)))
    subnet = space.largest()
    added = subnet.stages[-1].blocks[0].added
    assert added == (("groups", 4),)
    columns = _features(space, [subnet]).shape[1] - _features(SPACE, [SPACE.largest()]).shape[1]
    assert columns == 3 * max(last.depths)
    assert _features(space, [subnet])[0, -3:].tolist() == [0, 0, 1]
