"""Search over spaces: known optima, determinism, exclusion, and that it always ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.errors import ArtifactError, InfeasibleBudgetError, RecipeError
from spaceevo.records import BlockTable
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.qt_score import QTSettings
from spaceevo.search.sampled_score import SampledEvaluator
from spaceevo.search.space_search import best_of_block_types, of_other_widths, search_spaces
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage, SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

MICRO = load_hyperspace("micro")


class Scores:
    """A fake evaluator that counts how often it is asked."""

    budgets_ms = (1.0,)

    def __init__(self, function, fastest=None) -> None:
        self.function = function
        self.fastest = fastest
        self.asked: Counter[SpaceChoice] = Counter()

    def least_budget(self, choice: SpaceChoice) -> float:
        return 1.25

    def score(self, choice: SpaceChoice) -> float:
        self.asked[choice] += 1
        return self.function(choice)


def rugged(choice: SpaceChoice) -> float:
    """No structure at all: a hash between 0 and 1."""
    return (hash((choice.blocks, choice.windows)) % 10_007 + 1) / 10_008


def distance_to(target: SpaceChoice):
    def score(choice: SpaceChoice) -> float:
        pairs = zip(choice.blocks + choice.windows, target.blocks + target.windows, strict=True)
        return 1 / (1 + sum(abs(a - b) for a, b in pairs))

    return score


def small(num_blocks: int = 3, num_windows: int = 3, num_stages: int = 2) -> Hyperspace:
    blocks = tuple(BlockChoice(BlockType(f"kind{i}", "relu"), (3,)) for i in range(num_blocks))
    widths = tuple(range(8, 8 * (num_windows + 1), 8))
    stages = tuple(HyperStage(f"stage{i + 1}", blocks, widths, 1, (1,), 1) for i in range(num_stages))
    return Hyperspace("small", stages, Head(8, 8, "relu"), (32,))


def choices(hyperspace: Hyperspace) -> list[SpaceChoice]:
    blocks = product(*(range(len(stage.choices)) for stage in hyperspace.searched))
    windows = list(product(*(range(stage.num_windows) for stage in hyperspace.searched)))
    return [SpaceChoice(b, w) for b in blocks for w in windows]


def table_with_optimum(target: SpaceChoice) -> BlockTable:
    """All cells cost the same; the loss is lowest in the target's cells, by construction."""
    rng = np.random.default_rng(0)
    keys, loss = [], []
    for index, stage in enumerate(MICRO.searched):
        for block, window, resolution in product(
            range(len(stage.choices)), range(stage.num_windows), MICRO.resolutions
        ):
            keys += [(index, block, window, resolution)] * 10
            worse = 0.1 * (block != target.blocks[index]) + 0.02 * abs(window - target.windows[index])
            loss += (0.3 + worse + np.linspace(0, 0.1, 10)).tolist()
    zeros = np.zeros(len(keys), dtype=int)
    latency = np.tile(np.linspace(1, 2, 10), len(keys) // 10)
    return BlockTable(*np.array(keys).T, np.array(loss), rng.permuted(latency), zeros, zeros, zeros, zeros)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_finds_the_optimum_of_a_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = SpaceChoice(
        tuple(int(rng.integers(len(stage.choices))) for stage in MICRO.searched),
        tuple(int(rng.integers(stage.num_windows)) for stage in MICRO.searched),
    )
    table, base = table_with_optimum(target), dict.fromkeys(MICRO.resolutions, 0.5)
    constants = QTSettings(top_share=0.02)
    evaluator = ExactEvaluator(table, MICRO, [5.0], base, constants, 64, 32)
    sampled = SampledEvaluator(table, MICRO, [5.0], base, constants, 20_000)
    result = search_spaces(
        MICRO,
        evaluator,
        num_spaces=200,
        population_size=50,
        tournament_size=12,
        seed=seed,
        cross_check=sampled,
    )
    assert result.best.encoding == MICRO.encode(target)
    assert result.best.qt_score == evaluator.score(target)
    assert result.sampled_score == pytest.approx(result.best.qt_score, rel=2e-2)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_finds_the_optimum_of_a_smooth_score(seed: int, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(choices(MICRO)[::137]))
    scores = Scores(distance_to(target))
    result = search_spaces(
        MICRO, scores, num_spaces=100, population_size=30, tournament_size=8, tolerance=0.0, seed=seed
    )
    assert result.best.encoding == MICRO.encode(target)
    assert max(scores.asked.values()) == 1
    assert [space.encoding for space in result.within_tolerance] == [result.best.encoding]


def test_small_hyperspace_is_searched_completely() -> None:
    hyperspace, scores = small(), Scores(rugged)
    result = search_spaces(hyperspace, scores, num_spaces=81, tolerance=0.1)
    everything = {hyperspace.encode(choice): rugged(choice) for choice in choices(hyperspace)}
    assert result.num_evaluated == len(everything) == 81
    assert result.best.qt_score == max(everything.values())
    expected = {name for name, score in everything.items() if score >= 0.9 * result.best.qt_score}
    assert {space.encoding for space in result.within_tolerance} == expected
    assert len(expected) > 1
    ranked = [space.qt_score for space in result.within_tolerance]
    assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_best_has_no_better_neighbour(seed: int) -> None:
    hyperspace, scores = small(4, 4, 3), Scores(rugged)
    result = search_spaces(hyperspace, scores, num_spaces=40, population_size=10, tournament_size=3, seed=seed)
    best = hyperspace.decode(result.best.encoding)
    for stage, block, window in product(range(3), range(4), range(4)):
        blocks, windows = list(best.blocks), list(best.windows)
        blocks[stage], windows[stage] = block, window
        assert rugged(SpaceChoice(tuple(blocks), tuple(windows))) <= result.best.qt_score
    assert max(scores.asked.values()) == 1
    assert result.num_evaluated == len(scores.asked) >= 40


def test_deterministic_under_a_seed() -> None:
    def run(seed: int):
        scores = Scores(rugged)
        result = search_spaces(
            MICRO,
            scores,
            num_spaces=150,
            population_size=40,
            tournament_size=10,
            seed=seed,
            cross_check=scores,
        )
        return result, list(scores.asked)

    assert run(3) == run(3)
    assert run(3)[1] != run(4)[1]


def test_starts_with_the_uniform_spaces_and_scores_as_many_as_asked() -> None:
    scores, told = Scores(rugged), []
    search_spaces(
        MICRO,
        scores,
        num_spaces=300,
        population_size=30,
        tournament_size=8,
        progress=lambda done, total: told.append((done, total)),
    )
    uniform = list(MICRO.uniform_choices())
    assert list(scores.asked)[: len(uniform)] == uniform
    assert told[:300] == [(count, 300) for count in range(1, 301)]
    assert set(told[300:]) <= {(300, 300)}


def test_history_grows_and_is_short() -> None:
    result = search_spaces(MICRO, Scores(rugged), num_spaces=2000, population_size=50, tournament_size=12)
    counts = [step.num_evaluated for step in result.history]
    best = [step.best_score for step in result.history]
    assert counts == sorted(set(counts))
    assert best == sorted(best)
    assert 100 < len(counts) < 400
    assert all(step.population_mean <= step.best_score for step in result.history)


def test_excluded_blocks_are_never_scored() -> None:
    excluded = {(0, 0), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)}
    scores = Scores(distance_to(SpaceChoice((0, 3, 4), (0, 0, 0))))
    result = search_spaces(MICRO, scores, num_spaces=200, population_size=20, tournament_size=5, excluded=excluded)
    assert all(excluded.isdisjoint(enumerate(choice.blocks)) for choice in scores.asked)
    assert "stage2/bottleneck-relu" in result.excluded
    assert len(result.excluded) == len(excluded)
    assert result.sampled_score is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("hyperspace", "num_spaces", "population_size"),
    [
        (small(), 10**9, 500),
        (small(2, 1), 3, 2),
        (small(1, 3), 8, 1),
        (small(3, 3), 80, 1),
        (small(5, 5, 3), 1000, 3),
    ],
)
def test_always_ends(hyperspace: Hyperspace, num_spaces: int, population_size: int) -> None:
    for function in (lambda choice: 1.0, rugged):
        scores = Scores(function)
        result = search_spaces(
            hyperspace, scores, num_spaces=num_spaces, population_size=population_size, tournament_size=9
        )
        assert min(num_spaces, hyperspace.num_spaces) <= result.num_evaluated <= hyperspace.num_spaces


