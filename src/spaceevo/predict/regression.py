"""Sums of kernels explained by their features: non-negative least squares, then what it leaves by kriging.

Only sums are measured. The latency of a kernel is pictured as what its features say, times one plus an error that is
alike in kernels of a group that lie close (`place`), plus an error of its own; a block (all kernels of one block
together) has an error of its own too. These are Gaussian, so the best guess of any sum, given measured sums, is linear
algebra (Gaussian process regression with additive covariance; Duvenaud et al., NeurIPS 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from spaceevo.predict.features import Kernel, features, place
from spaceevo.records import Record

Block = tuple[tuple[int, int], ...]  # (kernel, how often), ascending
_RIDGE = 1e-3  # only so that features that say the same share their coefficient
_CHOICE_ROWS = 800  # settings are chosen on so many rows at most
_LEAST_SCALE = 1e-3  # of a kernel, relative to the fastest row: features may say that it costs nothing
LEAST_SHARE = 0.05  # of what features say: no error takes a latency away
_FREEDOM = 3.0  # of Student's t
_REWEIGHTINGS = 4


class Settings(Record):
    """How alike errors are; all but the first are relative to the latency.

    Attributes:
        reach: Distance, in octaves, over which errors of kernels are alike.
        shared: Of what close kernels share.
        own: Of a kernel.
        block: Of a block.
        noise: Of a measurement.
    """

    reach: float
    shared: float
    own: float
    block: float
    noise: float


START = Settings(reach=1.5, shared=0.3, own=0.05, block=0.0, noise=0.02)
CHOICES: dict[str, tuple[float, ...]] = {
    "noise": (0.0005, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15),
    "shared": (0.05, 0.1, 0.2, 0.4, 0.8),
    "own": (0.001, 0.02, 0.05, 0.1, 0.2),
    "block": (0.0, 0.02, 0.05, 0.15, 0.25),
    "reach": (0.75, 1.5, 3.0, 6.0),
}


@dataclass(frozen=True)
class Work:
    """What was measured: rows of blocks of kernels.

    Attributes:
        kernels: Every kernel once, in order of appearance.
        blocks: Every block once.
        rows: Of each measurement, (block, how often).
        latencies: Of each, in ms.
    """

    kernels: tuple[Kernel, ...]
    blocks: tuple[Block, ...]
    rows: tuple[Block, ...]
    latencies: np.ndarray

    @property
    def block_counts(self) -> Any:
        """Sparse [num_rows, num_blocks]."""
        return _sparse(self.rows, len(self.blocks))

    @property
    def kernel_counts(self) -> Any:
        """Sparse [num_rows, num_kernels]."""
        return self.block_counts @ _sparse(self.blocks, len(self.kernels))


@dataclass(frozen=True)
class Group:
    """What was learnt about one group of kernels.

    Attributes:
        ms_per_unit: Per feature, >= 0.
        low: Smallest value of each feature that was measured.
        high: Largest.
        places: [num_kernels, 5]: of the measured kernels.
        weights: [num_kernels]: what each adds to the error of a kernel in the same place.
        own: Of each measured kernel, in ms: its own error.
    """

    ms_per_unit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    places: np.ndarray
    weights: np.ndarray
    own: dict[Kernel, float]


@dataclass(frozen=True)
class Solution:
    """What was learnt.

    Attributes:
        base_ms: Per row.
        groups: By name.
        blocks: The error of every measured block, in ms, by its kernels.
        least_ms: A kernel is at least this much to scale errors by.
        settings: Under which it was learnt.
    """

    base_ms: float
    groups: dict[str, Group]
    blocks: dict[frozenset[tuple[Kernel, int]], float]
    least_ms: float
    settings: Settings

    def kernel_ms(self, kernels: Sequence[Kernel], group_name: str) -> np.ndarray:
        """Latencies of kernels of one group, in ms: all positive.

        Args:
            kernels: As `features.kernel` gives them.
            group_name: Their group; it must be known.
        """
        group = self.groups[group_name]
        told = np.array([features(kernel)[1] for kernel in kernels]) @ group.ms_per_unit
        scales = np.maximum(told, self.least_ms)
        places = np.array([place(kernel) for kernel in kernels])
        alike = _covariance(places, group.places, self.settings.reach)
        errors = self.settings.shared**2 * scales * (alike @ group.weights)
        own = np.array([group.own.get(kernel, 0.0) for kernel in kernels])
        latencies: np.ndarray = np.maximum(told + errors + own, LEAST_SHARE * scales)
        return latencies


def choose_settings(work: Work, *, use_blocks: bool) -> Settings:
    """The settings that make the measurements most likely: one after another, over a small grid, twice."""
    if len(work.rows) > _CHOICE_ROWS:
        some = np.linspace(0, len(work.rows) - 1, _CHOICE_ROWS).astype(int)  # rows may come in order of size
        work = Work(work.kernels, work.blocks, tuple(work.rows[i] for i in some), work.latencies[some])
    parts = _Parts(work)
    # Few rows cannot tell the error of a block from noise: who asks for blocks says that rows are sums of them.
    noises = CHOICES["noise"][:2] if use_blocks else (START.noise, CHOICES["noise"][0])
    choices = CHOICES | ({"noise": noises} if use_blocks else {"block": (0.0,)})
    found: list[tuple[float, Settings]] = []
    for noise in noises:  # two starts: noise can pass for errors of kernels, and these for noise
        best = START.model_copy(update={"noise": noise})
        least = parts.unlikelihood(best)
        for _, (name, values) in product(range(2), choices.items()):
            for value in values:
                settings = best.model_copy(update={name: value})
                if settings != best and (own := parts.unlikelihood(settings)) < least:
                    best, least = settings, own
        found.append((least, best))
    return min(found, key=lambda pair: pair[0])[1]


def solve(work: Work, settings: Settings) -> Solution:
    """What the measurements say about every kernel, under the settings."""
    return _Parts(work).solution(settings)


def non_negative(relative_work: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 [num_features] whose products with the rows are nearest to 1, in the sum of squares.

    Args:
        relative_work: [num_rows, num_features], >= 0: features of each row over what was measured of it.

    >>> non_negative(np.array([[0.5, 0.0], [0.25, 0.0]])).round(2)
    array([2.4, 0. ])
    """
    lengths = np.linalg.norm(relative_work, axis=0)
    lengths[lengths == 0] = 1  # of a feature that no row has; its coefficient is 0
    scaled = np.vstack([relative_work / lengths, _RIDGE * np.eye(len(lengths))])
    wanted = np.concatenate([np.ones(len(relative_work)), np.zeros(len(lengths))])
    solution, _ = nnls(scaled, wanted, maxiter=100 * len(lengths))
    coefficients: np.ndarray = solution / lengths
    return coefficients


