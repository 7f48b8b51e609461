"""The Q-T score without drawing: from the joint distribution of loss and latency of independent stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import RecipeError
from spaceevo.records import BlockTable
from spaceevo.search.qt_score import (
    PUBLISHED_SETTINGS,
    SMALLEST_SHARE,
    BudgetQuality,
    Evaluator,
    Floats,
    QTSettings,
    stage_cells,
)
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice

# Latency that wraps around in the Fourier transform is damped by exp(-DAMPING), about 1e-10.
DAMPING = 23.0
# Spectra kept at once; those of the published hyperspaces at the default setting take 250 MB.
CACHE_BYTES = 600_000_000


class ExactEvaluator(Evaluator):
    """The score without sampling noise, from the joint distribution of loss and latency.

    Per resolution the stages are independent, so their joint distribution is the convolution of one 2-D
    histogram per stage, taken as a product of Fourier transforms that are kept per cell.

    Discretisation error: every row's mass is split linearly between its neighbouring bins, so means are kept
    and no row moves by a whole bin; the bin at the budget counts by its part below. With n stages, loss step
    dl and latency step dt (`loss_step`, `latency_step_ms`) and e = (n + 1) dt, the share lies between the
    true ones at budgets T - e and T + e. The loss, where the share at T - e is at least `top_share`, lies
    between the true one at T + e less n dl and the true one at T - e plus n dl. This bound is wide: the
    error falls with the square of the steps and was 0.01 to 0.06 %, always upwards, over 50 random spaces of the
    published `onnxw` table at 9, 10 and 15 ms (100,000 samples: 0.15 % noise), and a sixteenth of that with four
    times the bins on both axes.

    A space whose fastest subnet misses a budget scores exactly 0 there, and so does one with a share below
    1e-8, which rounding could fake (and which 100,000 samples would not find).

    Args:
        num_loss_bins: Bins over the widest range of losses in any space; at least 16.
        num_latency_bins: Bins between the fastest subnet of the hyperspace and the largest budget; at least
            16. Memory: `12 * num_loss_bins * num_latency_bins` bytes per (cell, resolution) asked for, up to 600 MB.
    """

    def __init__(
        self,
        table: BlockTable,
        hyperspace: Hyperspace,
        budgets_ms: Sequence[float],
        base_ms: Mapping[int, float],
        settings: QTSettings = PUBLISHED_SETTINGS,
        num_loss_bins: int = 256,
        num_latency_bins: int = 128,
        unit: str = "ms",
    ) -> None:

        def at(budget_ms: float) -> Evaluator:
            bins = num_loss_bins, num_latency_bins
            return ExactEvaluator(table, hyperspace, [budget_ms], base_ms, settings, *bins, unit)

        super().__init__(table, hyperspace, budgets_ms, base_ms, settings, unit, at)
        if min(num_loss_bins, num_latency_bins) < 16:
            raise RecipeError(
                "The exact score needs at least 16 bins per axis",
                found=f"{num_loss_bins} x {num_latency_bins}",
            )
        self._num_latency_bins = num_latency_bins
        self._shape = (num_loss_bins, 3 * num_latency_bins // 2)
        self._tilt = np.exp(-DAMPING / self._shape[1] * np.arange(self._shape[1]))
        self._spectra: dict[tuple[int, int, int, int], NDArray[np.complex128]] = {}
        self.loss_step: dict[int, float] = {}
        self.latency_step_ms: dict[int, float] = {}
        self._budget_weights: dict[int, NDArray[np.complex128]] = {}
        for resolution in self.resolutions:
            fastest = self.base_ms[resolution] + sum(self.stage_min_ms[resolution])
            slack = max(self.budgets_ms) - fastest
            if slack < 0:
                continue  # no subnet of this resolution meets any budget
            ranges = [
                max(float(np.ptp(self.cells[*cell, resolution].loss)) for cell in cells)
                for cells in stage_cells(hyperspace, table.failed)
            ]
            # Splitting may move each stage up by one bin, so no loss wraps around.
            self.loss_step[resolution] = (sum(ranges) or 1.0) / (num_loss_bins - 1 - len(ranges))
            step = max(slack, 1e-9 * fastest) / num_latency_bins
            self.latency_step_ms[resolution] = step
            thresholds = (np.array(self.budgets_ms) - fastest) / step
            self._budget_weights[resolution] = self._weights(thresholds, num_latency_bins)

    def _weights(self, thresholds: Floats, num_bins: int) -> NDArray[np.complex128]:
        """Weights [num_frequencies, num_budgets] that sum a latency spectrum over the bins in a budget."""
        bins = np.arange(num_bins + 1)[:, None]
        # A bin's mass counts as spread evenly over its width, so that a threshold has no rounding bias.
        inside = np.clip(thresholds - bins + 0.5, 0, 1) / self._tilt[: num_bins + 1, None]
        length = self._shape[1]
        weights = np.fft.rfft(inside, n=length, axis=0).conj() / length
        # Real data: negative frequencies are the conjugates of the positive ones.
        weights[1 : (length + 1) // 2] *= 2
        return weights

    def _spectrum(self, stage: int, block: int, window: int, resolution: int) -> NDArray[np.complex128]:
        """2-D Fourier transform of a cell's histogram.

        Axes: loss above the cell's least, latency above the stage's least.
        """
        key = (stage, block, window, resolution)
        if key not in self._spectra:
            cell = self.cells[key]
            loss = (cell.loss - cell.loss.min()) / self.loss_step[resolution]
            excess_ms = cell.latency_ms - self.stage_min_ms[resolution][stage]
            latency = excess_ms / self.latency_step_ms[resolution]
            kept = latency <= self._num_latency_bins + 1e-6  # rows above the largest budget would wrap around
            low_i, low_j = np.floor(loss[kept]).astype(int), np.floor(latency[kept]).astype(int)
            high_i, high_j = loss[kept] - low_i, latency[kept] - low_j
            histogram = np.zeros(self._shape)
            for i, j in product((0, 1), (0, 1)):
                mass = (high_i if i else 1 - high_i) * (high_j if j else 1 - high_j) / len(loss)
                np.add.at(histogram, (low_i + i, low_j + j), mass)
            # An exponential tilt commutes with convolution; undone later, it damps what wraps around.
            spectrum = np.fft.rfft2(histogram * self._tilt)
            while self._spectra and (len(self._spectra) + 1) * spectrum.nbytes > CACHE_BYTES:
                del self._spectra[next(iter(self._spectra))]  # the oldest
            self._spectra[key] = spectrum
        return self._spectra[key]

    def _assess(self, choice: SpaceChoice) -> tuple[BudgetQuality, ...]:
        stages = self._stages(choice)
        losses, masses = [], []
        for resolution, weights in self._budget_weights.items():
            cells = [self.cells[*stage, resolution] for stage in stages]
            fastest = self.base_ms[resolution] + sum(float(cell.latency_ms.min()) for cell in cells)
            feasible = np.array([fastest <= budget for budget in self.budgets_ms])
            if not feasible.any():
                continue
            spectrum = self._spectrum(*stages[0], resolution)
            for stage in stages[1:]:
                spectrum = spectrum * self._spectrum(*stage, resolution)
            # Not `spectrum @ weights`: threads of so small a matrix product wait for each other on a busy machine.
            summed = np.stack([np.einsum("kj,j->k", spectrum, column) for column in weights.T], axis=1)
            mass = np.fft.ifft(summed, axis=0).real
            masses.append(np.where(feasible, np.maximum(mass, 0), 0) / len(self.resolutions))
            least = sum(float(cell.loss.min()) for cell in cells)
            losses.append(least + self.loss_step[resolution] * np.arange(len(mass)))
        if not losses:
            return (BudgetQuality(0.0, np.inf),) * len(self.budgets_ms)
        loss, mass = np.concatenate(losses), np.concatenate(masses)
        order = np.argsort(loss)
        return tuple(self._quality(loss[order], column[order]) for column in mass.T)

    def _quality(self, loss: Floats, mass: Floats) -> BudgetQuality:
        """Share and mean loss of the best, from losses in ascending order and the mass at each."""
        share = float(mass.sum())
        if share < SMALLEST_SHARE:
            return BudgetQuality(0.0, np.inf)
        below = np.cumsum(mass) - mass
        top = np.clip(self.settings.top_share - below, 0, mass)
        return BudgetQuality(share, float(top @ loss / top.sum()))
