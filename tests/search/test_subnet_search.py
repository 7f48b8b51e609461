"""Search of one space under a latency budget: near the optimum, within the budget, resumable, always ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from spaceevo.errors import InfeasibleBudgetError, RecipeError, TargetError, TrainingError
from spaceevo.search.pareto import pareto_front
from spaceevo.search.subnet_search import search_subnet
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Block, Subnet

SPACE = load_hyperspace("micro").space(SpaceChoice((1, 4, 2), (0, 2, 1)), num_classes=10)
FEW = {"population_size": 32, "num_generations": 3, "num_mutations": 8, "num_crossovers": 8}
MEDIUM = {"population_size": 128, "num_generations": 20, "num_mutations": 32, "num_crossovers": 32}


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
    found = search_subnet(SPACE, budget_ms=budget, latency_ms=latency_ms, top1=top1, **MEDIUM)
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

    found = search_subnet(
        SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=counted, progress=lambda *p: told.append(p), **FEW
    )
    assert len(asked) == len(set(asked)) == len(found) == 32 + 3 * 16
    assert told[-1] == (80, 80)


def test_of_equal_accuracy_the_faster_comes_first() -> None:
    found = search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=lambda subnet: 0.5, **FEW)
    latencies = [latency for _, latency, _ in found]
    assert latencies == sorted(latencies)
    assert latencies[0] < latencies[-1]


def test_deterministic() -> None:
    def run(seed: int):
        return search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=top1, seed=seed, **FEW)

    assert run(1) == run(1) != run(2)


def test_resumes_from_known_accuracies() -> None:
    """Interrupted after 50 accuracies, then continued: the same result, nothing asked for twice."""
    whole: dict[Subnet, float] = {}
    expected = search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=top1, known=whole, **FEW)
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
        search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=interrupted, known=known, **FEW)
    assert len(known) == 50
    again = search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=interrupted, known=known, **FEW)
    assert again == expected
    assert len(asked) == len(expected) + 1


def test_infeasible_budget_names_the_closest() -> None:
    smallest = latency_ms(SPACE.smallest())
    with pytest.raises(InfeasibleBudgetError, match="closest feasible budget is") as caught:
        search_subnet(SPACE, budget_ms=0.9 * smallest, latency_ms=latency_ms, top1=top1, **FEW)
    closest = float(str(caught.value).split("budget is ")[1].split(" ")[0])
    assert smallest <= closest < smallest + 0.002
    found = search_subnet(SPACE, budget_ms=closest, latency_ms=latency_ms, top1=top1, **FEW)
    assert found[0][0] == SPACE.smallest()


def test_the_smallest_subnet_need_not_be_the_fastest() -> None:
    """A target on which the lowest resolution and the narrowest first stage are slow."""

    def odd_ms(subnet: Subnet) -> float:
        slow = 3.0 * (subnet.resolution == SPACE.resolutions[0])
        narrow = 3.0 * (subnet.stages[1].blocks[0].width == SPACE.stages[1].widths[0])
        return latency_ms(subnet) + slow + narrow

    best = search_subnet(SPACE, budget_ms=2.5, latency_ms=odd_ms, top1=top1, **FEW)
    assert all(latency <= 2.5 for _, latency, _ in best)
    assert best[0][0].resolution != SPACE.resolutions[0]


@pytest.mark.timeout(30)
def test_budget_above_the_largest_subnet() -> None:
    """Nothing lies just below the budget: the window widens downwards."""
    budget = 3 * latency_ms(SPACE.largest())
    found = search_subnet(SPACE, budget_ms=budget, latency_ms=latency_ms, top1=top1, **MEDIUM)
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
    found = search_subnet(single, budget_ms=9.0, latency_ms=latency_ms, top1=top1, **FEW)
    assert [subnet for subnet, _, _ in found] == [single.smallest()]
    two = replace(SPACE, stages=stages, resolutions=(32, 48))
    found = search_subnet(two, budget_ms=9.0, latency_ms=latency_ms, top1=top1, **FEW)
    assert [subnet.resolution for subnet, _, _ in found] == [48, 32]


def test_failures_are_errors_not_numbers() -> None:
    with pytest.raises(TargetError):
        search_subnet(SPACE, budget_ms=1.2, latency_ms=lambda subnet: 0.0, top1=top1, **FEW)
    with pytest.raises(TargetError):
        search_subnet(SPACE, budget_ms=1.2, latency_ms=lambda subnet: math.nan, top1=top1, **FEW)
    with pytest.raises(TrainingError):
        search_subnet(SPACE, budget_ms=1.2, latency_ms=latency_ms, top1=lambda subnet: math.nan, **FEW)
    for values in ({"budget_ms": 0.0}, {"window": 0.0}, {"population_size": 1}, {"num_mutations": -1}):
        with pytest.raises(RecipeError):
            search_subnet(SPACE, **{"budget_ms": 1.2, **FEW, **values}, latency_ms=latency_ms, top1=top1)


def weights_above(limit: int) -> Callable[[Subnet], dict[str, float]]:
    return lambda subnet: {"weights": subnet.num_params / limit - 1}


def test_limits_on_other_metrics_are_met() -> None:
    free = search_subnet(SPACE, budget_ms=3.5, latency_ms=latency_ms, top1=top1, **FEW)
    limit = sorted(subnet.num_params for subnet, _, _ in free)[len(free) // 10]
    found = search_subnet(SPACE, budget_ms=3.5, latency_ms=latency_ms, top1=top1, excess=weights_above(limit), **FEW)
    assert len(found) > 20
    assert all(subnet.num_params <= limit and latency <= 3.5 for subnet, latency, _ in found)
    assert found[0][2] > 0.8 * free[0][2]
    loose = search_subnet(SPACE, budget_ms=3.5, latency_ms=latency_ms, top1=top1, excess=weights_above(10**9), **FEW)
    assert loose == free


def test_a_limit_that_no_subnet_meets_is_told() -> None:
    smallest = SPACE.smallest().num_params
    with pytest.raises(InfeasibleBudgetError, match=r"exceeds weights by 100\.0%.*subnets\.limits"):
        search_subnet(
            SPACE, budget_ms=3.5, latency_ms=latency_ms, top1=top1, excess=weights_above(smallest // 2), **FEW
        )