class _Parts:
    """What does not depend on the settings."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.latencies = np.asarray(work.latencies, np.float64)
        self.counts = work.kernel_counts.tocsc()
        self.members: dict[str, list[int]] = {}
        for index, kernel in enumerate(work.kernels):
            if self.counts.indptr[index + 1] > self.counts.indptr[index]:
                self.members.setdefault(features(kernel)[0], []).append(index)
        self.members = dict(sorted(self.members.items()))
        self.numbers = {g: np.array([features(work.kernels[i])[1] for i in own]) for g, own in self.members.items()}
        self.places = {g: np.array([place(work.kernels[i]) for i in own]) for g, own in self.members.items()}
        self._fit_features()
        self._shared: dict[float, np.ndarray] = {}

    def _fit_features(self) -> None:
        ones = np.ones((len(self.latencies), 1))
        sums = [self.counts[:, own] @ self.numbers[g] for g, own in self.members.items()]
        coefficients = non_negative(np.hstack([ones, *sums]) / self.latencies[:, None])
        self.base_ms = float(coefficients[0])
        self.least_ms = _LEAST_SCALE * float(self.latencies.min())
        self.ms_per_unit: dict[str, np.ndarray] = {}
        told = np.zeros(len(self.work.kernels))
        start = 1
        for group, numbers in self.numbers.items():
            own = coefficients[start : start + numbers.shape[1]]
            self.ms_per_unit[group] = own
            told[self.members[group]] = numbers @ own
            start += numbers.shape[1]
        self.scales = np.maximum(told, self.least_ms)
        self.residuals = 1 - (self.base_ms + self.counts @ told) / self.latencies
        scaled = self.counts.multiply(1 / self.latencies[:, None]).tocsc()
        self.relative = scaled.multiply(self.scales[None, :]).tocsc()  # share of a row that a kernel makes up
        per_block = _sparse(self.work.blocks, len(self.work.kernels)) @ self.scales
        blocks = self.work.block_counts.multiply(1 / self.latencies[:, None]).multiply(per_block[None, :]).tocsr()
        self.block_scales, self.relative_blocks = per_block, blocks
        self.own_part = (self.relative @ self.relative.T).toarray()
        self.block_part = (blocks @ blocks.T).toarray()

    def _shared_part(self, reach: float) -> np.ndarray:
        if reach not in self._shared:
            total = np.zeros_like(self.own_part)
            for group, own in self.members.items():
                rows = self.relative[:, own]
                alike = _covariance(self.places[group], self.places[group], reach)
                total += rows @ (rows @ alike).T
            self._shared = {reach: total}  # one at a time: it may be large
        return self._shared[reach]

    def _factor(
        self, settings: Settings, trust: np.ndarray | None = None, odd: np.ndarray | None = None
    ) -> tuple[np.ndarray, bool]:
        total = settings.shared**2 * self._shared_part(settings.reach) + settings.own**2 * self.own_part
        if odd is None:
            total += settings.block**2 * self.block_part
        else:
            total += (
                settings.block**2 * (self.relative_blocks.multiply(odd[None, :]) @ self.relative_blocks.T).toarray()
            )
        noise = np.full(len(total), settings.noise**2)
        total[np.diag_indices_from(total)] += noise if trust is None else noise / trust
        factor: tuple[np.ndarray, bool] = cho_factor(total, lower=True, overwrite_a=True)
        return factor

    def unlikelihood(self, settings: Settings) -> float:
        """Minus the logarithm of the likelihood of the measurements, but for a constant."""
        factor = self._factor(settings)
        quadratic = self.residuals @ cho_solve(factor, self.residuals)
        return float(quadratic / 2 + np.log(np.diag(factor[0])).sum())

    def solution(self, settings: Settings) -> Solution:
        """Solve, with errors of measurements and blocks from Student's t (by reweighting): some are far larger."""
        weights = cho_solve(self._factor(settings), self.residuals)
        odd = np.ones(len(self.block_scales))
        trust = np.ones(len(weights))
        for _ in range(_REWEIGHTINGS):
            noise = settings.noise * weights / trust  # in standard deviations
            trust = (_FREEDOM + 1) / (_FREEDOM + np.square(noise))
            if settings.block:
                errors = settings.block * odd * (self.relative_blocks.T @ weights)
                odd = (_FREEDOM + np.square(errors)) / (_FREEDOM + 1)
            weights = cho_solve(self._factor(settings, trust, odd if settings.block else None), self.residuals)
        per_kernel = self.relative.T @ weights
        groups = {}
        for group, own in self.members.items():
            errors = settings.own**2 * self.scales[own] * per_kernel[own]
            numbers = self.numbers[group]
            groups[group] = Group(
                ms_per_unit=self.ms_per_unit[group],
                low=numbers.min(axis=0),
                high=numbers.max(axis=0),
                places=self.places[group],
                weights=per_kernel[own],
                own=dict(zip((self.work.kernels[i] for i in own), errors.tolist(), strict=True)),
            )
        per_block = settings.block**2 * odd * self.block_scales * (self.relative_blocks.T @ weights)
        kernels = self.work.kernels
        blocks = {
            frozenset((kernels[i], count) for i, count in block): float(ms)
            for block, ms in zip(self.work.blocks, per_block, strict=True)
            if ms != 0
        }
        return Solution(self.base_ms, groups, blocks, self.least_ms, settings)


def _covariance(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """Matern 3/2 of places, 1 where they are equal."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    distances = np.sqrt(3 * np.maximum(squares, 0)) / reach
    covariance: np.ndarray = (1 + distances) * np.exp(-distances)
    return covariance


def _sparse(rows: Sequence[Block], width: int) -> Any:
    lengths = [len(row) for row in rows]
    indices = [index for row in rows for index, _ in row]
    counts = [float(count) for row in rows for _, count in row]
    return csr_matrix((counts, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(rows), width))
