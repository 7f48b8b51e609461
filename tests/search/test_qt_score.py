"""The Q-T score: both evaluators against enumeration and against each other, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.errors import ArtifactError, EncodingError, InfeasibleBudgetError, RecipeError
from spaceevo.records import BlockTable
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.qt_score import BudgetQuality, Evaluator, QTSettings
from spaceevo.search.sampled_score import SampledEvaluator
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage, SpaceChoice
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head

RESOLUTIONS = (32, 48)
BASE_MS = {32: 0.5, 48: 0.9}
TOP = QTSettings(top_share=0.02)


def hyperspace(num_stages: int = 3, num_blocks: int = 2) -> Hyperspace:
    blocks = tuple(BlockChoice(BlockType(f"kind{i}", "relu"), (3,)) for i in range(num_blocks))
    stages = tuple(HyperStage(f"stage{i + 1}", blocks, (16, 24, 32), 2, (1,), 1) for i in range(num_stages))
    return Hyperspace("toy", stages, Head(8, 8, "relu"), RESOLUTIONS)


def make_table(space: Hyperspace, num_rows: int, seed: int = 0) -> BlockTable:
    """Rows whose loss falls with latency, as in a real table, with noise."""
    rng = np.random.default_rng(seed)
    keys, loss, latency = [], [], []
    for index, stage in enumerate(space.searched):
        for block, window, resolution in product(
            range(len(stage.choices)), range(stage.num_windows), space.resolutions
        ):
            own_ms = rng.gamma(3 + block + window, 0.2, num_rows) * resolution / 32 + 0.1
            keys += [(index, block, window, resolution)] * num_rows
            latency.append(own_ms)
            loss.append(0.2 + 0.5 * np.exp(-own_ms) * rng.uniform(0.7, 1.3, num_rows) + 0.05 * block)
    columns = np.array(keys).T
    zeros = np.zeros(len(keys), dtype=int)
    return BlockTable(*columns, np.concatenate(loss), np.concatenate(latency), zeros, zeros, zeros, zeros)


def enumerate_quality(
    table: BlockTable, space: Hyperspace, choice: SpaceChoice, budget_ms: float, constants: QTSettings
) -> BudgetQuality:
    """Share and loss by adding up every combination of rows."""
    totals = []
    for resolution in space.resolutions:
        loss, latency = np.zeros(1), np.array([BASE_MS[resolution]])
        for stage, (block, window) in enumerate(zip(choice.blocks, choice.windows, strict=True)):
            own = (table.stage == stage) & (table.block == block) & (table.window == window)
            own &= table.resolution == resolution
            loss = np.add.outer(loss, table.nsr_loss[own]).ravel()
            latency = np.add.outer(latency, table.latency_ms[own]).ravel()
        totals.append((loss, latency, np.full(len(loss), 1 / len(loss) / len(space.resolutions))))
    loss, latency, mass = (np.concatenate(parts) for parts in zip(*totals, strict=True))
    feasible = latency <= budget_ms
    order = np.argsort(loss[feasible])
    loss, mass = loss[feasible][order], mass[feasible][order]
    top = np.clip(constants.top_share - (np.cumsum(mass) - mass), 0, mass)
    return BudgetQuality(mass.sum(), top @ loss / top.sum() if len(mass) else np.inf)


def test_golden_by_hand() -> None:
    """One stage, one resolution, four rows: everything can be computed in the head."""
    block = (BlockChoice(BlockType("kind", "relu"), (3,)),)
    space = Hyperspace("one", (HyperStage("stage1", block, (8, 16), 1, (1,), 1),), Head(8, 8, "relu"), (32,))
    window, zeros = np.array([0, 0, 0, 0, 1]), np.zeros(5, dtype=int)
    loss, latency = np.array([0.8, 0.4, 0.2, 0.1, 0.5]), np.array([1.0, 2.0, 3.0, 4.0, 3.0])
    table = BlockTable(zeros, zeros, window, zeros + 32, loss, latency, zeros, zeros, zeros, zeros)
    choice = SpaceChoice((0,), (0,))
    constants = QTSettings(target_share=1.0, exponent=2.0, top_share=0.5)
    # Within 3.6 + 0.1 ms: losses 0.8, 0.4, 0.2 with p = 3/4; the best half of all: 0.2 and 0.4, mean 0.3.
    expected = 1 / ((1 / 0.75) ** 2 * 0.3)
    exact = ExactEvaluator(table, space, [3.6], {32: 0.1}, constants, 512, 512)
    assert exact.score(choice) == pytest.approx(expected, rel=2e-3)
    sampled = SampledEvaluator(table, space, [3.6], {32: 0.1}, constants, 100_000, seed=3)
    assert sampled.score(choice) == pytest.approx(expected, rel=2e-2)
    # Within 1.5 + 0.1 ms only a quarter is left, less than the top share: the mean over what there is.
    (quality,) = ExactEvaluator(table, space, [1.6], {32: 0.1}, constants, 512, 512).assess(choice)
    assert (quality.share, quality.loss) == pytest.approx((0.25, 0.8), rel=2e-3)
    # The other window's one row takes 3 ms: just missing a budget is missing it, whatever the bins.
    coarse = ExactEvaluator(table, space, [3.09, 3.11 + 8], {32: 0.1}, constants, 16, 16)
    missed, met = coarse.assess(SpaceChoice((0,), (1,)))
    assert (missed.share, met.share) == pytest.approx((0, 1), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_exact_equals_enumeration(seed: int) -> None:
    space = hyperspace()
    table = make_table(space, num_rows=60, seed=seed)
    budgets = [2.5, 4.0]
    exact = ExactEvaluator(table, space, budgets, BASE_MS, TOP)
    for choice in (space.sample(Random(seed)), SpaceChoice((0, 1, 0), (1, 0, 1))):
        for budget, quality in zip(budgets, exact.assess(choice), strict=True):
            true = enumerate_quality(table, space, choice, budget, TOP)
            assert quality.share == pytest.approx(true.share, rel=2e-2, abs=1e-4)
            assert quality.loss == pytest.approx(true.loss, rel=1e-3)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), budget=st.floats(1.6, 8.0), bins=st.sampled_from([16, 33, 64]))
def test_discretisation_error_is_bounded(seed: int, budget: float, bins: int) -> None:
    space = hyperspace()
    table = make_table(space, num_rows=12, seed=seed)
    choice = space.sample(Random(seed))
    try:
        exact = ExactEvaluator(table, space, [budget], BASE_MS, TOP, bins, bins)
    except InfeasibleBudgetError:
        return
    (quality,) = exact.assess(choice)
    slack_ms = 4 * max(exact.latency_step_ms.values())
    low, high = (enumerate_quality(table, space, choice, budget + s, TOP) for s in (-slack_ms, slack_ms))
    assert low.share - 1e-8 <= quality.share <= high.share + 1e-8
    if low.share >= TOP.top_share:
        slack = 3 * max(exact.loss_step.values())
        assert high.loss - slack <= quality.loss <= low.loss + slack


def test_exact_converges_with_the_bins() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=60)
    choice = SpaceChoice((1, 0, 1), (0, 1, 0))
    true = enumerate_quality(table, space, choice, 3.5, TOP).score(TOP)
    errors = [
        abs(ExactEvaluator(table, space, [3.5], BASE_MS, TOP, bins, bins).score(choice) / true - 1)
        for bins in (16, 64, 256, 1024)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 5e-4
    assert errors[3] < 5e-5


@pytest.mark.parametrize(("num_stages", "seed"), [(3, 0), (4, 1), (6, 2)])
def test_exact_lies_within_the_noise_of_many_samples(num_stages: int, seed: int) -> None:
    space = hyperspace(num_stages)
    table = make_table(space, num_rows=80, seed=seed)
    choice = space.sample(Random(seed))
    budget = 1.2 * num_stages
    constants = QTSettings(top_share=0.005)
    exact = ExactEvaluator(table, space, [budget, 1.2 * budget], BASE_MS, constants).score(choice)
    scores = [
        SampledEvaluator(table, space, [budget, 1.2 * budget], BASE_MS, constants, 40_000, seed=s).score(choice)
        for s in range(20)
    ]
    noise = np.std(scores, ddof=1) / np.sqrt(len(scores))
    assert noise / exact < 1e-3
    # Four standard errors, and the discretisation and finite-sample error of a few 1e-4.
    assert abs(np.mean(scores) - exact) < 4 * noise + 5e-4 * exact


def test_score_adds_up_over_budgets_and_grows_with_them() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=40)
    choice = SpaceChoice((0, 0, 0), (0, 0, 0))
    evaluator = ExactEvaluator(table, space, [2.5, 3.5, 5.0], BASE_MS, TOP)
    terms = [quality.score(TOP) for quality in evaluator.assess(choice)]
    assert evaluator.score(choice) == pytest.approx(sum(terms))
    assert terms == sorted(terms)
    assert terms[0] < terms[2]


def test_budget_quality_score() -> None:
    constants = QTSettings(target_share=0.5, exponent=1.0)
    assert BudgetQuality(0.25, 2.0).score(constants) == pytest.approx(0.25)
    assert BudgetQuality(0.5, 2.0).score(constants) == BudgetQuality(1.0, 2.0).score(constants) == 0.5
    assert BudgetQuality(0.0, np.inf).score(constants) == 0


@pytest.mark.parametrize("kind", [ExactEvaluator, SampledEvaluator])
def test_space_without_subnets_in_the_budget_scores_zero(kind: type[Evaluator]) -> None:
    space = hyperspace()
    table = make_table(space, num_rows=20)
    slow = replace(table, latency_ms=table.latency_ms + 10.0 * (table.block == 1))
    evaluator = kind(slow, space, [3.0], BASE_MS, TOP)
    assert evaluator.score(SpaceChoice((0, 0, 0), (0, 0, 0))) > 0
    assert evaluator.score(SpaceChoice((0, 1, 0), (0, 0, 0))) == 0


@pytest.mark.parametrize("kind", [ExactEvaluator, SampledEvaluator])
def test_failed_cell(kind: type[Evaluator]) -> None:
    """A failed cell's rows are not looked at, and a space with one scores 0."""
    space = hyperspace()
    table = make_table(space, num_rows=20)
    broken = np.where((table.stage == 1) & (table.block == 0), np.nan, table.nsr_loss)
    evaluator = kind(replace(table, nsr_loss=broken, failed=frozenset({(1, 0)})), space, [4.0], BASE_MS, TOP)
    assert evaluator.score(SpaceChoice((0, 0, 0), (0, 0, 0))) == 0
    assert evaluator.score(SpaceChoice((0, 1, 0), (0, 0, 0))) > 0


