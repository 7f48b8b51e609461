"""Aging evolution (Real et al., 2019) as an object that is asked for values and told their scores."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import isnan
from operator import attrgetter
from random import Random
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MAX_TRIES = 200


class _Member(NamedTuple, Generic[T]):
    """A scored value; sorts by its score. The number it was told as keeps values from being compared."""

    score: float
    number: int
    value: T


class AgingEvolution(Generic[T]):
    """Evolution in which the oldest value dies, however good it is.

    The first `ask` gives the start population: the allowed ones of `initial`, then random ones up to
    `population_size`. Every later `ask` gives the children of one tournament's winner, one per mutation.
    Nothing is scored here: the caller tells a score for every value that it wants to live. All draws are
    bounded, so `ask` always returns, with an empty list where no allowed value was found.

    Args:
        population_size: Values alive at once; at least 1.
        tournament_size: Values drawn (without replacement) per tournament; at least 1.
        initial: First values, in order.
        mutations: Each turns a value into a neighbour.
        sample: Draws a random value.
        is_allowed: Values for which it is false are never given out.
        rng: Drives everything.

    >>> step = lambda x, rng: x + rng.choice((-1, 1))
    >>> evolution = AgingEvolution(4, 2, [0], [step], lambda rng: 5, lambda x: x >= 0, Random(0))
    >>> evolution.ask()
    [0, 5, 5, 5]
    """

    def __init__(
        self,
        population_size: int,
        tournament_size: int,
        initial: Sequence[T],
        mutations: Sequence[Callable[[T, Random], T]],
        sample: Callable[[Random], T],
        is_allowed: Callable[[T], bool],
        rng: Random,
    ) -> None:
        if population_size < 1 or tournament_size < 1:
            raise ValueError(f"sizes must be at least 1: {population_size=}, {tournament_size=}")
        self._initial = tuple(initial)
        self._tournament_size = tournament_size
        self._mutations = tuple(mutations)
        self._sample = sample
        self._is_allowed = is_allowed
        self._rng = rng
        self._started = False
        self._population_size = population_size
        self._population: deque[_Member[T]] = deque()
        self._ranking: list[_Member[T]] = []
        self._num_told = 0

    @property
    def population(self) -> list[tuple[T, float]]:
        """The values alive with their scores, oldest first."""
        return [(member.value, member.score) for member in self._population]

    def ask(self) -> list[T]:
        """The next values to score."""
        if not self._started:
            self._started = True
            return self._start()
        if not self._population:
            return []
        winner = self._winner()
        children = []
        for mutation in self._mutations:
            children += self._allowed(partial(mutation, winner))
        return children

    def tell(self, value: T, score: float) -> None:
        """A value joins the population; the oldest dies where there are too many.

        Raises:
            ValueError: The score is NaN.
        """
        if isnan(score):
            raise ValueError(f"the score of {value} is NaN")
        member = _Member(score, self._num_told, value)
        self._num_told += 1
        self._population.append(member)
        insort(self._ranking, member)
        if len(self._population) > self._population_size:
            oldest = self._population.popleft()
            del self._ranking[bisect_left(self._ranking, oldest)]

    def _winner(self) -> T:
        """The best of a tournament, by lot among equals.

        From the best down, each member is drawn with the chance that the places leave it: the winner of a
        sample without replacement, after some population / tournament draws instead of a whole sample.
        """
        left = len(self._ranking)
        places = min(self._tournament_size, left)
        while self._rng.random() * left >= places:
            left -= 1
        score = self._ranking[left - 1].score
        first = bisect_left(self._ranking, score, key=attrgetter("score"))
        end = bisect_right(self._ranking, score, key=attrgetter("score"))
        return self._ranking[self._rng.randrange(first, end)].value

    def _start(self) -> list[T]:
        values = [value for value in self._initial if self._is_allowed(value)]
        while len(values) < self._population_size:
            drawn = self._allowed(self._sample)
            if not drawn:
                break
            values += drawn
        return values

    def _allowed(self, draw: Callable[[Random], T]) -> list[T]:
        for _ in range(MAX_TRIES):
            value = draw(self._rng)
            if self._is_allowed(value):
                return [value]
        return []
