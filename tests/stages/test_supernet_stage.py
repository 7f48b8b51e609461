"""The stage that trains the supernet: which subnets its steps train."""

import random
from dataclasses import replace
from typing import Any

import pytest

from spaceevo import plugins
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.nets.network import program_of
from spaceevo.progress import silent
from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.stages import _any_space, predict, space, supernet
from spaceevo.stages._any_space import train_and_search, train_supernet, trained_subnets


@pytest.fixture
def context(tiny: Any, tmp_path: Any, tiny_plugin: Any, monkeypatch: Any) -> Context:
    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    return Context.of_folder(tiny.copy(tmp_path / "run"))


def budgets_of(context: Context) -> tuple[float, ...]:
    return result_of(context, predict.STAGE).budgets_ms


def with_subnets(context: Context, subnets: str) -> Context:
    settings = context.recipe.supernet.model_copy(update={"subnets": subnets})
    object.__setattr__(context, "recipe", context.recipe.model_copy(update={"supernet": settings}))
    return context


def test_those_within_the_largest_budget(context: Context) -> None:
    own, predictor = result_of(context, space.STAGE).space, result_of(context, predict.STAGE).predictor
    within = with_subnets(context, "within-budgets")
    sample = trained_subnets(within, own, predictor.network_ms, budgets_of(context), 0).programs(2)
    programs = [program for seed in range(20) for program in sample(random.Random(seed))]
    latencies = [predictor.program_ms(program) for program in programs]
    assert len(programs) == 20 * 4
    assert max(latencies) <= budgets_of(context)[-1] < predictor.network_ms(own.largest())
    assert len(set(programs)) > 20


def test_the_small_one_is_large_within_the_smallest_budget_that_can_be_met(context: Context) -> None:
    context, own = with_subnets(context, "within-budgets"), result_of(context, space.STAGE).space
    latency_ms, budgets = (
        result_of(context, predict.STAGE).predictor.network_ms,
        budgets_of(context),
    )
    small = trained_subnets(context, own, latency_ms, budgets_of(context), 0).small
    assert latency_ms(small) <= budgets[0] < budgets[-1]
    assert small.macs > 1.5 * own.smallest().macs
    # Where only the largest budget can be met, the small one is as fast as any
    factor = budgets[-1] / min(latency_ms(replace(own.smallest(), resolution=one)) for one in own.resolutions)
    slow = trained_subnets(context, own, lambda one: 0.999 * factor * latency_ms(one), budgets_of(context), 0).small
    assert slow == replace(own.smallest(), resolution=slow.resolution)


def test_the_seed_decides_what_every_step_trains(context: Context) -> None:
    context, own = with_subnets(context, "within-budgets"), result_of(context, space.STAGE).space
    latency_ms = result_of(context, predict.STAGE).predictor.network_ms
    sandwiches = [trained_subnets(context, own, latency_ms, budgets_of(context), seed) for seed in (0, 0, 1, 2, 3)]
    pairs = [(sandwich.large, sandwich.small) for sandwich in sandwiches]
    assert pairs[0] == pairs[1]
    assert len(set(pairs)) > 1


def test_training_and_search_draw_it_with_the_seed_that_they_are_given(
    context: Context, tmp_path: Any, monkeypatch: Any
) -> None:
    own, latency_ms = result_of(context, space.STAGE).space, result_of(context, predict.STAGE).predictor.network_ms
    asked = []

    def note(context: Context, space: Any, latency_ms: Any, budgets_ms: Any, seed: int) -> Any:
        asked.append(seed)
        raise KeyError

    monkeypatch.setattr(_any_space, "trained_subnets", note)
    with pytest.raises(KeyError):
        train_supernet(context, own, tmp_path, 5, latency_ms, budgets_of(context), silent)
    monkeypatch.setattr(_any_space, "train_supernet", lambda *words: None)
    with pytest.raises(KeyError):
        train_and_search(context, own, tmp_path, 6, latency_ms, budgets_of(context), silent)
    assert asked == [5, 6]


def test_all(context: Context) -> None:
    own, predictor = result_of(context, space.STAGE).space, result_of(context, predict.STAGE).predictor
    sandwich = trained_subnets(with_subnets(context, "all"), own, predictor.network_ms, budgets_of(context), 0)
    programs = sandwich.programs(2)(random.Random(0))
    assert programs[:2] == [program_of(own.largest()), program_of(own.smallest())]
    assert len(programs) == 4


def test_the_large_one_is_trained_alone_at_first(context: Context) -> None:
    alone = [point.loss_smallest is None for point in result_of(context, supernet.STAGE).curve if point.phase == "fp32"]
    assert alone == sorted(alone, reverse=True)
    assert 0 < sum(alone) == round(context.recipe.supernet.large_first * len(alone))


def test_a_space_without_any(context: Context) -> None:
    own, predictor = result_of(context, space.STAGE).space, result_of(context, predict.STAGE).predictor
    within = with_subnets(context, "within-budgets")
    with pytest.raises(InfeasibleBudgetError, match="closest feasible budget"):
        trained_subnets(within, own, lambda one: 1e3 * predictor.network_ms(one), budgets_of(context), 0)