def test_sampled_is_a_function_of_seed_and_space() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=20)
    first, again, other = (SampledEvaluator(table, space, [4.0], BASE_MS, TOP, 5000, s) for s in (1, 1, 2))
    choice = SpaceChoice((0, 1, 0), (0, 0, 0))
    first.score(SpaceChoice((0, 0, 0), (0, 0, 0)))  # the order of asking does not matter
    assert first.score(choice) == again.score(choice) != other.score(choice)
    loss, latency_ms = first.draw(choice)
    assert loss.shape == latency_ms.shape == (5000,)


def test_resolutions_that_the_table_lacks_are_left_out() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=20)
    wider = replace(space, resolutions=(32, 40, 48))
    choice = SpaceChoice((0, 1, 0), (0, 0, 0))
    scores = [ExactEvaluator(table, s, [4.0], BASE_MS, TOP).score(choice) for s in (space, wider)]
    assert scores[0] == scores[1]


def test_unknown_choice() -> None:
    space = hyperspace()
    evaluator = ExactEvaluator(make_table(space, 5), space, [9.0], BASE_MS, TOP)
    for choice in (
        SpaceChoice((0, 2, 0), (0, 0, 0)),
        SpaceChoice((0, 0, 0), (0, 0, -1)),
        SpaceChoice((), ()),
    ):
        with pytest.raises(EncodingError):
            evaluator.score(choice)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("stage", 3, "names stage 3"),
        ("block", 2, "names block 2 in stage1"),
        ("window", -1, "names width window -1 in stage1"),
        ("nsr_loss", np.nan, "1 rows with a NSR loss"),
        ("latency_ms", 0.0, "1 rows with a latency"),
        ("latency_ms", -1.0, "1 rows with a latency"),
        ("latency_ms", np.inf, "1 rows with a latency"),
    ],
)
def test_bad_table(column: str, value: float, message: str) -> None:
    space = hyperspace()
    table = make_table(space, num_rows=5)
    values = getattr(table, column).copy()
    values[0] = value
    with pytest.raises(ArtifactError, match=message):
        ExactEvaluator(replace(table, **{column: values}), space, [9.0], BASE_MS, TOP)


