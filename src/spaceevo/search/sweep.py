"""Every space of a hyperspace at once: an upper bound on each score, and so proof that none of the rest is better.

The mean of the lowest losses is a maximum (Rockafellar and Uryasev, 2000): with q the share it is taken over,

    L = max over z of z - E[max(0, z - loss) where latency <= T] / q,

so every z gives a lower bound on L, and with the share within T an upper bound on the score. Both expectations are
taken by Fourier inversion (as Carr and Madan, 1999, price options): per cell the characteristic function of loss and
latency, at exact values and exponentially tilted towards low losses and latencies. Stages are independent, so
that of a space is a product; an expectation is a sum of products of a factor of its first stages and one of its
last. For all spaces together that is one matrix product.

More than 400 lines: the steps of one proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import ArtifactError
from spaceevo.search.qt_score import Evaluator, stage_cells
from spaceevo.seeding import numpy_random
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice

Floats = NDArray[np.float64]
Complex = NDArray[Any]  # complex64 or complex128
Integers = NDArray[np.int64]

#: Relative allowance for the errors of the bounds; that for the scores that they are compared with comes on top.
MARGIN = 1e-3
#: Frequencies of loss and latency; the next pair where the errors of one are above the allowance.
FREQUENCIES = ((12, 6), (16, 8), (24, 12), (32, 16))
# Loss and latency repeat after this multiple of what is asked about; what wraps around is damped by exp(-TILT).
PERIOD = 1.3
TILT = 15.0
NOTHING = 60.0
# Shares below this are not told apart; such spaces are bounded by `_least_losses`.
RARE = 1e-5
SHARE_ERROR = 1e-6
NUM_LIMITS = 5
NUM_PRICES = 16
# Sums of so few values are not smooth, and Fourier series of them do not converge.
MIN_ROWS = 30
NUM_CHECKED = 32
CLOSE = 0.9
MAX_EXCESS = 0.01
TILE = 2_000_000
MAX_SURVIVORS = 4_000_000
CHUNK = 4096


class SweepEvaluator(Protocol):
    """Scores that are sums over `parts`, from block tables."""

    @property
    def parts(self) -> tuple[Evaluator, ...]:
        """One per target."""

    @property
    def hyperspace(self) -> Hyperspace:
        """Of all parts."""

    @property
    def failed(self) -> frozenset[tuple[int, int]]:
        """(stage, block) pairs that no space may use."""

    def score(self, choice: SpaceChoice) -> float:
        """The score."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is known of all spaces.

    Attributes:
        num_spaces: Spaces that were bounded: all without a failed cell.
        candidates: Those that may score at least `bound`, by their own bound, highest first.
        bound: No other space scores above.
        error: Largest relative error of the bounds, among spaces like the best, against four times the frequencies.
    """

    num_spaces: int
    candidates: tuple[SpaceChoice, ...]
    bound: float
    error: float


def sweep_spaces(
    evaluator: SweepEvaluator,
    best: SpaceChoice,
    threshold: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    max_candidates: int = 100_000,
) -> Sweep:
    """Bound the score of every space of a hyperspace from above.

    Seconds for 10**8 spaces; memory grows with the square root of their number.

    Args:
        evaluator: What defines the score.
        best: A good space; bounds are tightest for those that are about as good.
        threshold: Spaces that cannot reach this score are not told apart; positive.
        progress: Called with (spaces bounded, all of them).
        max_candidates: Where more spaces may reach the threshold, the most promising ones; `bound` says what the
            others can reach.

    Raises:
        ArtifactError: The bounds are not accurate to `MARGIN`: the table has too few rows per cell.
    """
    cells = list(stage_cells(evaluator.hyperspace, evaluator.failed))
    fewest = min(len(rows.loss) for part in evaluator.parts for rows in part.cells.values())
    if fewest < MIN_ROWS:
        raise _too_rough(f"A cell has {fewest} rows, fewer than {MIN_ROWS}")
    limits = _limits(evaluator, best, threshold)
    for frequencies in FREQUENCIES:
        bounds = _Bounds(evaluator, cells, limits, frequencies)
        error, excess = bounds.errors(best, threshold)
        if error <= MARGIN / 2:
            break
    else:
        raise _too_rough(f"The relative error is {error:.2g}")
    if excess > MAX_EXCESS:
        raise _too_rough(f"Scores lie up to {excess:.1%} above their bounds: take more bins")
    margin = MARGIN + 2 * excess
    aim = threshold * (1 - margin)
    indices, reached = bounds.survivors(aim, progress)
    if len(indices):
        upper = bounds.refined(indices)
        order = np.argsort(-upper, kind="stable")
        order = order[upper[order] >= aim]
        if len(order) > max_candidates:
            reached = max(reached, float(upper[order[max_candidates]]))
            order = order[:max_candidates]
        indices = indices[order]
    return Sweep(
        bounds.num_spaces, tuple(bounds.choice(row) for row in indices.tolist()), reached * (1 + margin), error
    )


def _too_rough(found: str) -> ArtifactError:
    return ArtifactError(
        f"The scores of all spaces cannot be bounded to {MARGIN:.1%} from this block table",
        found=found,
        remedy="Take more rows per cell, or search without the proof",
    )


class _Bounds:
    """Upper bounds on the scores of all combinations of the given cells.

    Args:
        evaluator: What defines the score.
        cells: Per stage the (stage, block, window) to choose from. A space is one index per stage.
        limits: Per part and budget the z of the docstring above, ascending; the last is for all spaces, all of them
            for the promising ones.
        frequencies: How many of the loss, and of the latency.
    """

    def __init__(
        self,
        evaluator: SweepEvaluator,
        cells: Sequence[Sequence[tuple[int, int, int]]],
        limits: Sequence[Floats],
        frequencies: tuple[int, int],
    ) -> None:
        self.evaluator, self.cells, self.limits, self.frequencies = evaluator, cells, limits, frequencies
        self.share_frequencies = 1, 2 * frequencies[1]  # shares may be small, and cost little
        self.shape = tuple(len(own) for own in cells)
        self.num_spaces = prod(self.shape)
        self.budgets = [(part, budget) for part in evaluator.parts for budget in part.budgets_ms]

    def choice(self, indices: Sequence[int]) -> SpaceChoice:
        """The space of one index per stage."""
        cells = [own[index] for own, index in zip(self.cells, indices, strict=True)]
        return SpaceChoice(tuple(block for _, block, _ in cells), tuple(window for _, _, window in cells))

    def indices(self, choice: SpaceChoice) -> list[int]:
        """One index per stage."""
        pairs = zip(self.cells, choice.blocks, choice.windows, strict=True)
        return [own.index((stage, block, window)) for stage, (own, block, window) in enumerate(pairs)]

    def survivors(self, aim: float, progress: Callable[[int, int], None]) -> tuple[Integers, float]:
        """Indices [num, num_stages] of the spaces whose bound is at least `aim`, and a bound on all others."""
        split = _split(self.shape)
        functionals = []
        for (part, budget), limits in zip(self.budgets, self.limits, strict=True):
            of_share = _Functional(part, budget, None, self.cells, self.share_frequencies)
            of_tail = _Functional(part, budget, float(limits[-1]), self.cells, self.frequencies)
            prices = _least_losses(part, budget, self.cells)
            functionals.append(
                (part, float(limits[-1]), of_share.halves(split, np.float64), of_tail.halves(split, np.float32),
                 tuple(_sums(own, prices[0].shape[1:]) for own in (prices[:split], prices[split:])))
            )  # fmt: skip
        num_left, num_right = prod(self.shape[:split]), prod(self.shape[split:])
        kept, kept_upper, reached = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)], aim
        tile = max(1, TILE // num_right)
        for start in range(0, num_left, tile):
            rows = slice(start, min(start + tile, num_left))
            total = np.zeros((rows.stop - start, num_right), np.float32)
            for part, limit, shares, (left, right), least in functionals:
                share = (shares[0][rows] @ shares[1].T).astype(np.float32)
                excess = left[rows] @ right.T
                excess /= np.minimum(np.maximum(share - np.float32(SHARE_ERROR), np.float32(RARE / 2)),
                                     np.float32(part.settings.top_share))  # fmt: skip
                loss = np.float32(limit) - excess
                rare = np.nonzero(share < RARE)
                if len(rare[0]):
                    loss[rare] = _best_priced((least[0], start + rare[0]), (least[1], rare[1]))
                total += _score_bound(share, loss, part)
            found = np.flatnonzero(total.ravel() >= reached)
            kept.append(found + start * num_right)
            kept_upper.append(total.ravel()[found])
            if sum(map(len, kept)) > MAX_SURVIVORS:
                upper, index = np.concatenate(kept_upper), np.concatenate(kept)
                reached = float(np.partition(upper, len(upper) // 2)[len(upper) // 2])
                kept, kept_upper = [index[upper > reached]], [upper[upper > reached]]
            progress(rows.stop * num_right, self.num_spaces)
        return np.stack(np.unravel_index(np.concatenate(kept), self.shape), axis=1), reached

    def refined(self, indices: Integers) -> Floats:
        """The bounds of some spaces, over all limits."""
        total = np.zeros(len(indices))
        used, rows = [], np.zeros_like(indices)
        for stage, own in enumerate(self.cells):
            unique, rows[:, stage] = np.unique(indices[:, stage], return_inverse=True)
            used.append([own[index] for index in unique.tolist()])
        for (part, budget), limits in zip(self.budgets, self.limits, strict=True):
            share = _Functional(part, budget, None, self.cells, self.share_frequencies, used).at(rows)
            divisor = np.clip(share - SHARE_ERROR, RARE / 2, part.settings.top_share)
            loss = np.full(len(indices), -np.inf)
            for limit in limits:
                tail = _Functional(part, budget, float(limit), self.cells, self.frequencies, used).at(rows)
                np.maximum(loss, limit - tail / divisor, out=loss)
            rare = np.flatnonzero(share < RARE)
            if len(rare):
                least = _least_losses(part, budget, used)
                loss[rare] = _best_priced(*((own, rows[rare, stage]) for stage, own in enumerate(least)))
            total += _score_bound(share, loss, part)
        return total

    def errors(self, best: SpaceChoice, threshold: float) -> tuple[float, float]:
        """Relative errors of the bounds and of the scores, the largest among some spaces.

        The first is the difference to the bounds with twice the frequencies of both axes; the second, by how much a
        score exceeds its bound, which histograms cause. Those that are asked differ from the best in one stage or
        two, where it matters most; those count that come close to the threshold.
        """
        rng = numpy_random(0, "sweep")
        sample = np.tile(self.indices(best), (1 + NUM_CHECKED, 1))
        for _ in range(2):
            stages = rng.integers(len(self.shape), size=NUM_CHECKED)
            sample[np.arange(1, 1 + NUM_CHECKED), stages] = rng.integers(np.array(self.shape)[stages])
        num_loss, num_latency = self.frequencies
        finer = _Bounds(self.evaluator, self.cells, self.limits, (2 * num_loss, 2 * num_latency)).refined(sample)
        own = self.refined(sample)
        score = np.array([self.evaluator.score(self.choice(row)) for row in sample.tolist()])
        counts = (
            np.isfinite(own) & np.isfinite(finer) & (np.maximum(np.maximum(own, finer), score) >= CLOSE * threshold)
        )
        own, finer, score = own[counts], finer[counts], score[counts]
        return (
            float(np.max(np.abs(own / finer - 1), initial=0.0)),
            float(np.max(score / finer - 1, initial=0.0)),
        )


class _Functional:
    """E[f(loss, latency)] of every combination of cells, as a sum of products over the stages.

    f is max(0, limit - loss) where the latency is within the budget, and 1 there without a limit.

    Args:
        part: Its table, resolutions and base latencies.
        budget: Largest latency, in the unit of the table.
        limit: Of the loss, or None.
        cells: Per stage the cells to choose from.
        frequencies: How many of the loss, and of the latency.
        used: The same, or some of them: combinations are of these.
    """

    def __init__(
        self,
        part: Evaluator,
        budget: float,
        limit: float | None,
        cells: Sequence[Sequence[tuple[int, int, int]]],
        frequencies: tuple[int, int],
        used: Sequence[Sequence[tuple[int, int, int]]] | None = None,
    ) -> None:
        used = used or cells
        weights: list[Complex] = [np.zeros(0, complex)]
        stages: list[list[Complex]] = [[np.zeros((len(own), 0), complex)] for own in used]
        for resolution in part.resolutions:
            fastest = part.stage_min_ms[resolution]
            latency_range = budget - part.base_ms[resolution] - sum(fastest)
            least = [min(float(part.cells[*cell, resolution].loss.min()) for cell in own) for own in cells]
            loss_range = 1.0 if limit is None else limit - sum(least)
            if latency_range <= 0 or loss_range <= 0:
                continue
            period = PERIOD * latency_range
            latency_exponents = (TILT + 2j * np.pi * np.arange(frequencies[1])) / period
            latency_weights = (np.exp(latency_exponents * latency_range) - 1) / latency_exponents / period
            latency_weights[1:] *= 2  # negative frequencies are the conjugates of the positive ones
            if limit is None:
                loss_exponents, loss_weights = np.zeros(1, complex), np.ones(1, complex)
            else:
                period = PERIOD * loss_range
                loss_exponents = (TILT + 2j * np.pi * np.fft.fftfreq(frequencies[0], 1 / frequencies[0])) / period
                scaled = loss_exponents * loss_range
                loss_weights = (np.exp(scaled) - 1 - scaled) / loss_exponents**2 / period
            weights.append(np.outer(loss_weights, latency_weights).ravel() / len(part.resolutions))
            for stage, own in enumerate(used):
                factors = []
                for cell in own:
                    rows = part.cells[*cell, resolution]
                    loss, latency = rows.loss - least[stage], rows.latency_ms - fastest[stage]
                    # What is damped to nothing would only make subnormal numbers, which are slow.
                    kept = loss * loss_exponents[0].real + latency * latency_exponents[0].real < NOTHING
                    of_loss = _powers(loss[kept], loss_exponents)
                    of_latency = _powers(latency[kept], latency_exponents)
                    # No matrix product, as in `ExactEvaluator`: its threads would wait for each other.
                    factors.append(np.einsum("ki,ji->kj", of_loss, of_latency).ravel() / len(rows.loss))
                stages[stage].append(np.stack(factors))
        self._weights = np.concatenate(weights)
        self._stages = [np.concatenate(own, axis=1) for own in stages]

    def halves(self, split: int, dtype: type[np.float32 | np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Two matrices whose rows' inner products are the values: first stages [num, D], last stages [num, D]."""
        precision = np.complex64 if dtype is np.float32 else np.complex128
        stages: list[Complex] = [own.astype(precision) for own in self._stages]
        width = len(self._weights)
        stages[0] = stages[0] * self._weights.astype(precision)
        return _real_products(stages[:split], width, -1), _real_products(stages[split:], width, 1)

    def at(self, indices: Integers) -> Floats:
        """The values of some combinations, given as one index per stage, [num, num_stages]."""
        values = np.zeros(len(indices))
        for start in range(0, len(indices), CHUNK):
            some = indices[start : start + CHUNK]
            product = self._weights
            for stage, own in enumerate(self._stages):
                product = product * own[some[:, stage]]
            values[start : start + CHUNK] = product.sum(axis=1).real
        return values


