"""The accuracy predictor: exact where choices add up, the same for the same data, useful where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from spaceevo.search.accuracy import predict_top1
from spaceevo.seeding import python_random
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