def test_incomplete_table() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=5)
    hole = (table.stage == 2) & (table.block == 1) & (table.window == 0) & (table.resolution == 48)
    parts = {name: getattr(table, name)[~hole] for name in BlockTable.__dataclass_fields__ if name != "failed"}
    with pytest.raises(ArtifactError, match="stage3, block 1, width window 0 at resolution 48"):
        ExactEvaluator(BlockTable(**parts), space, [9.0], BASE_MS, TOP)
    ExactEvaluator(BlockTable(**parts, failed=frozenset({(2, 1)})), space, [9.0], BASE_MS, TOP)
    with pytest.raises(ArtifactError, match="no block left in stage3"):
        ExactEvaluator(replace(table, failed=frozenset({(2, 0), (2, 1)})), space, [9.0], BASE_MS, TOP)
    with pytest.raises(ArtifactError, match="none of the resolutions"):
        ExactEvaluator(table, replace(space, resolutions=(64,)), [9.0], BASE_MS, TOP)
    with pytest.raises(ArtifactError, match="at resolution 48"):
        ExactEvaluator(table, space, [9.0], {32: 0.5}, TOP)
    with pytest.raises(ArtifactError, match="different lengths"):
        ExactEvaluator(replace(table, block=table.block[1:]), space, [9.0], BASE_MS, TOP)