def _powers(values: Floats, exponents: Complex) -> Complex:
    """exp(-exponents * values), [num_exponents, num_values], for evenly spaced ones that wrap around as `fftfreq`."""
    result = np.empty((len(exponents), len(values)), complex)
    result[0] = np.exp(-exponents[0].real * values)
    if len(exponents) > 1:
        step = np.exp(-1j * exponents[1].imag * values)  # products are much faster than exponentials
        num_positive = int(np.sum(exponents.imag >= 0))
        for index in range(1, num_positive):
            result[index] = result[index - 1] * step
        back = result[0]
        for index in range(len(exponents) - 1, num_positive - 1, -1):  # negative frequencies, from the last on
            back = back * step.conj()
            result[index] = back
    return result


def _limits(evaluator: SweepEvaluator, best: SpaceChoice, threshold: float) -> list[Floats]:
    """Per part and budget the z that give tight bounds for spaces which reach the threshold, and exclude the others."""
    cells = [[(stage, block, window)] for stage, (block, window)
             in enumerate(zip(best.blocks, best.windows, strict=True))]  # fmt: skip
    budgets = [(part, budget) for part in evaluator.parts for budget in part.budgets_ms]
    qualities = [quality for part in evaluator.parts for quality in part.assess(best)]
    losses = [quality.loss for quality in qualities]
    # Without any penalty, and with losses that grow alike in all budgets, the threshold is reached up to here.
    largest = sum(1 / loss for loss in losses if np.isfinite(loss)) / threshold
    limits = []
    for (part, budget), quality in zip(budgets, qualities, strict=True):
        if not np.isfinite(quality.loss):  # no subnet of the best space: any z is valid
            limits.append(np.linspace(1, 1.2, NUM_LIMITS) * len(cells))
            continue
        divisor = min(quality.share, part.settings.top_share)
        above = _maximizer(partial(_lower_bound, part, budget, divisor, cells), quality.loss) - quality.loss
        limits.append(quality.loss * np.linspace(1, max(largest, 1.0), NUM_LIMITS) + above)
    return limits


