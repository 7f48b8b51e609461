"""The search over spaces."""

from __future__ import annotations

from typing import Literal

from spaceevo.records.base import Record


class ScoredSpace(Record):
    """A search space with its Q-T score."""

    encoding: str
    qt_score: float


class SpaceSearchStep(Record):
    """State of the search after some evaluations."""

    num_evaluated: int
    best_score: float
    population_mean: float


ChoiceKind = Literal["block", "window"]


class StageChoice(Record):
    """One choice of one stage among the spaces that the search found.

    Attributes:
        stage: Name of the stage.
        kind: What was chosen.
        index: Of the block type or width window in the hyperspace's stage.
        name: The block type, or the window's widths, for example "32-48".
        share: Of the spaces within tolerance that choose it, 0 to 1.
        loss_without: How far the best scored space that chooses otherwise lies below the best, relative: 0 for a
            choice that is not needed; 1 where no other scored space has a score.
    """

    stage: str
    kind: ChoiceKind
    index: int
    name: str
    share: float
    loss_without: float


class SpaceTrial(Record):
    """How networks of a space do that are trained alone.

    Attributes:
        space: Which space, and what it scores.
        top1: By budget, INT8 top-1 of a large network within it, on held-out training images; None where no network
            was found that meets it. The earliest versions wrote 0 there.
    """

    space: ScoredSpace
    top1: tuple[float | None, ...]

    @property
    def mean_top1(self) -> float | None:
        """Over the budgets; None where one of them is not met."""
        num_met, mean = self.rank
        return mean if num_met == len(self.top1) else None

    @property
    def rank(self) -> tuple[int, float]:
        """What the best trial has most of: budgets that are met, then top-1 over these."""
        met = [top1 for top1 in self.top1 if top1 is not None]
        return len(met), sum(met) / max(1, len(met))


class SpaceSearchResult(Record):
    """What the search over spaces found.

    Attributes:
        hyperspace: Name of the hyperspace that was searched.
        budgets_ms: Latency constraints; the score is the sum over them.
        best: The best space.
        within_tolerance: All evaluated spaces within the relative tolerance of the best, best first.
        tolerance: How far below the best score, relative to it, a space counts as equal.
        num_evaluated: Distinct spaces scored.
        history: The steps of the search, in order.
        sampled_score: Score of the best space by the sampled evaluator, as a cross-check; None without one.
        excluded: Failed cells (stage/block type) that no space may use.
        choices: Every block type and width window that some space within tolerance chooses.
        num_bounded: Spaces of which no more is known than that they score at most `bound`.
        bound: None without a sweep over all spaces; with one, `num_evaluated + num_bounded` are all there are.
        num_allowed: Spaces without a failed cell; where all of them were scored, nothing better exists.
        why_unbounded: Why a sweep that was asked for gave no bound; empty otherwise.
        trials: Of spaces within tolerance: of different block types, then of other widths for the best of them, each
            the best-scored first; empty where the score alone decides.
    """

    hyperspace: str
    budgets_ms: tuple[float, ...]
    best: ScoredSpace
    within_tolerance: tuple[ScoredSpace, ...]
    tolerance: float
    num_evaluated: int
    history: tuple[SpaceSearchStep, ...]
    sampled_score: float | None
    excluded: tuple[str, ...] = ()
    choices: tuple[StageChoice, ...] = ()
    num_bounded: int = 0
    bound: float | None = None
    num_allowed: int = 0
    why_unbounded: str = ""
    trials: tuple[SpaceTrial, ...] = ()

    @property
    def chosen(self) -> ScoredSpace:
        """The space to train: the most accurate of the trials that meet most budgets, without any the best-scored."""
        return max(self.trials, key=lambda trial: trial.rank).space if self.trials else self.best
