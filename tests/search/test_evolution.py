"""Aging evolution: start population, tournaments, aging, and that every draw is bounded."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from math import nan, sqrt
from random import Random

import pytest
from hypothesis import given, strategies as st

from spaceevo.search.evolution import AgingEvolution


def step(value: int, rng: Random) -> int:
    return value + rng.choice((-1, 1))


def jump(value: int, rng: Random) -> int:
    return value + 100


def same(value: int, rng: Random) -> int:
    return value


def make(population_size: int = 4, tournament_size: int = 4, *, seed: int = 0, allowed=lambda value: True):
    return AgingEvolution(
        population_size,
        tournament_size,
        [7, 8],
        [step, jump],
        lambda rng: rng.randrange(50),
        allowed,
        Random(seed),
    )


def test_starts_with_initial_then_random() -> None:
    first = make().ask()
    assert first[:2] == [7, 8]
    assert len(first) == 4
    assert all(0 <= value < 50 for value in first[2:])


def test_winner_of_the_tournament_gets_one_child_per_mutation() -> None:
    evolution = make()
    for value in evolution.ask():
        evolution.tell(value, 1.0 if value == 8 else 0.0)
    near, far = evolution.ask()
    assert near in (7, 9)
    assert far == 108


def test_small_tournament_lets_others_win() -> None:
    evolution = make(tournament_size=1)
    for value in evolution.ask():
        evolution.tell(value, float(value))
    assert len({evolution.ask()[1] for _ in range(50)}) > 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 9))
def test_winners_are_as_often_as_in_samples_without_replacement(scores: list[int], places: int) -> None:
    values = range(len(scores))
    evolution = AgingEvolution(len(scores), places, values, [same], lambda rng: 0, lambda value: True, Random(0))
    for value in evolution.ask():
        evolution.tell(value, scores[value])
    wins = Counter(evolution.ask()[0] for _ in range(2000))
    expected = Counter[int]()
    samples = list(combinations(values, min(places, len(scores))))
    for sample in samples:
        best = [value for value in sample if scores[value] == max(scores[other] for other in sample)]
        for value in best:
            expected[value] += 2000 / len(samples) / len(best)
    assert set(wins) <= set(expected)
    for value, count in expected.items():
        assert abs(wins[value] - count) <= 6 * sqrt(count)  # six standard errors


@given(st.lists(st.integers(0, 3), min_size=10, max_size=30))
def test_the_dead_win_no_tournament(scores: list[int]) -> None:
    evolution = make(tournament_size=4)
    evolution.ask()
    for value, score in enumerate(scores):
        evolution.tell(value, score)
    best = max(scores[-4:])
    assert scores[evolution.ask()[1] - 100] == best
    assert evolution.ask()[1] - 100 >= len(scores) - 4


def test_refuses_a_score_that_is_no_number() -> None:
    evolution = make()
    with pytest.raises(ValueError, match="NaN"):
        evolution.tell(1, nan)


def test_the_oldest_dies_even_if_best() -> None:
    evolution = make()
    for score, value in enumerate([10, 11, 12, 13, 14]):
        evolution.tell(value, 5.0 - score)
    assert [value for value, _ in evolution.population] == [11, 12, 13, 14]


def test_deterministic() -> None:
    def run(seed: int) -> list[int]:
        evolution, asked = make(seed=seed), []
        for _ in range(20):
            for value in evolution.ask():
                asked.append(value)
                evolution.tell(value, -abs(value - 30))
        return asked

    assert run(1) == run(1) != run(2)


def test_gives_only_allowed_values_and_never_hangs() -> None:
    even = make(allowed=lambda value: value % 2 == 0)
    for value in even.ask():
        assert value % 2 == 0
        even.tell(value, 0.0)
    assert all(value % 2 == 0 for _ in range(20) for value in even.ask())  # `step` never gives an even one
    nothing = make(allowed=lambda value: False)
    assert nothing.ask() == []
    assert nothing.ask() == []


def test_climbs_to_the_optimum() -> None:
    evolution = AgingEvolution(10, 5, [0], [step], lambda rng: 0, lambda value: True, Random(0))
    for _ in range(500):
        for value in evolution.ask():
            evolution.tell(value, -abs(value - 40))
    assert max(score for _, score in evolution.population) == 0


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_refuses_empty_sizes(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make(*sizes)