def _lower_bound(
    part: Evaluator, budget: float, divisor: float, cells: Sequence[Sequence[tuple[int, int, int]]], limit: float
) -> float:
    """The bound on L of the docstring above for one combination of cells."""
    tail = _Functional(part, budget, limit, cells, FREQUENCIES[1]).at(np.zeros((1, len(cells)), dtype=int))
    return float(limit - tail[0] / divisor)


def _maximizer(function: Callable[[float], float], loss: float) -> float:
    """Where a concave function is largest, by golden section between a loss and a fifth more, to a thousandth."""
    low, high, ratio = loss, 1.2 * loss, (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-3 * loss:
        if at_left >= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def _score_bound(share: NDArray[Any], loss: NDArray[Any], part: Evaluator) -> NDArray[Any]:
    """Upper bounds on a term of the score, from shares and lower bounds on losses."""
    settings = part.settings
    share = np.maximum(share + SHARE_ERROR, RARE)
    with np.errstate(divide="ignore"):
        bound = np.minimum(1, (share / settings.target_share) ** settings.exponent) / np.maximum(loss, 0)
    return np.where(np.isposinf(loss), 0, bound)


def _least_losses(
    part: Evaluator, budget: float, cells: Sequence[Sequence[tuple[int, int, int]]]
) -> list[NDArray[np.float32]]:
    """Per stage [num_cells, num_resolutions, num_prices], whose sums bound the loss of every subnet within a budget.

    The lowest loss plus price times latency, less what the budget is worth. Every price gives a lower bound on the
    losses at a resolution, those of a resolution that cannot meet the budget grow with it.
    """
    prices = np.concatenate([[0.0], np.geomspace(1e-2, 1e2, NUM_PRICES - 1)]) * len(cells) / budget
    least = []
    for own in cells:
        bounds = np.zeros((len(own), len(part.resolutions), NUM_PRICES), np.float32)
        for index, cell in enumerate(own):
            for position, resolution in enumerate(part.resolutions):
                rows = part.cells[*cell, resolution]
                priced = rows.loss[:, None] + prices * rows.latency_ms[:, None]
                allowed = (budget - part.base_ms[resolution]) / len(cells)
                bounds[index, position] = priced.min(axis=0) - prices * allowed
        least.append(bounds)
    return least


def _best_priced(*terms: tuple[NDArray[np.float32], Integers]) -> NDArray[np.float32]:
    """Of sums of `_least_losses` the highest over the prices, of these the lowest over the resolutions.

    Args:
        terms: (bounds [num, num_resolutions, num_prices], indices [n] into them) each.
    """
    _, num_resolutions, num_prices = terms[0][0].shape
    lowest = np.full(len(terms[0][1]), np.inf, np.float32)
    for resolution in range(num_resolutions):
        highest = np.full(len(lowest), -np.inf, np.float32)
        for price in range(num_prices):
            total = np.zeros(len(lowest), np.float32)
            for bounds, indices in terms:
                total += bounds[:, resolution, price][indices]
            np.maximum(highest, total, out=highest)
        np.minimum(lowest, highest, out=lowest)
    return lowest


def _split(shape: Sequence[int]) -> int:
    """Where to part the stages so that both halves have about as many combinations."""
    return min(range(1, len(shape)), default=1, key=lambda split: prod(shape[:split]) + prod(shape[split:]))


def _products(factors: Sequence[Complex], width: int) -> Complex:
    """All products of one row each, [num_combinations, D], the last factor's index running fastest."""
    result = np.ones((1, width), factors[0].dtype if factors else np.complex64)
    for factor in factors:
        result = (result[:, None] * factor[None]).reshape(-1, factor.shape[1])
    return result


def _real_products(factors: Sequence[Complex], width: int, sign: int) -> NDArray[Any]:
    """The same as real numbers, [num_combinations, 2 D], so that inner products are real parts of complex ones.

    Args:
        factors: As for `_products`.
        width: D, the length of the last axis.
        sign: Of the imaginary parts: 1 or -1.
    """
    if not factors:
        return np.concatenate([np.ones((1, width), np.float32), np.zeros((1, width), np.float32)], axis=1)
    rest = _products(factors[1:], width)
    result = np.empty((len(factors[0]), len(rest), 2 * width), factors[0].real.dtype)
    for index, row in enumerate(factors[0]):  # one by one: the complex numbers would take as much memory again
        product = row * rest
        result[index, :, :width] = product.real
        result[index, :, width:] = sign * product.imag
    return result.reshape(-1, 2 * width)


def _sums(terms: Sequence[NDArray[np.float32]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """As `_products`, for sums of [num, ...]."""
    result = np.zeros((1, *shape), np.float32)
    for term in terms:
        result = (result[:, None] + term[None]).reshape(-1, *term.shape[1:])
    return result
