"""The Q-T score of a search space: how good are its best subnets within a latency budget, how many meet it.

Two evaluators of one definition (SpaceEvo, ICCV 2023, Section 4). A random subnet of a space has a uniform
resolution and, independently per searched stage, a uniform row of the block table at that resolution. Its
loss is the sum of the rows' NSR losses, its latency the sum of their latencies plus that of the unsearched
stages. Per budget T, with p the share of subnets with latency <= T and L the mean loss of the best of them
(as many as `top_share` of all subnets, or all where fewer meet the budget), the score is
`1 / (max(1, (target_share / p) ** exponent) * L)`; budgets add up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import ArtifactError, EncodingError, InfeasibleBudgetError, RecipeError
from spaceevo.records import BlockTable
from spaceevo.search.budgets import rounded_up
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice

Floats = NDArray[np.float64]

# A share of subnets below this cannot be told from rounding.
SMALLEST_SHARE = 1e-8
# Steps in which the least budget under which something scores is sought.
BUDGET_STEP = 1.01


@dataclass(frozen=True, slots=True)
class QTSettings:
    """Constants of the score (published values by default).

    Attributes:
        target_share: Share of subnets within the budget from which on more bring nothing, in (0, 1].
        exponent: How strongly a smaller share is punished, at least 0.
        top_share: Share of all subnets over which the lowest losses are averaged, in (0, 1].

    Raises:
        RecipeError: A value out of its range.
    """

    target_share: float = 0.08
    exponent: float = 0.01
    top_share: float = 5e-4

    def __post_init__(self) -> None:
        if not (0 < self.target_share <= 1 and self.exponent >= 0 and 0 < self.top_share <= 1):
            raise RecipeError(
                "A constant of the Q-T score is out of its range",
                found=str(self),
                remedy="target_share and top_share lie in (0, 1], exponent is at least 0",
            )


#: As published.
PUBLISHED_SETTINGS = QTSettings()


@dataclass(frozen=True, slots=True)
class BudgetQuality:
    """What the score of one space under one budget is made of.

    Attributes:
        share: Share of the space's subnets within the budget, 0 to 1.
        loss: Mean loss of the best of them; infinite where there is none.
    """

    share: float
    loss: float

    def score(self, settings: QTSettings) -> float:
        """The term of the Q-T score; 0 where no subnet is within the budget.

        >>> BudgetQuality(share=0.5, loss=2.0).score(QTSettings())
        0.5
        """
        if self.share <= 0:
            return 0.0
        penalty: float = max(1.0, (settings.target_share / self.share) ** settings.exponent)
        return 1 / (penalty * self.loss)


@dataclass(frozen=True, slots=True)
class Cell:
    """The rows of one (stage, block, width window, resolution): `loss` and `latency_ms`, both [num_rows]."""

    loss: Floats
    latency_ms: Floats


class Evaluator(ABC):
    """Scores the spaces of one hyperspace from its block table.

    Args:
        table: Rows for every cell that is not failed; rows of failed cells and of resolutions that the
            hyperspace does not have are left out.
        hyperspace: Its searched stages are the table's stages, in order.
        budgets_ms: Latency constraints, positive; at least one.
        base_ms: By resolution, latency of everything that is not searched, at least 0.
        settings: Constants of the score.
        unit: Of latencies and budgets, in messages. Any cost that adds up over stages may stand for the latency.
        at: Makes the same evaluator under one other budget.

    Raises:
        ArtifactError: The table has an unknown index, a loss or latency that is not a positive number, or
            no rows for a stage or cell; a stage has failed altogether; `base_ms` lacks a resolution.
        InfeasibleBudgetError: No combination of rows meets a budget; the closest feasible one is named.
        RecipeError: No budget, or one that is not positive.
    """

    def __init__(
        self,
        table: BlockTable,
        hyperspace: Hyperspace,
        budgets_ms: Sequence[float],
        base_ms: Mapping[int, float],
        settings: QTSettings,
        unit: str,
        at: Callable[[float], Evaluator],
    ) -> None:
        if not budgets_ms or not all(0 < budget < np.inf for budget in budgets_ms):
            raise RecipeError("Latency budgets must be positive", found=f"budgets_ms = {list(budgets_ms)}")
        self.hyperspace = hyperspace
        self.budgets_ms = tuple(budgets_ms)
        self.settings = settings
        self.unit = unit
        self._at = at
        self.failed = table.failed
        self.resolutions, self.cells = _cells(table, hyperspace)
        for resolution in self.resolutions:
            if not 0 <= base_ms.get(resolution, -1.0) < np.inf:
                raise ArtifactError(
                    f"The unsearched stages need a latency at resolution {resolution}",
                    found=f"base_ms = {dict(base_ms)}",
                )
        self.base_ms = {resolution: float(base_ms[resolution]) for resolution in self.resolutions}
        self.stage_min_ms = {
            resolution: [
                min(self.cells[*cell, resolution].latency_ms.min() for cell in cells)
                for cells in stage_cells(hyperspace, table.failed)
            ]
            for resolution in self.resolutions
        }
        closest = min(self.base_ms[r] + sum(self.stage_min_ms[r]) for r in self.resolutions)
        if infeasible := [budget for budget in self.budgets_ms if budget < closest]:
            raise InfeasibleBudgetError(
                f"No subnet of any space of {hyperspace.name} meets {min(infeasible):g} {unit}",
                found=f"The fastest takes {closest:.4g} {unit}",
                remedy=f"The closest feasible budget is {self.least_budget(self.fastest):g} {unit}",
            )

    @property
    def fastest(self) -> SpaceChoice:
        """The space that holds the fastest combination of rows."""
        resolution = min(self.resolutions, key=lambda r: self.base_ms[r] + sum(self.stage_min_ms[r]))
        cells = [
            min(own, key=lambda cell: float(self.cells[*cell, resolution].latency_ms.min()))
            for own in stage_cells(self.hyperspace, self.failed)
        ]
        return SpaceChoice(tuple(block for _, block, _ in cells), tuple(window for _, _, window in cells))

    def least_budget(self, choice: SpaceChoice) -> float:
        """The smallest budget, rounded up, under which a space without a failed cell scores.

        It may lie a little above `closest_budget`: a share may be too small to be told.
        """
        budget = self.closest_budget(choice)
        while self._at(budget).score(choice) <= 0:
            budget = rounded_up(BUDGET_STEP * budget)
        return budget

    @property
    def parts(self) -> tuple[Evaluator, ...]:
        """The evaluators of one target each whose scores add up to this one's: itself."""
        return (self,)

    def closest_budget(self, choice: SpaceChoice) -> float:
        """The smallest budget, rounded up, that some subnet of a space meets."""
        cells = self._stages(choice)
        fastest = [
            self.base_ms[r] + sum(float(self.cells[*cell, r].latency_ms.min()) for cell in cells)
            for r in self.resolutions
        ]
        return rounded_up(min(fastest))

    def score(self, choice: SpaceChoice) -> float:
        """The Q-T score of a space, higher is better; 0 where it uses a failed cell or meets no budget.

        Raises:
            EncodingError: The hyperspace does not have this choice.
        """
        return sum((quality.score(self.settings) for quality in self.assess(choice)), 0.0)

    def assess(self, choice: SpaceChoice) -> tuple[BudgetQuality, ...]:
        """Share and loss of a space under each budget, in the order of `budgets_ms`.

        Raises:
            EncodingError: The hyperspace does not have this choice.
        """
        searched = self.hyperspace.searched
        if not len(choice.blocks) == len(choice.windows) == len(searched) or not all(
            0 <= block < len(stage.choices) and 0 <= window < stage.num_windows
            for stage, block, window in zip(searched, choice.blocks, choice.windows, strict=True)
        ):
            raise EncodingError(f"{self.hyperspace.name} has no space {choice}")
        if not self.failed.isdisjoint(enumerate(choice.blocks)):
            return (BudgetQuality(0.0, np.inf),) * len(self.budgets_ms)
        return self._assess(choice)

    def _stages(self, choice: SpaceChoice) -> list[tuple[int, int, int]]:
        return list(zip(range(len(choice.blocks)), choice.blocks, choice.windows, strict=True))

    @abstractmethod
    def _assess(self, choice: SpaceChoice) -> tuple[BudgetQuality, ...]:
        """As `assess`, for a space that exists and has no failed cell."""