def test_errors() -> None:
    with pytest.raises(ArtifactError, match="No block type is left in stage2"):
        search_spaces(small(), Scores(rugged), num_spaces=5, excluded={(1, 0), (1, 1), (1, 2)})
    with pytest.raises(InfeasibleBudgetError):
        search_spaces(small(), Scores(lambda choice: 0.0), num_spaces=5)
    for values in ({"num_spaces": 0}, {"population_size": 0}, {"tournament_size": 0}, {"tolerance": 1.0}):
        with pytest.raises(RecipeError):
            search_spaces(small(), Scores(rugged), **{"num_spaces": 5, **values})


def test_table_failures_and_exclusion_agree() -> None:
    """With the table's failed cells excluded, no scored space is unusable."""
    table = replace(table_with_optimum(SpaceChoice((1, 1, 1), (0, 0, 0))), failed=frozenset({(0, 1)}))
    base = dict.fromkeys(MICRO.resolutions, 0.5)
    evaluator = ExactEvaluator(table, MICRO, [5.0], base, QTSettings(top_share=0.02), 32, 32)
    result = search_spaces(
        MICRO,
        evaluator,
        num_spaces=60,
        population_size=20,
        tournament_size=5,
        excluded=table.failed,
        tolerance=0.99,
    )
    assert len(result.within_tolerance) == result.num_evaluated
    assert MICRO.decode(result.best.encoding).blocks[1:] == (1, 1)
    assert MICRO.decode(result.best.encoding).blocks[0] != 1


