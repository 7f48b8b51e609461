"""Search over the spaces of a hyperspace for the highest Q-T score (SpaceEvo, ICCV 2023, Section 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import product
from math import inf, prod
from random import Random
from typing import Protocol

from spaceevo.errors import ArtifactError, InfeasibleBudgetError, RecipeError
from spaceevo.records import ChoiceKind, ScoredSpace, SpaceSearchResult, SpaceSearchStep, StageChoice
from spaceevo.search.evolution import AgingEvolution
from spaceevo.search.sweep import Sweep
from spaceevo.seeding import python_random
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice

NUM_HISTORY_STEPS = 200
# Steps of the evolution without a new space after which a random one is scored instead.
PATIENCE = 20
MAX_DRAWS = 10_000
# Spaces in a row whose one-stage changes may bring no better best: local optima lie close together at the top.
NUM_CLIMBED = 12


class SpaceEvaluator(Protocol):
    """What scores a space: a pure function of the choice, higher is better, 0 for an unusable space."""

    @property
    def budgets_ms(self) -> tuple[float, ...]:
        """Latency constraints that the score adds up over."""

    @property
    def fastest(self) -> SpaceChoice | None:
        """A space that scores if any does, for a search that has met none; None where that is not known."""

    def least_budget(self, choice: SpaceChoice) -> float:
        """The smallest budget, rounded up, under which a space scores."""

    def score(self, choice: SpaceChoice) -> float:
        """The Q-T score."""


def search_spaces(
    hyperspace: Hyperspace,
    evaluator: SpaceEvaluator,
    *,
    num_spaces: int,
    population_size: int = 500,
    tournament_size: int = 125,
    tolerance: float = 0.01,
    seed: int = 0,
    excluded: Collection[tuple[int, int]] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    cross_check: SpaceEvaluator | None = None,
    sweep: Callable[[SpaceChoice, float], Sweep] | None = None,
) -> SpaceSearchResult:
    """Find the best space and all scored ones that are about as good.

    Aging evolution as published: first all spaces with one block and one window index throughout, then random
    ones; each step a tournament's winner gets one child by a block mutation and one by a window mutation.
    Afterwards all one-stage changes of the best spaces are scored, the best first, until 12 of these in a row bring
    no better one. No space is scored twice. A hyperspace with no more than `num_spaces` allowed spaces is scored
    completely. In a larger one a sweep over all spaces finds those within tolerance that are still missing: then the
    result is the same for every seed, and nothing better exists.

    Args:
        hyperspace: Where to search.
        evaluator: Gives the Q-T score of a space.
        num_spaces: Distinct spaces that the evolution scores; at least 1. The last steps may score more.
        population_size: Of the evolution, at least 1.
        tournament_size: Of the evolution, at least 1.
        tolerance: Relative difference to the best score that counts as equally good, in [0, 1).
        seed: Decides everything, with the arguments above.
        excluded: Failed (stage, block) pairs, by index among the searched stages; no space has one.
        progress: Called with (spaces scored, num_spaces).
        cross_check: Second evaluator for the best space (`sampled_score`).
        sweep: Called with the best space and a score; gives all spaces that may reach it (`sweep.sweep_spaces` with
            this evaluator). That it cannot, an ArtifactError, is noted in the result.

    Raises:
        RecipeError: A number out of its range.
        ArtifactError: Every block of a stage is excluded.
        InfeasibleBudgetError: No space scores.
    """
    if min(num_spaces, population_size, tournament_size) < 1 or not 0 <= tolerance < 1:
        raise RecipeError(
            "A setting of the search over spaces is out of its range",
            found=f"{num_spaces=}, {population_size=}, {tournament_size=}, {tolerance=}",
            remedy="The numbers are at least 1, the tolerance lies in [0, 1)",
        )
    search = _Search(hyperspace, evaluator, num_spaces, frozenset(excluded), progress)
    if search.num_allowed <= num_spaces:
        for choice in search.every_choice():
            search.score(choice)
    else:
        _evolve(search, population_size, tournament_size, python_random(seed, "search_spaces"))
        search.climb()
    if not any(search.scores.values()) and evaluator.fastest:
        search.score(evaluator.fastest)
        search.climb()
    swept, why_unbounded = _swept(search, sweep, tolerance)
    ranked = sorted(
        (ScoredSpace(encoding=hyperspace.encode(choice), qt_score=score) for choice, score in search.scores.items()),
        key=lambda space: (-space.qt_score, space.encoding),
    )
    best = ranked[0]
    if best.qt_score <= 0:
        raise InfeasibleBudgetError(
            f"None of {len(ranked)} scored spaces of {hyperspace.name} has subnets within the budgets",
            found=f"budgets_ms = {list(evaluator.budgets_ms)}",
            remedy=_least_budgets(evaluator),
        )
    within = tuple(space for space in ranked if space.qt_score >= (1 - tolerance) * best.qt_score)
    return SpaceSearchResult(
        hyperspace=hyperspace.name,
        budgets_ms=evaluator.budgets_ms,
        best=best,
        within_tolerance=within,
        tolerance=tolerance,
        num_evaluated=len(ranked),
        history=tuple(search.history),
        sampled_score=cross_check.score(hyperspace.decode(best.encoding)) if cross_check else None,
        excluded=tuple(
            f"{stage.name}/{choice.block_type}"
            for index, stage in enumerate(hyperspace.searched)
            for block, choice in enumerate(stage.choices)
            if (index, block) in search.excluded
        ),
        choices=_choices(search, [hyperspace.decode(space.encoding) for space in within], best.qt_score),
        num_bounded=max(swept.num_spaces - len(ranked), 0) if swept else 0,
        bound=swept.bound if swept else None,
        num_allowed=search.num_allowed,
        why_unbounded=why_unbounded,
    )


def _least_budgets(evaluator: SpaceEvaluator) -> str:
    if evaluator.fastest is None:
        return "Raise the budgets; they lie at the very edge of what the hyperspace can do"
    return f"The closest feasible budget is {evaluator.least_budget(evaluator.fastest):g}"


def most_trials(num_tried: int) -> int:
    """How many spaces are tried by a training at most: the best of so many block types, then others of their widths.

    Args:
        num_tried: At least 1; 1 tries none.
    """
    return 2 * num_tried - 1 if num_tried > 1 else 0


def best_of_block_types(result: SpaceSearchResult, hyperspace: Hyperspace) -> tuple[ScoredSpace, ...]:
    """Of each combination of block types within tolerance the best space, the best first."""
    best: dict[tuple[int, ...], ScoredSpace] = {}
    for space in result.within_tolerance:
        best.setdefault(hyperspace.decode(space.encoding).blocks, space)
    return tuple(best.values())


def of_other_widths(result: SpaceSearchResult, hyperspace: Hyperspace, space: ScoredSpace) -> tuple[ScoredSpace, ...]:
    """The other spaces within tolerance that have the block types of one, the best first."""
    blocks = hyperspace.decode(space.encoding).blocks
    alike = (one for one in result.within_tolerance if hyperspace.decode(one.encoding).blocks == blocks)
    return tuple(one for one in alike if one != space)


def _swept(
    search: _Search, sweep: Callable[[SpaceChoice, float], Sweep] | None, tolerance: float
) -> tuple[Sweep | None, str]:
    """Score the spaces within tolerance that a sweep finds; None where there is nothing to sweep, or why it failed."""
    best = max(search.scores, key=search.scores.__getitem__)
    if sweep is None or search.num_allowed <= len(search.scores) or search.scores[best] <= 0:
        return None, ""
    try:
        swept = sweep(best, (1 - tolerance) * search.scores[best])
    except ArtifactError as error:
        return None, str(error)
    for choice in swept.candidates:
        search.score(choice)
    return swept, ""


def _choices(search: _Search, within: Sequence[SpaceChoice], best_score: float) -> tuple[StageChoice, ...]:
    """Shares among the spaces within tolerance, and what their absence costs among all that were scored."""
    result = []
    for index, stage in enumerate(search.hyperspace.searched):
        windows = [stage.widths[start : start + stage.window_size] for start in range(stage.num_windows)]
        names: dict[ChoiceKind, list[str]] = {
            "block": [str(choice.block_type) for choice in stage.choices],
            "window": [f"{window[0]}-{window[-1]}" if len(window) > 1 else f"{window[0]}" for window in windows],
        }
        for kind in names:
            highest = [0.0] * len(names[kind])
            for choice, score in search.scores.items():
                taken = _taken(choice, kind, index)
                highest[taken] = max(highest[taken], score)
            for taken, name in enumerate(names[kind]):
                share = sum(_taken(choice, kind, index) == taken for choice in within) / len(within)
                others = max((score for other, score in enumerate(highest) if other != taken), default=0.0)
                if share:
                    result.append(
                        StageChoice(
                            stage=stage.name,
                            kind=kind,
                            index=taken,
                            name=name,
                            share=share,
                            loss_without=max(0.0, 1 - others / best_score),
                        )
                    )
    return tuple(result)


def _taken(choice: SpaceChoice, kind: ChoiceKind, stage: int) -> int:
    return (choice.blocks if kind == "block" else choice.windows)[stage]


def _evolve(search: _Search, population_size: int, tournament_size: int, rng: Random) -> None:
    hyperspace = search.hyperspace
    mutations = []
    if any(len(stage.choices) > 1 for stage in hyperspace.searched):
        mutations.append(hyperspace.mutate_block)
    if any(stage.num_windows > 1 for stage in hyperspace.searched):
        mutations.append(hyperspace.mutate_window)
    initial = list(hyperspace.uniform_choices())
    evolution = AgingEvolution(
        population_size, tournament_size, initial, mutations, search.sample, search.is_allowed, rng
    )
    search.alive = lambda: [score for _, score in evolution.population]
    num_idle = 0
    while not search.is_done:
        before = len(search.scores)
        for choice in evolution.ask():
            if not search.is_done:
                evolution.tell(choice, search.score(choice))
        num_idle = 0 if len(search.scores) > before else num_idle + 1
        if num_idle >= PATIENCE:
            # Converged: all children were known. A space that is not known exists, and drawing it is likely.
            fresh = next((c for c in (search.sample(rng) for _ in range(MAX_DRAWS)) if c not in search.scores), None)
            if fresh is None:
                return
            evolution.tell(fresh, search.score(fresh))
            num_idle = 0


class _Search:
    """The scores so far, each space scored once."""

    def __init__(
        self,
        hyperspace: Hyperspace,
        evaluator: SpaceEvaluator,
        num_spaces: int,
        excluded: frozenset[tuple[int, int]],
        progress: Callable[[int, int], None],
    ) -> None:
        self.hyperspace = hyperspace
        self.excluded = excluded
        self.scores: dict[SpaceChoice, float] = {}
        self.history: list[SpaceSearchStep] = []
        self.alive: Callable[[], list[float]] = list
        self._evaluator = evaluator
        self._num_spaces = num_spaces
        self._progress = progress
        self._best = -inf
        self._blocks = [
            [block for block in range(len(stage.choices)) if (index, block) not in excluded]
            for index, stage in enumerate(hyperspace.searched)
        ]
        for stage, blocks in zip(hyperspace.searched, self._blocks, strict=True):
            if not blocks:
                raise ArtifactError(
                    f"No block type is left in {stage.name}",
                    found="The block-wise training of every one failed there",
                    remedy="Train the blocks again, for longer or at a lower rate",
                )

    @property
    def num_allowed(self) -> int:
        windows = (stage.num_windows for stage in self.hyperspace.searched)
        return prod(len(blocks) * count for blocks, count in zip(self._blocks, windows, strict=True))

    @property
    def is_done(self) -> bool:
        return len(self.scores) >= self._num_spaces

    def is_allowed(self, choice: SpaceChoice) -> bool:
        return self.excluded.isdisjoint(enumerate(choice.blocks))

    def sample(self, rng: Random) -> SpaceChoice:
        windows = tuple(rng.randrange(stage.num_windows) for stage in self.hyperspace.searched)
        return SpaceChoice(tuple(rng.choice(blocks) for blocks in self._blocks), windows)

    def every_choice(self) -> Iterator[SpaceChoice]:
        windows = [range(stage.num_windows) for stage in self.hyperspace.searched]
        for block_choice, window_choice in product(product(*self._blocks), product(*windows)):
            yield SpaceChoice(block_choice, window_choice)

    def score(self, choice: SpaceChoice) -> float:
        if choice not in self.scores:
            score = self._evaluator.score(choice)
            self.scores[choice] = score
            self._best = max(self._best, score)
            self._record()
        return self.scores[choice]

    def climb(self) -> None:
        """Score all one-stage changes of the best space, and of the next best, until many in a row bring no better."""
        left = [(-score, order, choice) for order, (choice, score) in enumerate(self.scores.items())]
        heapify(left)
        num_idle = 0
        while left and num_idle < NUM_CLIMBED:
            best = self._best
            for neighbour in self._neighbours(heappop(left)[2]):
                if neighbour not in self.scores:
                    heappush(left, (-self.score(neighbour), len(self.scores), neighbour))
            num_idle = 0 if self._best > best else num_idle + 1

    def _neighbours(self, choice: SpaceChoice) -> Iterator[SpaceChoice]:
        for index, stage in enumerate(self.hyperspace.searched):
            for block, window in product(self._blocks[index], range(stage.num_windows)):
                yield replace(
                    choice,
                    blocks=(*choice.blocks[:index], block, *choice.blocks[index + 1 :]),
                    windows=(*choice.windows[:index], window, *choice.windows[index + 1 :]),
                )

    def _record(self) -> None:
        count = len(self.scores)
        self._progress(min(count, self._num_spaces), self._num_spaces)
        if count == 1 or count % max(1, self._num_spaces // NUM_HISTORY_STEPS) == 0:
            alive = self.alive() or list(self.scores.values())
            mean = sum(alive) / len(alive)
            step = SpaceSearchStep(num_evaluated=count, best_score=self._best, population_mean=mean)
            self.history.append(step)