class CombinedEvaluator:
    """A space for several targets: the scores of one evaluator per target, added up, as those of budgets are.

    Args:
        parts: Evaluators of one hyperspace, at least one. Their tables may have other latencies, and other losses.

    Raises:
        RecipeError: No evaluator, or different hyperspaces.
    """

    def __init__(self, parts: Sequence[Evaluator]) -> None:
        if len({part.hyperspace for part in parts}) != 1:
            raise RecipeError(
                "Scores add up over targets of one hyperspace",
                found=", ".join(part.hyperspace.name for part in parts) or "no target",
            )
        self.parts = tuple(parts)
        self.hyperspace = parts[0].hyperspace
        self.budgets_ms = tuple(budget for part in parts for budget in part.budgets_ms)
        self.failed = frozenset[tuple[int, int]]().union(*(part.failed for part in parts))
        self.fastest = None  # what is fast for one target need not be for another

    def score(self, choice: SpaceChoice) -> float:
        """The sum of the scores; 0 where a target has a failed cell or no subnet within any of its budgets."""
        scores = [part.score(choice) for part in self.parts]
        return sum(scores) if all(scores) else 0.0

    def least_budget(self, choice: SpaceChoice) -> float:
        """The smallest budget, rounded up, under which a space scores for every target."""
        return max(part.least_budget(choice) for part in self.parts)

    def assess(self, choice: SpaceChoice) -> tuple[BudgetQuality, ...]:
        """Share and loss under each budget of each target, in the order of `budgets_ms`."""
        return tuple(quality for part in self.parts for quality in part.assess(choice))


