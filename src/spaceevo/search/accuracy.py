"""Accuracies of subnets predicted from those of evaluated ones, to evaluate only the most promising candidates."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np

from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet


def predict_top1(
    space: SearchSpace, subnets: Sequence[Subnet], top1: Sequence[float], candidates: Sequence[Subnet]
) -> np.ndarray:
    """Predict accuracies by Bayesian ridge regression on one-hot choices and the logarithm of the MACs.

    It ranks candidates; where the accuracy of a choice depends on another choice, it errs.

    Args:
        space: To which all subnets belong.
        subnets: Evaluated ones, at least one; of one, or of equal ones, nothing is learnt but the mean.
        top1: Accuracy of each, 0 to 1.
        candidates: Whose accuracy is wanted.

    Returns:
        [num_candidates].
    """
    from sklearn.linear_model import BayesianRidge

    known, wanted = _features(space, subnets), _features(space, candidates)
    mean, std = known.mean(axis=0), known.std(axis=0)
    varies = std > 0
    if not varies.any():
        return np.full(len(candidates), np.mean(top1))
    model = BayesianRidge().fit((known - mean)[:, varies] / std[varies], np.asarray(top1))
    predicted: np.ndarray = model.predict((wanted - mean)[:, varies] / std[varies])
    return predicted


def _features(space: SearchSpace, subnets: Sequence[Subnet]) -> np.ndarray:
    """[num_subnets, num_features]; a block that a subnet lacks has none of its choices."""
    rows = []
    for subnet in subnets:
        row = [log(subnet.macs), *(subnet.resolution == resolution for resolution in space.resolutions)]
        for elastic, stage in zip(space.stages, subnet.stages, strict=True):
            row += (len(stage.blocks) == depth for depth in elastic.depths)
            for index in range(elastic.depths[-1]):
                chosen = stage.blocks[index].choices if index < len(stage.blocks) else (None,) * len(elastic.axes)
                row += (
                    choice == value for choice, axis in zip(chosen, elastic.axes, strict=True) for value in axis.values
                )
        rows.append(row)
    return np.array(rows, np.float64)
