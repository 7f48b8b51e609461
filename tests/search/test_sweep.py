"""All spaces at once: bounds against enumeration and exact scores, and that nothing near the best is missed."""

from __future__ import annotations

from functools import partial
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.errors import ArtifactError
from spaceevo.records import BlockTable
from spaceevo.search import sweep
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.qt_score import CombinedEvaluator, QTSettings
from spaceevo.search.space_search import search_spaces
from spaceevo.search.sweep import sweep_spaces
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage, SpaceChoice
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

RESOLUTIONS = (32, 48)
BASE_MS = {32: 0.5, 48: 0.9}
TOP = QTSettings(top_share=0.002)
NUM_ROWS = 300


def hyperspace(num_stages: int = 4, num_blocks: int = 2) -> Hyperspace:
    blocks = tuple(BlockChoice(BlockType(f"kind{i}", "relu"), (3,)) for i in range(num_blocks))
    stages = tuple(HyperStage(f"stage{i + 1}", blocks, (16, 24, 32), 2, (1,), 1) for i in range(num_stages))
    return Hyperspace("toy", stages, Head(8, 8, "relu"), RESOLUTIONS)


def random_table(space: Hyperspace, seed: int, num_rows: int = NUM_ROWS) -> BlockTable:
    """Every cell has its own trade-off: loss falls with latency, from its own height at its own rate."""
    rng = np.random.default_rng(seed)
    keys, loss, latency = [], [], []
    for index, stage in enumerate(space.searched):
        for block, window in product(range(len(stage.choices)), range(stage.num_windows)):
            height, rate, scale = rng.uniform(0.3, 0.7), rng.uniform(0.2, 1.0), rng.uniform(0.15, 0.4)
            for resolution in space.resolutions:
                own_ms = rng.gamma(3, scale, num_rows) * resolution / 32 + 0.1
                keys += [(index, block, window, resolution)] * num_rows
                latency.append(own_ms)
                loss.append(height * np.exp(-rate * own_ms) * rng.uniform(0.8, 1.2, num_rows) + 0.1)
    zeros = np.zeros(len(keys), dtype=int)
    return BlockTable(*np.array(keys).T, np.concatenate(loss), np.concatenate(latency), zeros, zeros, zeros, zeros)


def all_choices(space: Hyperspace) -> list[SpaceChoice]:
    blocks = product(*(range(len(stage.choices)) for stage in space.searched))
    windows = list(product(*(range(stage.num_windows) for stage in space.searched)))
    return [SpaceChoice(b, w) for b in blocks for w in windows]


@settings(max_examples=3)
@given(seed=st.integers(0, 10**6), budgets=st.sampled_from([(3.0,), (4.0,), (2.8, 4.0)]))
def test_finds_every_space_within_tolerance_of_the_known_optimum(seed: int, budgets: tuple[float, ...]) -> None:
    """Brute force over all 256 spaces of a random table gives what the sweep must find."""
    space = hyperspace()
    evaluator = ExactEvaluator(random_table(space, seed), space, budgets, BASE_MS, TOP)
    scores = {choice: evaluator.score(choice) for choice in all_choices(space)}
    best = max(scores, key=scores.__getitem__)
    threshold = 0.97 * scores[best]
    # From any good space, not only the best.
    start = Random(seed).choice([choice for choice in scores if scores[choice] >= 0.9 * scores[best]])
    swept = sweep_spaces(evaluator, start, threshold)
    expected = {choice for choice, score in scores.items() if score >= threshold}
    assert expected <= set(swept.candidates)
    assert max((scores[c] for c in scores if c not in swept.candidates), default=0) <= swept.bound
    assert swept.bound <= threshold * (1 + sweep.MARGIN)
    assert swept.num_spaces == len(scores) == 256


def test_bounds_equal_scores_to_a_thousandth() -> None:
    space = hyperspace()
    evaluator = ExactEvaluator(random_table(space, 1), space, [3.5], BASE_MS, TOP, 512, 256)
    choices = all_choices(space)
    scores = np.array([evaluator.score(choice) for choice in choices])
    cells = list(sweep.stage_cells(space, frozenset()))
    limits = [np.linspace(0.95, 1.25, 25) / scores.max()]
    bounds = sweep._Bounds(evaluator, cells, limits, (16, 8))
    upper = bounds.refined(np.array([bounds.indices(choice) for choice in choices]))
    good = scores >= 0.95 * scores.max()
    assert (upper >= scores * (1 - 5e-4)).all()
    assert good.sum() > 3
    assert upper[good] / scores[good] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("budget", [1.3, 1.6, 2.5])