def stage_cells(hyperspace: Hyperspace, failed: frozenset[tuple[int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Per searched stage, its (stage, block, window) that are not failed; windows run fastest."""
    for index, stage in enumerate(hyperspace.searched):
        pairs = product(range(len(stage.choices)), range(stage.num_windows))
        yield [(index, block, window) for block, window in pairs if (index, block) not in failed]


def _cells(table: BlockTable, hyperspace: Hyperspace) -> tuple[tuple[int, ...], dict[tuple[int, int, int, int], Cell]]:
    """The resolutions that table and hyperspace share, and the rows of every cell that is not failed."""
    searched = hyperspace.searched
    columns = (table.stage, table.block, table.window, table.resolution, table.nsr_loss, table.latency_ms)
    if len({np.shape(column) for column in columns}) != 1 or np.ndim(table.stage) != 1:
        raise _bad_table("has columns of different lengths", str([np.shape(column) for column in columns]))
    num_stages = len(searched)
    if unknown := set(np.unique(table.stage).tolist()) - set(range(num_stages)):
        raise _bad_table(f"names stage {min(unknown)}", f"{hyperspace.name} has {num_stages} searched stages")
    for index, stage in enumerate(searched):
        own = table.stage == index
        limits = (
            ("block", table.block, len(stage.choices)),
            ("width window", table.window, stage.num_windows),
        )
        for what, column, limit in limits:
            if unknown := set(np.unique(column[own]).tolist()) - set(range(limit)):
                raise _bad_table(f"names {what} {min(unknown)} in {stage.name}", f"Allowed there: 0 to {limit - 1}")
        if all((index, block) in table.failed for block in range(len(stage.choices))):
            raise _bad_table(f"has no block left in {stage.name}", "The training of every block type failed there")
        if not own.any() and not all((index, block) in table.failed for block in range(len(stage.choices))):
            raise _bad_table(f"has no rows for {stage.name}", f"It has rows for {_rows_for(table, hyperspace)}")
    resolutions = tuple(r for r in hyperspace.resolutions if np.any(table.resolution == r))
    if not resolutions:
        raise _bad_table(
            f"has none of the resolutions of {hyperspace.name}",
            f"It has {np.unique(table.resolution).tolist()}, the hyperspace {list(hyperspace.resolutions)}",
        )
    used = np.isin(table.resolution, resolutions)
    for pair in table.failed:
        used &= ~((table.stage == pair[0]) & (table.block == pair[1]))
    for what, values in (("NSR loss", table.nsr_loss), ("latency", table.latency_ms)):
        bad = np.flatnonzero(used & ~((values > 0) & np.isfinite(values)))
        if len(bad):
            row = int(bad[0])
            raise _bad_table(
                f"has {len(bad)} rows with a {what} that is not a positive number",
                f"Row {row} (stage {table.stage[row]}, block {table.block[row]}) has {values[row]}",
            )
    rows = np.flatnonzero(used)
    keys = np.stack([column[rows] for column in columns[:4]], axis=1).astype(int)
    unique, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    groups = np.split(rows[np.argsort(group.ravel(), kind="stable")], np.cumsum(counts)[:-1])
    cells = {
        (key[0], key[1], key[2], key[3]): Cell(
            np.asarray(table.nsr_loss[own], dtype=float), np.asarray(table.latency_ms[own], dtype=float)
        )
        for key, own in zip(unique.tolist(), groups, strict=True)
    }
    for expected, resolution in product(stage_cells(hyperspace, table.failed), resolutions):
        for cell in expected:
            if (*cell, resolution) not in cells:
                name = f"{searched[cell[0]].name}, block {cell[1]}, width window {cell[2]}"
                raise _bad_table(f"has no rows for {name} at resolution {resolution}", "")
    return resolutions, cells


def _rows_for(table: BlockTable, hyperspace: Hyperspace) -> str:
    present = set(np.unique(table.stage).tolist())
    return ", ".join(stage.name for index, stage in enumerate(hyperspace.searched) if index in present) or "no stage"


def _bad_table(problem: str, found: str) -> ArtifactError:
    return ArtifactError(f"The block table {problem}", found=found, remedy="Make the table again for this hyperspace")
