"""Search of one space for its most accurate subnets within latency budgets (SpaceEvo, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf, isfinite
from random import Random
from typing import Literal, NamedTuple

from spaceevo.errors import InfeasibleBudgetError, RecipeError, TargetError, TrainingError
from spaceevo.search.accuracy import predict_top1
from spaceevo.search.budgets import rounded_up
from spaceevo.search.pareto import survivors
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


Method = Literal["per-budget", "pareto"]


class PredictedSubnet(NamedTuple):
    """A subnet whose accuracy is not known."""

    subnet: Subnet
    latency_ms: float


class RatedSubnet(NamedTuple):
    """An evaluated subnet."""

    subnet: Subnet
    latency_ms: float
    top1: float


_Selection = Callable[[list[RatedSubnet], int], list[RatedSubnet]]


def best_within(rated: Iterable[RatedSubnet], budget_ms: float) -> list[RatedSubnet]:
    """Those that meet a budget, the most accurate first; of equally accurate ones the faster first."""
    return sorted((one for one in rated if one.latency_ms <= budget_ms), key=_rank)


def search_subnets(
    space: SearchSpace,
    *,
    budgets_ms: Sequence[float],
    latency_ms: Callable[[Subnet], float],
    top1: Callable[[Subnet], float],
    each: Callable[[Callable[[Subnet], float], Sequence[Subnet]], Iterable[float]] = map,
    method: Method = "per-budget",
    excess: Callable[[Subnet], dict[str, float]] = lambda subnet: {},
    trained: Sequence[Subnet] = (),
    window: float = 0.05,
    population_size: int = 512,
    num_generations: int = 20,
    num_mutations: int = 128,
    num_crossovers: int = 128,
    num_candidates: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    known: dict[Subnet, float] | None = None,
) -> list[RatedSubnet]:
    """Evolve subnets for several latency budgets.

    The start population of a budget lies in [(1 - window) * budget, budget], but for what was `trained` most. A
    candidate outside is moved into it by small changes; where that rarely succeeds the window is doubled, downwards
    only. Then, in each generation, parents have mutants (each choice redrawn with probability 0.3, the resolution with
    0.5) and crossovers, and the most promising of these (`search.accuracy`) are evaluated.

    - "per-budget" searches each budget in turn: candidates stay in its window, the more accurate half are parents.
    - "pareto" is one search over all budgets: candidates lie anywhere up to the largest budget, parents are the half
      that NSGA-II keeps (`search.pareto.survivors`). It asks for as many accuracies in all.

    Every loop is bounded: a space with few subnets within a budget gives a smaller population.

    Args:
        space: Where to search.
        budgets_ms: Largest latencies, positive, at least one.
        latency_ms: Predicted latency of a subnet; must be a pure function.
        top1: Accuracy of a subnet, 0 to 1, higher is better; must be a pure function.
        each: Calls `top1` for several distinct subnets, like `map`: where it is called, and how many at a time.
        method: Which of the two ways above.
        excess: By name of another metric how far a subnet lies above its limit, relative to the limit; metrics that
            meet theirs are missing or not positive. Must be a pure function.
        trained: Subnets that every step of the training had part in: in the start population of each budget that
            they meet, if they meet the limits.
        window: Share of the budget below it that is acceptable at first, in (0, 1].
        population_size: Per budget, at least 2.
        num_generations: At least 0.
        num_mutations: Evaluated per generation and budget, at least 0.
        num_crossovers: Evaluated per generation and budget, at least 0.
        num_candidates: Candidates per evaluated subnet, at least 1: 1 evaluates every candidate.
        seed: Decides the search, with the arguments above.
        progress: Called with (accuracies asked for or known, expected total).
        known: Accuracies by subnet, consulted before `top1` and filled after. A search that was interrupted
            goes the same way again when it is given what it had stored.

    Returns:
        Every evaluated subnet, the most accurate first. All meet the largest budget; see `best_within`.

    Raises:
        RecipeError: A setting out of its range.
        InfeasibleBudgetError: The subnet that came closest misses a budget or a limit; by how much is told. Nothing
            has been evaluated then.
        TargetError: A latency that is not a positive number.
        TrainingError: An accuracy that is not a number.
    """
    if (
        not (budgets_ms and all(0 < budget < inf for budget in budgets_ms) and 0 < window <= 1)
        or min(population_size - 2, num_generations, num_mutations, num_crossovers, num_candidates - 1) < 0
    ):
        raise RecipeError(
            "A setting of the subnet search is out of its range",
            found=f"{budgets_ms=}, {window=}, {population_size=}, {num_generations=}, {num_mutations=}, "
            f"{num_crossovers=}, {num_candidates=}",
            remedy="Budgets are positive, window lies in (0, 1], population_size is at least 2, num_candidates 1",
        )
    latencies, over = _Latencies(latency_ms), _Excess(excess)
    budgets = sorted(set(budgets_ms))
    starts = [_feasible(space, latencies, over, budget, seed) for budget in budgets]
    total = len(budgets) * (population_size + num_generations * (num_mutations + num_crossovers))
    known = {} if known is None else known
    rated: dict[Subnet, RatedSubnet] = {}

    def rate(subnets: Sequence[Subnet]) -> list[RatedSubnet]:
        values = iter(each(top1, [subnet for subnet in subnets if subnet not in known]))
        for subnet in subnets:
            if subnet not in known:
                known[subnet] = _checked_top1(next(values))
            rated[subnet] = RatedSubnet(subnet, latencies[subnet], known[subnet])
            progress(min(len(rated), total), total)
        return [rated[subnet] for subnet in subnets]

    def evolve(candidates: _Candidates, population: list[RatedSubnet], select: _Selection, share: int) -> None:
        mutations, crossovers = share * num_mutations, share * num_crossovers
        for generation in range(num_generations):
            parents = select(population, max(1, share * population_size // 2))
            rng = python_random(seed, "search_subnets", candidates.budget_ms, generation)
            drawn = candidates.breed(
                [parent.subnet for parent in parents], num_candidates * mutations, num_candidates * crossovers, rng
            )
            if len(drawn) > mutations + crossovers:
                # Of what this search has rated, not of all that is known: a resumed search knows more.
                told = predict_top1(space, list(rated), [one.top1 for one in rated.values()], drawn)
                guesses = [RatedSubnet(s, latencies[s], float(value)) for s, value in zip(drawn, told, strict=True)]
                drawn = [guess.subnet for guess in select(guesses, mutations + crossovers)]
            population = parents + rate(candidates.take(drawn))

    for budget, start in zip(budgets, starts, strict=True):
        candidates = _Candidates(space, latencies, over, budget, window, start)
        meet = (subnet for subnet in trained if latencies[subnet] <= budget and not over[subnet])
        first = candidates.take(list(dict.fromkeys(meet)))
        rng = python_random(seed, "search_subnets", budget, "start")
        own = rate([*first, *candidates.fill(population_size - len(first), rng)] or candidates.take([start]))
        if method == "per-budget":
            evolve(candidates, own, _most_accurate, 1)
    if method == "pareto":
        candidates = _Candidates(space, latencies, over, budgets[-1], 1.0, starts[-1])
        candidates.take(list(rated))
        evolve(candidates, list(rated.values()), _least_dominated, len(budgets))
    progress(total, total)
    return best_within(rated.values(), budgets[-1])


def fastest_within(
    space: SearchSpace,
    budget_ms: float,
    latency_ms: Callable[[Subnet], float],
    seed: int,
    excess: Callable[[Subnet], dict[str, float]] = lambda subnet: {},
) -> Subnet:
    """A fast subnet that meets a budget: the smallest at its best resolution, unless another one has to be sought.

    Args:
        space: Where to look.
        budget_ms: Largest latency, in ms.
        latency_ms: As of `search_subnets`, as the others.
        seed: Decides the draws of the search.
        excess: How far a subnet lies above limits, as of `search_subnets`.

    Raises:
        InfeasibleBudgetError: None was found; by how much the closest misses budget or limits is told.
    """
    return _feasible(space, _Latencies(latency_ms), _Excess(excess), budget_ms, seed)


def _rank(rated: RatedSubnet) -> tuple[float, float]:
    return -rated.top1, rated.latency_ms


def _most_accurate(population: list[RatedSubnet], count: int) -> list[RatedSubnet]:
    return sorted(population, key=_rank)[:count]


def _least_dominated(population: list[RatedSubnet], count: int) -> list[RatedSubnet]:
    return [population[index] for index in survivors([(one.latency_ms, one.top1) for one in population], count)]


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
        self.of = excess

    def __missing__(self, subnet: Subnet) -> float:
        self[subnet] = total = sum(max(0.0, share) for share in self.of(subnet).values())
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
        self.budget_ms = budget_ms
        self._space = space
        self._latencies = latencies
        self._excess = excess
        self._window = window
        self._fastest = fastest
        self._largest = space.largest()
        self._num_subnets = space.num_subnets
        self._taken: set[Subnet] = set()

    def fill(self, count: int, rng: Random) -> list[Subnet]:
        """For the start population: random subnets; the window widens until enough of them arrive."""
        found = self.collect(count, self._space.sample, rng)
        while len(found) < count and self._window < 1:
            self._window = min(1.0, 2 * self._window)
            found += self.collect(count - len(found), self._space.sample, rng, found)
        return self.take(found)

    def breed(self, parents: list[Subnet], num_mutations: int, num_crossovers: int, rng: Random) -> list[Subnet]:
        """Mutants and crossovers of random parents."""

        def mutant(rng: Random) -> Subnet:
            return self._space.mutate(rng.choice(parents), rng)

        def crossed(rng: Random) -> Subnet:
            return self._space.crossover(rng.choice(parents), rng.choice(parents), rng)

        mutants = self.collect(num_mutations, mutant, rng)
        return mutants + self.collect(num_crossovers, crossed, rng, mutants)

    def take(self, subnets: list[Subnet]) -> list[Subnet]:
        """Never draw these again."""
        self._taken.update(subnets)
        return subnets

    def collect(
        self, count: int, draw: Callable[[Random], Subnet], rng: Random, others: Iterable[Subnet] = ()
    ) -> list[Subnet]:
        """Up to `count` subnets within the window, neither taken nor among others; fewer where they are rare."""
        found: list[Subnet] = []
        seen = self._taken.union(others)
        while len(found) < count and len(seen) < self._num_subnets:
            before = len(found)
            for _ in range(BATCH):
                if len(found) == count:
                    return found
                subnet = self._into_window(draw(rng), rng)
                if subnet is not None and subnet not in seen:
                    seen.add(subnet)
                    found.append(subnet)
            if len(found) - before < FEW:
                break
        return found

    def _distance(self, subnet: Subnet) -> float:
        """From the window, as a share of the budget, and from the limits."""
        share, excess = self._latencies[subnet] / self.budget_ms, self._excess[subnet]
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
                too_slow = self._latencies[subnet] > self.budget_ms or self._excess[subnet] > 0
                changed = self._space.crossover(subnet, self._fastest if too_slow else self._largest, rng)
            if self._distance(changed) < distance:
                subnet, distance = changed, self._distance(changed)
        return subnet if distance == 0 else None


def _feasible(space: SearchSpace, latencies: _Latencies, over: _Excess, budget_ms: float, seed: int) -> Subnet:
    """A subnet that meets the budget and the limits."""
    fastest = _fastest(space, latencies, over, budget_ms, seed)
    if latencies[fastest] > budget_ms:
        raise InfeasibleBudgetError(
            f"No subnet of {space.encoding} meets {budget_ms:g} ms",
            found=f"The fastest takes {latencies[fastest]:.4g} ms",
            remedy=f"The closest feasible budget is {rounded_up(latencies[fastest]):g} ms",
        )
    if over[fastest]:
        told = ", ".join(f"{name} by {share:.1%}" for name, share in over.of(fastest).items() if share > 0)
        raise InfeasibleBudgetError(
            f"No subnet of {space.encoding} within {budget_ms:g} ms meets every limit",
            found=f"The closest exceeds {told}",
            remedy="Raise these limits in subnets.limits by as much",
        )
    return fastest


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