def test_best_of_block_types_and_of_other_widths() -> None:
    hyperspace = small()
    result = search_spaces(hyperspace, Scores(rugged), num_spaces=1000, tolerance=0.5)
    scores = {one.encoding: one.qt_score for one in result.within_tolerance}
    found = best_of_block_types(result, hyperspace)
    blocks = [hyperspace.decode(one.encoding).blocks for one in found]
    assert len(set(blocks)) == len(blocks) < len(scores)
    assert found[0] == result.best
    assert [one.qt_score for one in found] == sorted((one.qt_score for one in found), reverse=True)
    for encoding, score in scores.items():
        assert score <= found[blocks.index(hyperspace.decode(encoding).blocks)].qt_score

    for best, own in zip(found, blocks, strict=True):
        others = of_other_widths(result, hyperspace, best)
        assert {best.encoding, *(one.encoding for one in others)} == {
            encoding for encoding in scores if hyperspace.decode(encoding).blocks == own
        }
        assert best not in others
        assert [one.qt_score for one in others] == sorted((one.qt_score for one in others), reverse=True)
    assert any(of_other_widths(result, hyperspace, best) for best in found)


def test_where_nothing_scores_the_fastest_space_is_where_to_begin() -> None:
    """One of 12,500 spaces scores, and two beside it: no evolution finds them."""
    fastest = SpaceChoice((3, 1, 4), (2, 0, 3))
    beside = [fastest, SpaceChoice((3, 1, 4), (2, 1, 3)), SpaceChoice((3, 1, 4), (2, 1, 2))]

    def score(choice: SpaceChoice) -> float:
        return 1.0 + beside.index(choice) if choice in beside else 0.0

    found = search_spaces(MICRO, Scores(score, fastest), num_spaces=50, population_size=10, tournament_size=3)
    assert found.best.encoding == MICRO.encode(beside[-1])
    with pytest.raises(InfeasibleBudgetError, match=r"The closest feasible budget is 1\.25"):
        search_spaces(MICRO, Scores(lambda choice: 0.0, fastest), num_spaces=50)
    with pytest.raises(InfeasibleBudgetError, match="Raise the budgets"):
        search_spaces(MICRO, Scores(score), num_spaces=50, population_size=10, tournament_size=3)