def test_prices_bound_the_losses_of_scarcely_feasible_spaces(budget: float) -> None:
    """Where next to no subnet meets the budget, Fourier inversion has no digits left, and prices take over."""
    space = hyperspace()
    evaluator = ExactEvaluator(random_table(space, 5), space, [budget], BASE_MS, TOP)
    cells = list(sweep.stage_cells(space, frozenset()))
    least = sweep._least_losses(evaluator, budget, cells)
    bounds = sweep._Bounds(evaluator, cells, [np.array([1.0])], (16, 8))
    choices = [choice for choice in all_choices(space) if evaluator.score(choice) > 0]
    indices = np.array([bounds.indices(choice) for choice in choices])
    lower = sweep._best_priced(*((own, indices[:, stage]) for stage, own in enumerate(least)))
    loss = np.array([evaluator.assess(choice)[0].loss for choice in choices])
    unpriced = sum(own[indices[:, stage], :, 0].min(axis=1) for stage, own in enumerate(least))
    assert (lower <= loss + 1e-3).all()
    assert (lower >= unpriced - 1e-5).all()
    assert np.mean(lower - unpriced) > 0.02


def test_two_targets() -> None:
    space = hyperspace()
    one, other = random_table(space, 1), random_table(space, 2)
    parts = [ExactEvaluator(one, space, [3.5], BASE_MS, TOP), ExactEvaluator(other, space, [2.8, 4.0], BASE_MS, TOP)]
    both = CombinedEvaluator(parts)
    scores = {choice: both.score(choice) for choice in all_choices(space)}
    best = max(scores, key=scores.__getitem__)
    assert scores[best] == pytest.approx(sum(part.score(best) for part in parts))
    assert len(both.budgets_ms) == len(both.assess(best)) == 3
    swept = sweep_spaces(both, best, 0.97 * scores[best])
    assert {choice for choice, score in scores.items() if score >= 0.97 * scores[best]} <= set(swept.candidates)
    assert all(scores[choice] < 0.97 * scores[best] for choice in scores if choice not in swept.candidates)


def test_failed_cells_are_left_out() -> None:
    space = hyperspace()
    table = random_table(space, 3)
    evaluator = ExactEvaluator(
        BlockTable(**{n: getattr(table, n) for n in BlockTable.__dataclass_fields__ if n != "failed"},
                   failed=frozenset({(1, 0)})),
        space, [3.5], BASE_MS, TOP,
    )  # fmt: skip
    best = max(all_choices(space), key=evaluator.score)
    swept = sweep_spaces(evaluator, best, 0.9 * evaluator.score(best))
    assert swept.num_spaces == 128
    assert all(choice.blocks[1] != 0 for choice in swept.candidates)
    assert best in swept.candidates


def test_too_many_candidates_raise_the_bound() -> None:
    space = hyperspace()
    evaluator = ExactEvaluator(random_table(space, 1), space, [3.5], BASE_MS, TOP)
    scores = {choice: evaluator.score(choice) for choice in all_choices(space)}
    best = max(scores, key=scores.__getitem__)
    swept = sweep_spaces(evaluator, best, 0.8 * scores[best], max_candidates=5)
    assert len(swept.candidates) == 5
    rest = max(score for choice, score in scores.items() if choice not in swept.candidates)
    assert 0.8 * scores[best] < rest <= swept.bound


def test_a_table_of_few_rows_is_refused() -> None:
    """Sums of few values are not smooth: too few are refused at once, the others by their errors."""
    for num_rows, message in ((5, "A cell has 5 rows"), (40, "The relative error is")):
        space = hyperspace(2)
        evaluator = ExactEvaluator(random_table(space, 0, num_rows), space, [1.5], BASE_MS, TOP)
        best = max(all_choices(space), key=evaluator.score)
        with pytest.raises(ArtifactError, match=message):
            sweep_spaces(evaluator, best, evaluator.score(best))


def test_search_with_a_sweep_is_the_same_for_every_seed() -> None:
    space = hyperspace(5)
    evaluator = ExactEvaluator(random_table(space, 7), space, [4.5], BASE_MS, TOP)
    found = [
        search_spaces(space, evaluator, num_spaces=30, population_size=10, tournament_size=5, tolerance=0.15,
                      seed=seed, sweep=sweep_)
        for seed, sweep_ in ((0, partial(sweep_spaces, evaluator)), (1, partial(sweep_spaces, evaluator)), (0, None))
    ]  # fmt: skip
    result, other, without = found
    assert result.within_tolerance == other.within_tolerance
    assert len(without.within_tolerance) < len(result.within_tolerance), "some are left for the sweep to find"
    assert result.num_evaluated + result.num_bounded == space.num_spaces == 1024
    assert result.bound is not None
    assert result.bound < result.best.qt_score
    assert (without.bound, without.num_bounded) == (None, 0)
    brute = {space.encode(choice): evaluator.score(choice) for choice in all_choices(space)}
    assert {s.encoding for s in result.within_tolerance} == {
        name for name, score in brute.items() if score >= 0.85 * max(brute.values())
    }
