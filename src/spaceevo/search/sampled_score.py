"""The Q-T score as published: from subnets that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spaceevo.errors import RecipeError
from spaceevo.records import BlockTable
from spaceevo.search.qt_score import PUBLISHED_SETTINGS, BudgetQuality, Evaluator, Floats, QTSettings
from spaceevo.seeding import numpy_random
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice


class SampledEvaluator(Evaluator):
    """The score as published, from random subnets; a pure function of the seed and the space.

    Args:
        num_samples: Subnets drawn per space, shared by the budgets; at least 1.
        seed: Decides what is drawn.
    """

    def __init__(
        self,
        table: BlockTable,
        hyperspace: Hyperspace,
        budgets_ms: Sequence[float],
        base_ms: Mapping[int, float],
        settings: QTSettings = PUBLISHED_SETTINGS,
        num_samples: int = 100_000,
        seed: int = 0,
        unit: str = "ms",
    ) -> None:

        def at(budget_ms: float) -> Evaluator:
            return SampledEvaluator(table, hyperspace, [budget_ms], base_ms, settings, num_samples, seed, unit)

        super().__init__(table, hyperspace, budgets_ms, base_ms, settings, unit, at)
        if num_samples < 1:
            raise RecipeError("A sampled score needs at least one sample", found=f"num_samples = {num_samples}")
        self.num_samples = num_samples
        self.seed = seed

    def draw(self, choice: SpaceChoice) -> tuple[Floats, Floats]:
        """Loss and latency in ms of `num_samples` random subnets (for scoring and for plots)."""
        return draw_subnets(self, choice, self.num_samples, self.seed)

    def _assess(self, choice: SpaceChoice) -> tuple[BudgetQuality, ...]:
        loss, latency_ms = self.draw(choice)
        num_top = max(1, round(self.settings.top_share * self.num_samples))
        qualities = []
        for budget in self.budgets_ms:
            feasible = loss[latency_ms <= budget]
            top = np.partition(feasible, num_top - 1)[:num_top] if len(feasible) > num_top else feasible
            mean = float(top.mean()) if len(top) else np.inf
            qualities.append(BudgetQuality(len(feasible) / self.num_samples, mean))
        return tuple(qualities)


def draw_subnets(evaluator: Evaluator, choice: SpaceChoice, num_samples: int, seed: int) -> tuple[Floats, Floats]:
    """Loss and latency of random subnets of a space: a uniform resolution, and uniform rows of its cells there.

    Args:
        evaluator: What has the rows.
        choice: The space, without a failed cell.
        num_samples: Subnets drawn, at least 1.
        seed: Decides what is drawn.
    """
    rng = numpy_random(seed, "qt_score", evaluator.hyperspace.encode(choice))
    drawn = rng.integers(len(evaluator.resolutions), size=num_samples)
    counts = np.bincount(drawn, minlength=len(evaluator.resolutions))
    loss, latency = [], []
    for count, resolution in zip(counts, evaluator.resolutions, strict=True):
        total_loss, total_ms = np.zeros(count), np.full(count, evaluator.base_ms[resolution])
        for stage, (block, window) in enumerate(zip(choice.blocks, choice.windows, strict=True)):
            cell = evaluator.cells[stage, block, window, resolution]
            rows = rng.integers(len(cell.loss), size=count)
            total_loss += cell.loss[rows]
            total_ms += cell.latency_ms[rows]
        loss.append(total_loss)
        latency.append(total_ms)
    return np.concatenate(loss), np.concatenate(latency)
