"""Search of one space for its most accurate subnet within a latency budget (SpaceEvo, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite
from random import Random

import numpy as np

from spaceevo.errors import InfeasibleBudgetError, RecipeError, TargetError, TrainingError
from spaceevo.seeding import python_random
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet

# Small changes: about one or two choices of a subnet.
SMALL = 0.08
# Latencies asked for on the way of one candidate into the window.
MAX_STEPS = 40
# Candidates per look at how many of them arrived, and the least that is worth going on for.
BATCH, FEW = 32, 4
DESCENT_STEPS = 200


def search_subnet(
    space: SearchSpace,
    *,
    budget_ms: float,
    latency_ms: Callable[[Subnet], float],
    top1: Callable[[Subnet], float],
    excess: Callable[[Subnet], dict[str, float]] = lambda subnet: {},
    window: float = 0.05,
    population_size: int = 512,
    num_generations: int = 20,
    num_mutations: int = 128,
    num_crossovers: int = 128,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: dict[Subnet, float] | None = None,
) -> list[tuple[Subnet, float, float]]:
    """Evolve subnets whose latency lies in [(1 - window) * budget_ms, budget_ms].

    Each generation the better half are the parents of `num_mutations` mutants (each choice redrawn with
    probability 0.3, the resolution with 0.5) and `num_crossovers` crossovers. A candidate outside the window
    is moved into it by small changes; where that rarely succeeds the window is doubled, downwards only. Every
    loop is bounded: a space with few subnets within the budget gives a smaller population.

    Args:
        space: Where to search.
        budget_ms: Largest latency, positive.
        latency_ms: Predicted latency of a subnet; must be a pure function.
        top1: Accuracy of a subnet, 0 to 1, higher is better; must be a pure function.
        excess: By name of another metric how far a subnet lies above its limit, relative to the limit; metrics that
            meet theirs are missing or not positive. Must be a pure function.
        window: Share of the budget below it that is acceptable at first, in (0, 1].
        population_size: At least 2.
        num_generations: At least 0.
        num_mutations: Per generation, at least 0.
        num_crossovers: Per generation, at least 0.
        seed: Decides the search, with the arguments above.
        progress: Called with (accuracies asked for or known, expected total).
        known: Accuracies by subnet, consulted before `top1` and filled after. A search that was interrupted
            goes the same way again when it is given what it had stored.

    Returns:
        Every evaluated subnet with its latency in ms and its top-1, the best first; of equally accurate ones
        the faster first. All meet the budget.

    Raises:
        RecipeError: A setting out of its range.
        InfeasibleBudgetError: The subnet that came closest misses the budget or a limit; by how much is told.
        TargetError: A latency that is not a positive number.
        TrainingError: An accuracy that is not a number.
    """
    if not (0 < budget_ms < inf and 0 < window <= 1 and population_size >= 2) or (
        min(num_generations, num_mutations, num_crossovers) < 0
    ):
        raise RecipeError(
            "A setting of the subnet search is out of its range",
            found=f"{budget_ms=}, {window=}, {population_size=}, {num_generations=}, {num_mutations=}, "
            f"{num_crossovers=}",
            remedy="budget_ms is positive, window lies in (0, 1], population_size is at least 2",
        )
    total = population_size + num_generations * (num_mutations + num_crossovers)
    latencies, over = _Latencies(latency_ms), _Excess(excess)
    fastest = _fastest(space, latencies, over, budget_ms, seed)
    if latencies[fastest] > budget_ms:
        raise InfeasibleBudgetError(
            f"No subnet of {space.encoding} meets {budget_ms:g} ms",
            found=f"The fastest takes {latencies[fastest]:.4g} ms",
            remedy=f"The closest feasible budget is {np.ceil(latencies[fastest] * 1000) / 1000:g} ms",
        )
    if over[fastest]:
        told = ", ".join(f"{name} by {share:.1%}" for name, share in excess(fastest).items() if share > 0)
        raise InfeasibleBudgetError(
            f"No subnet of {space.encoding} within {budget_ms:g} ms meets every limit",
            found=f"The closest exceeds {told}",
            remedy="Raise these limits in subnets.limits by as much",
        )
    candidates = _Candidates(space, latencies, over, budget_ms, window, fastest)
    rated: dict[Subnet, float] = {}
    known = {} if known is None else known

    def rate(subnets: list[Subnet]) -> list[Subnet]:
        for subnet in subnets:
            if subnet not in known:
                known[subnet] = _checked_top1(top1(subnet))
            rated[subnet] = known[subnet]
            progress(len(rated), total)
        return subnets

    def rank(subnets: list[Subnet]) -> list[Subnet]:
        return sorted(subnets, key=lambda subnet: (-rated[subnet], latencies[subnet]))

    population = rate(candidates.fill(population_size, python_random(seed, "search_subnet", "start")))
    for generation in range(num_generations):
        parents = rank(population)[: max(1, population_size // 2)]
        rng = python_random(seed, "search_subnet", generation)
        population = parents + rate(candidates.breed(parents, num_mutations, num_crossovers, rng))
    progress(total, total)
    return [(subnet, latencies[subnet], rated[subnet]) for subnet in rank(list(rated))]


class _Latencies(dict[Subnet, float]):
    """Latency by subnet, each asked for once."""

    def __init__(self, latency_ms: Callable[[Subnet], float]) -> None:
        super().__init__()
        self._latency_ms = latency_ms

    def __missing__(self, subnet: Subnet) -> float:
        latency = float(self._latency_ms(subnet))
        if not 0 < latency < inf:
            raise TargetError("A predicted latency is not a positive number", found=f"{latency} ms for {subnet}")
        self[subnet] = latency
        return latency


class _Excess(dict[Subnet, float]):
    """How far a subnet lies above the limits, all metrics together; 0 where it meets them. Each asked for once."""

    def __init__(self, excess: Callable[[Subnet], dict[str, float]]) -> None:
        super().__init__()
        self._excess = excess

    def __missing__(self, subnet: Subnet) -> float:
        self[subnet] = total = sum(max(0.0, share) for share in self._excess(subnet).values())
        return total


class _Candidates:
    """Draws distinct subnets within the latency window, which widens when they are rare."""

    def __init__(
        self,
        space: SearchSpace,
        latencies: _Latencies,
        excess: _Excess,
        budget_ms: float,
        window: float,
        fastest: Subnet,
    ) -> None:
        self._space = space
        self._latencies = latencies
        self._excess = excess
        self._budget_ms = budget_ms
        self._window = window
        self._fastest = fastest
        self._largest = space.largest()
        self._given: set[Subnet] = set()

    def fill(self, count: int, rng: Random) -> list[Subnet]:
        """The start population: random subnets; the window widens until enough of them arrive."""
        found = self.collect(count, self._space.sample, rng)
        while len(found) < count and self._window < 1:
            self._window = min(1.0, 2 * self._window)
            found += self.collect(count - len(found), self._space.sample, rng)
        if not found:
            self._given.add(self._fastest)
            found = [self._fastest]
        return found

    def breed(self, parents: list[Subnet], num_mutations: int, num_crossovers: int, rng: Random) -> list[Subnet]:
        """Mutants and crossovers of random parents."""

        def mutant(rng: Random) -> Subnet:
            return self._space.mutate(rng.choice(parents), rng)

        def crossed(rng: Random) -> Subnet:
            return self._space.crossover(rng.choice(parents), rng.choice(parents), rng)

        return self.collect(num_mutations, mutant, rng) + self.collect(num_crossovers, crossed, rng)

    def collect(self, count: int, draw: Callable[[Random], Subnet], rng: Random) -> list[Subnet]:
        """Up to `count` new subnets within the window; fewer where they are rare."""
        found: list[Subnet] = []
        while len(found) < count:
            before = len(found)
            for _ in range(BATCH):
                if len(found) == count:
                    return found
                subnet = self._into_window(draw(rng), rng)
                if subnet is not None and subnet not in self._given:
                    self._given.add(subnet)
                    found.append(subnet)
            if len(found) - before < FEW:
                break
        return found

    def _distance(self, subnet: Subnet) -> float:
        """From the window, as a share of the budget, and from the limits."""
        share, excess = self._latencies[subnet] / self._budget_ms, self._excess[subnet]
        too_fast = 0.0 if excess else 1 - self._window - share  # a limit may keep subnets from the window
        return max(share - 1, too_fast, 0.0) + excess

    def _into_window(self, subnet: Subnet, rng: Random) -> Subnet | None:
        """Change a subnet step by step until it is in the window; None where that takes too long."""
        distance = self._distance(subnet)
        for _ in range(MAX_STEPS):
            if distance == 0:
                return subnet
            if rng.random() < 0.5:
                changed = self._space.mutate(subnet, rng, SMALL, SMALL)
            else:
                # Crossing with an extreme covers large distances, mutation the small ones.
                too_slow = self._latencies[subnet] > self._budget_ms or self._excess[subnet] > 0
                changed = self._space.crossover(subnet, self._fastest if too_slow else self._largest, rng)
            if self._distance(changed) < distance:
                subnet, distance = changed, self._distance(changed)
        return subnet if distance == 0 else None


def _fastest(space: SearchSpace, latencies: _Latencies, excess: _Excess, budget_ms: float, seed: int) -> Subnet:
    """A fast subnet: the smallest at its best resolution, improved by small changes if it misses budget or limits.

    The smallest subnet need not be the fastest: a wider layer can fit the processor better.
    """

    def missed(subnet: Subnet) -> float:
        return max(0.0, latencies[subnet] / budget_ms - 1) + excess[subnet]

    smallest = space.smallest()
    sizes = [replace(smallest, resolution=resolution) for resolution in space.resolutions]
    fastest = min(sizes, key=lambda subnet: (missed(subnet), latencies[subnet]))
    rng = python_random(seed, "search_subnet", "fastest")
    for _ in range(DESCENT_STEPS):
        if not missed(fastest):
            break
        changed = space.mutate(fastest, rng, SMALL, SMALL)
        if missed(changed) < missed(fastest):
            fastest = changed
    return fastest


def _checked_top1(top1: float) -> float:
    if not isfinite(top1):
        raise TrainingError("The accuracy of a subnet is not a number", found=str(top1))
    return float(top1)
