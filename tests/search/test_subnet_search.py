"""Search of one space under latency budgets: near the optimum, within the budgets, resumable, always ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.errors import InfeasibleBudgetError, RecipeError, TargetError, TrainingError
from spaceevo.search.pareto import hypervolume, pareto_front
from spaceevo.search.subnet_search import RatedSubnet, best_within, search_subnets
from spaceevo.seeding import numpy_random
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Block, Subnet

SPACE = load_hyperspace("micro").space(SpaceChoice((1, 4, 2), (0, 2, 1)), num_classes=10)
BUDGETS = (1.2, 2.0, 3.5)
FEW: dict[str, Any] = {
    "population_size": 32, "num_generations": 3, "num_mutations": 8, "num_crossovers": 8, "num_candidates": 2
}  # fmt: skip
MEDIUM = {
    "population_size": 128, "num_generations": 20, "num_mutations": 32, "num_crossovers": 32, "num_candidates": 1
}  # fmt: skip
METHODS = ("per-budget", "pareto")


def block_ms(block: Block, resolution: int) -> float:
    return 0.001 * block.width * (1 + block.expand_ratio) * (1 + block.kernel_size / 10) * (resolution / 32) ** 2


def block_gain(block: Block, resolution: int) -> float:
    return math.log(block.width * (1 + block.expand_ratio)) * (1 + block.kernel_size / 20) * resolution / 4000


def latency_ms(subnet: Subnet) -> float:
    return 0.1 + sum(block_ms(block, subnet.resolution) for stage in subnet.stages for block in stage.blocks)


def top1(subnet: Subnet) -> float:
    return sum(block_gain(block, subnet.resolution) for stage in subnet.stages for block in stage.blocks)


def optimum(space: SearchSpace, budget_ms: float) -> float:
    """The highest `top1` within the budget, exactly: gain and latency add up, so partial fronts suffice."""

    def combined(first: list, second: list) -> list:
        sums = [(a + c, b + d) for a, b in first for c, d in second if a + c <= budget_ms + 1e-9]
        return [sums[index] for index in pareto_front(sums)]

    best = 0.0
    for resolution in space.resolutions:
        front = [(0.1, 0.0)]
        for stage in space.stages:
            block = [(block_ms(b, resolution), block_gain(b, resolution)) for b in stage.blocks()]
            stacks = [[(0.0, 0.0)]]
            for _ in range(stage.depths[-1]):
                stacks.append(combined(stacks[-1], block))
            front = combined(front, [point for depth in stage.depths for point in stacks[depth]])
        best = max([best, *(gain for _, gain in front)])
    return best


@pytest.mark.parametrize("budget", [1.2, 3.5])
def test_near_the_optimum_and_within_the_budget(budget: float) -> None:
    found = search_subnets(SPACE, budgets_ms=[budget], latency_ms=latency_ms, top1=top1, **MEDIUM)
    assert all(0.95 * budget <= latency <= budget for _, latency, _ in found)
    assert all(latency == latency_ms(subnet) and value == top1(subnet) for subnet, latency, value in found)
    assert all(SPACE.contains(subnet) for subnet, _, _ in found)
    assert len({subnet for subnet, _, _ in found}) == len(found) > 500
    assert [value for _, _, value in found] == sorted((value for _, _, value in found), reverse=True)
    best = optimum(SPACE, budget)
    assert 0.98 * best < found[0][2] <= best + 1e-9
    rng = Random(0)
    random_best = max(top1(s) for s in (SPACE.sample(rng) for _ in range(4000)) if latency_ms(s) <= budget)
    assert found[0][2] > random_best


def test_asks_for_as_many_accuracies_as_set() -> None:
    asked: list[Subnet] = []
    told: list[tuple[int, int]] = []

    def counted(subnet: Subnet) -> float:
        asked.append(subnet)
        return top1(subnet)

    found = search_subnets(
        SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=counted, progress=lambda *p: told.append(p), **FEW
    )
    assert len(asked) == len(set(asked)) == len(found) == 32 + 3 * 16
    assert told[-1] == (80, 80)


@pytest.mark.parametrize("method", METHODS)
def test_starts_from_what_was_trained_most(method: str) -> None:
    rng = Random(0)
    fast = next(s for s in iter(lambda: SPACE.sample(rng), None) if latency_ms(s) <= BUDGETS[0])
    slow = next(s for s in iter(lambda: SPACE.sample(rng), None) if BUDGETS[0] < latency_ms(s) <= BUDGETS[1])
    trained = (slow, fast, fast, SPACE.largest())
    asked: list[Subnet] = []

    def counted(subnet: Subnet) -> float:
        asked.append(subnet)
        return top1(subnet)

    settings = {**FEW, "num_generations": 0, "method": method}
    budgets = BUDGETS[:2]
    search_subnets(SPACE, budgets_ms=budgets, latency_ms=latency_ms, top1=counted, trained=trained, **settings)
    assert len(asked) == len(set(asked)) == 2 * 32 - 1, "what both budgets start from is evaluated once"
    assert asked[0] == fast
    assert asked[32] == slow
    assert SPACE.largest() not in asked

    def excess(subnet: Subnet) -> dict[str, float]:
        return {"macs": subnet.macs / (fast.macs - 1) - 1}

    found = search_subnets(
        SPACE, budgets_ms=budgets, latency_ms=latency_ms, top1=top1, trained=trained, excess=excess, **settings
    )
    assert fast not in {one.subnet for one in found}


def test_of_equal_accuracy_the_faster_comes_first() -> None:
    found = search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=lambda subnet: 0.5, **FEW)
    latencies = [latency for _, latency, _ in found]
    assert latencies == sorted(latencies)
    assert latencies[0] < latencies[-1]


def test_deterministic() -> None:
    def run(seed: int):
        return search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=top1, seed=seed, **FEW)

    assert run(1) == run(1) != run(2)


def test_resumes_from_known_accuracies() -> None:
    """Interrupted after 50 accuracies, then continued: the same result, nothing asked for twice."""
    whole: dict[Subnet, float] = {}
    expected = search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=top1, known=whole, **FEW)
    assert whole == {subnet: value for subnet, _, value in expected}

    known: dict[Subnet, float] = {}
    asked: list[Subnet] = []

    def interrupted(subnet: Subnet) -> float:
        if len(asked) == 50:
            asked.append(subnet)
            raise KeyboardInterrupt
        asked.append(subnet)
        return top1(subnet)

    with pytest.raises(KeyboardInterrupt):
        search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=interrupted, known=known, **FEW)
    assert len(known) == 50
    again = search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=interrupted, known=known, **FEW)
    assert again == expected
    assert len(asked) == len(expected) + 1


def test_infeasible_budget_names_the_closest() -> None:
    smallest = latency_ms(SPACE.smallest())
    with pytest.raises(InfeasibleBudgetError, match="closest feasible budget is") as caught:
        search_subnets(SPACE, budgets_ms=[0.9 * smallest], latency_ms=latency_ms, top1=top1, **FEW)
    closest = float(str(caught.value).split("budget is ")[1].split(" ")[0])
    assert smallest <= closest < smallest + 0.002
    found = search_subnets(SPACE, budgets_ms=[closest], latency_ms=latency_ms, top1=top1, **FEW)
    assert found[0][0] == SPACE.smallest()


def test_the_smallest_subnet_need_not_be_the_fastest() -> None:
    """A target on which the lowest resolution and the narrowest first stage are slow."""

    def odd_ms(subnet: Subnet) -> float:
        slow = 3.0 * (subnet.resolution == SPACE.resolutions[0])
        narrow = 3.0 * (subnet.stages[1].blocks[0].width == SPACE.stages[1].widths[0])
        return latency_ms(subnet) + slow + narrow

    best = search_subnets(SPACE, budgets_ms=[2.5], latency_ms=odd_ms, top1=top1, **FEW)
    assert all(latency <= 2.5 for _, latency, _ in best)
    assert best[0][0].resolution != SPACE.resolutions[0]


@pytest.mark.timeout(30)
def test_budget_above_the_largest_subnet() -> None:
    """Nothing lies just below the budget: the window widens downwards."""
    budget = 3 * latency_ms(SPACE.largest())
    found = search_subnets(SPACE, budgets_ms=[budget], latency_ms=latency_ms, top1=top1, **MEDIUM)
    assert found[0][2] > 0.97 * top1(SPACE.largest())


@pytest.mark.timeout(30)
def test_tiny_spaces_end() -> None:
    stages = tuple(
        replace(
            stage,
            widths=stage.widths[:1],
            depths=(1,),
            choice=replace(stage.choice, kernel_sizes=(3,), expand_ratios=stage.choice.expand_ratios[:1]),
        )
        for stage in SPACE.stages
    )
    single = replace(SPACE, stages=stages, resolutions=(32,))
    assert single.num_subnets == 1
    found = search_subnets(single, budgets_ms=[9.0], latency_ms=latency_ms, top1=top1, **FEW)
    assert [subnet for subnet, _, _ in found] == [single.smallest()]
    two = replace(SPACE, stages=stages, resolutions=(32, 48))
    found = search_subnets(two, budgets_ms=[9.0], latency_ms=latency_ms, top1=top1, **FEW)
    assert [subnet.resolution for subnet, _, _ in found] == [48, 32]


def test_failures_are_errors_not_numbers() -> None:
    with pytest.raises(TargetError):
        search_subnets(SPACE, budgets_ms=[1.2], latency_ms=lambda subnet: 0.0, top1=top1, **FEW)
    with pytest.raises(TargetError):
        search_subnets(SPACE, budgets_ms=[1.2], latency_ms=lambda subnet: math.nan, top1=top1, **FEW)
    with pytest.raises(TrainingError):
        search_subnets(SPACE, budgets_ms=[1.2], latency_ms=latency_ms, top1=lambda subnet: math.nan, **FEW)
    for values in (
        {"budgets_ms": []},
        {"budgets_ms": [1.2, 0.0]},
        {"window": 0.0},
        {"population_size": 1},
        {"num_mutations": -1},
        {"num_candidates": 0},
    ):
        with pytest.raises(RecipeError):
            search_subnets(SPACE, **{"budgets_ms": [1.2], **FEW, **values}, latency_ms=latency_ms, top1=top1)


def weights_above(limit: int) -> Callable[[Subnet], dict[str, float]]:
    return lambda subnet: {"weights": subnet.num_params / limit - 1}


def test_limits_on_other_metrics_are_met() -> None:
    free = search_subnets(SPACE, budgets_ms=[3.5], latency_ms=latency_ms, top1=top1, **FEW)
    limit = sorted(subnet.num_params for subnet, _, _ in free)[len(free) // 10]
    found = search_subnets(
        SPACE, budgets_ms=[3.5], latency_ms=latency_ms, top1=top1, excess=weights_above(limit), **FEW
    )
    assert len(found) > 20
    assert all(subnet.num_params <= limit and latency <= 3.5 for subnet, latency, _ in found)
    assert found[0][2] > 0.8 * free[0][2]
    loose = search_subnets(
        SPACE, budgets_ms=[3.5], latency_ms=latency_ms, top1=top1, excess=weights_above(10**9), **FEW
    )
    assert loose == free


def test_a_limit_that_no_subnet_meets_is_told() -> None:
    smallest = SPACE.smallest().num_params
    with pytest.raises(InfeasibleBudgetError, match=r"exceeds weights by 100\.0%.*subnets\.limits"):
        search_subnets(
            SPACE, budgets_ms=[3.5], latency_ms=latency_ms, top1=top1, excess=weights_above(smallest // 2), **FEW
        )


def small_space() -> SearchSpace:
    """Of 108 subnets."""
    stages = tuple(
        replace(
            stage,
            widths=stage.widths[:searched],
            depths=(1, 2)[:searched],
            choice=replace(stage.choice, kernel_sizes=(3,), expand_ratios=stage.choice.expand_ratios[:1]),
        )
        for stage, searched in zip(SPACE.stages, (1, 1, 2, 2), strict=True)
    )
    return replace(SPACE, stages=stages)


SMALL = small_space()
ALL = tuple(
    SMALL.subnet(resolution, stages)
    for resolution in SMALL.resolutions
    for stages in product(
        *([e.stage(blocks) for d in e.depths for blocks in product(e.blocks(), repeat=d)] for e in SMALL.stages)
    )
)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    method=st.sampled_from(METHODS),
    num_candidates=st.sampled_from((1, 3)),
    places=st.lists(st.integers(0, len(ALL) - 1), min_size=1, max_size=3),
    start=st.integers(2, 12),
    interrupted_at=st.integers(0, 30),
)
def test_laws(seed: int, method: Any, num_candidates: int, places: list[int], start: int, interrupted_at: int) -> None:
    """Any accuracies, any budgets: what is within them, what is best, and that an interruption changes nothing."""
    budgets = [sorted(map(latency_ms, ALL))[place] for place in places]
    accuracies = dict(zip(ALL, numpy_random(seed, "accuracies").uniform(size=len(ALL)).tolist(), strict=True))
    asked: list[Subnet] = []

    def run(known: dict[Subnet, float], stop: int | None = None) -> list[RatedSubnet]:
        def told(subnet: Subnet) -> float:
            if len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(subnet)
            return accuracies[subnet]

        return search_subnets(
            SMALL, budgets_ms=budgets, latency_ms=latency_ms, top1=told, method=method, window=0.2, known=known,
            population_size=start, num_generations=2, num_mutations=2, num_crossovers=2,
            num_candidates=num_candidates, seed=seed,
        )  # fmt: skip

    rated = run(known := {})
    assert known == {one.subnet: one.top1 for one in rated}
    assert len(asked) == len(rated) <= len(set(budgets)) * (start + 8)
    assert all(one.latency_ms == latency_ms(one.subnet) <= max(budgets) for one in rated)
    bests = []
    for budget in sorted(budgets):
        within = best_within(rated, budget)
        assert within  # every budget is served
        assert within[0].top1 == max(value for subnet, value in known.items() if latency_ms(subnet) <= budget)
        bests.append(within[0].top1)
    assert bests == sorted(bests)  # a larger budget is never worse

    asked.clear()
    stored: dict[Subnet, float] = {}
    with suppress(KeyboardInterrupt):
        run(stored, interrupted_at)
    assert len(stored) == min(interrupted_at, len(rated))
    assert run(stored) == rated
    assert len(asked) == len(rated)


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_optimum_of_a_small_space(method: Any) -> None:
    budgets = [sorted(map(latency_ms, ALL))[place] for place in (30, 90)]
    rated = search_subnets(
        SMALL, budgets_ms=budgets, latency_ms=latency_ms, top1=top1, method=method, window=0.3,
        population_size=8, num_generations=3, num_mutations=2, num_crossovers=2, num_candidates=8,
    )  # fmt: skip
    assert len(rated) <= 40 < len(ALL) == 108
    for budget in budgets:
        assert best_within(rated, budget)[0].top1 == max(top1(s) for s in ALL if latency_ms(s) <= budget)


def test_no_budget_is_searched_where_one_is_infeasible() -> None:
    def never(subnet: Subnet) -> float:
        raise AssertionError

    with pytest.raises(InfeasibleBudgetError, match="closest feasible budget is"):
        search_subnets(SPACE, budgets_ms=[3.5, 0.01], latency_ms=latency_ms, top1=never, **FEW)


def test_the_pareto_run_covers_what_lies_between_the_budgets() -> None:
    volumes = {}
    for method in METHODS:
        known: dict[Subnet, float] = {}
        rated = search_subnets(
            SPACE, budgets_ms=BUDGETS, latency_ms=latency_ms, top1=top1, method=method, known=known, **FEW
        )
        assert all(any(0.95 * budget <= one.latency_ms <= budget for one in rated) for budget in BUDGETS)
        volumes[method] = hypervolume([(one.latency_ms, one.top1) for one in rated], (BUDGETS[-1], 0.0))
    bred = list(map(latency_ms, known))[len(BUDGETS) * FEW["population_size"] :]
    assert sum(ms < BUDGETS[1] for ms in bred) > 0.3 * len(bred)
    assert volumes["pareto"] > volumes["per-budget"]


def test_ranked_candidates_beat_unranked_ones_at_equal_evaluations() -> None:
    bests = []
    for num_candidates in (1, 8):
        rated = search_subnets(
            SPACE, budgets_ms=[2.0], latency_ms=latency_ms, top1=top1, **{**FEW, "num_candidates": num_candidates}
        )
        assert len(rated) == 80
        bests.append(rated[0].top1)
    assert bests[1] > 1.03 * bests[0]