def test_infeasible_budget_names_the_closest() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=5)
    with pytest.raises(InfeasibleBudgetError, match="closest feasible budget is") as caught:
        ExactEvaluator(table, space, [9.0, 0.6], BASE_MS, TOP)
    closest = float(str(caught.value).split("budget is ")[1].split(" ")[0])
    accepted = ExactEvaluator(table, space, [closest], BASE_MS, TOP)
    assert accepted.score(accepted.fastest) > 0
    with pytest.raises(InfeasibleBudgetError):
        ExactEvaluator(table, space, [closest * 0.998], BASE_MS, TOP)


@pytest.mark.parametrize("evaluator", [ExactEvaluator, SampledEvaluator])
def test_the_budget_that_is_named_scores_although_combinations_are_many(evaluator: type[Evaluator]) -> None:
    """Of 30 ** 6 combinations the fastest one is a share that no evaluator can tell."""
    space = hyperspace(6)
    table = make_table(space, num_rows=30)
    with pytest.raises(InfeasibleBudgetError) as caught:
        evaluator(table, space, [0.6], BASE_MS, TOP)
    named = float(str(caught.value).split("budget is ")[1].split(" ")[0])
    accepted = evaluator(table, space, [named], BASE_MS, TOP)
    fastest = accepted.fastest
    assert accepted.score(fastest) > 0
    assert accepted.closest_budget(fastest) < named < 1.5 * accepted.closest_budget(fastest)
    assert evaluator(table, space, [accepted.closest_budget(fastest)], BASE_MS, TOP).score(fastest) == 0


def test_bad_settings() -> None:
    space = hyperspace()
    table = make_table(space, num_rows=5)
    for values in ({"target_share": 0.0}, {"top_share": 1.5}, {"exponent": -1.0}, {"top_share": np.nan}):
        with pytest.raises(RecipeError):
            QTSettings(**values)
    for budgets in ([], [0.0], [np.nan]):
        with pytest.raises(RecipeError):
            ExactEvaluator(table, space, budgets, BASE_MS, TOP)
    with pytest.raises(RecipeError):
        ExactEvaluator(table, space, [9.0], BASE_MS, TOP, num_loss_bins=4)
    with pytest.raises(RecipeError):
        SampledEvaluator(table, space, [9.0], BASE_MS, TOP, num_samples=0)
