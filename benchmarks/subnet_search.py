"""The search for subnets on made-up accuracies: random, per budget and Pareto, with and without predicted accuracies.

    python benchmarks/subnet_search.py [--landscapes 6] [--spaces micro-123-122 onnxw-151122-023231]

All at equal numbers of evaluations. A landscape adds to an accuracy that saturates in the MACs what every choice brings
at its place, what pairs of adjacent blocks bring together, and what a block brings that is no sum over its choices;
their spread among random subnets is SPREAD. An evaluation adds noise, a pure function of the subnet. Latencies are MACs
times a factor for each kernel size and width, plus a constant per block. What is told is free of the noise: the top-1
of the subnet chosen for each budget, in percent, its mean over landscapes and budgets; what it gains over random
subnets, with the standard error over landscapes; and the hypervolume, over all latencies up to the largest budget and
accuracies from FLOOR, of the front that the noisy accuracies show.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import argparse
import platform
import time
from functools import cache
from math import exp
from typing import Any

import numpy as np

from spaceevo.search.pareto import hypervolume, pareto_front
from spaceevo.search.subnet_search import best_within, search_subnets
from spaceevo.seeding import python_random
from spaceevo.spaces.choices import Block, Value
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import Subnet, block_cost

SPREAD, FLOOR = 0.008, 0.5
QUANTILES = {"two budgets": (0.35, 0.75), "four budgets": (0.2, 0.4, 0.6, 0.8)}
NUM_RANDOM = 400
EVALUATIONS = {"population_size": 20, "num_generations": 6, "num_mutations": 4, "num_crossovers": 4}
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"population_size": 68, "num_generations": 0},
    "per-budget": {"num_candidates": 1},
    "per-budget, 4 ranked": {"num_candidates": 4},
    "per-budget, 8 ranked": {"num_candidates": 8},
    "per-budget, 16 ranked": {"num_candidates": 16},
    "pareto": {"method": "pareto", "num_candidates": 1},
    "pareto, 8 ranked": {"method": "pareto", "num_candidates": 8},
}


class Landscape:
    """Latency and accuracy of the subnets of a space; `number` draws it."""

    def __init__(self, encoding: str, number: int, noise: float) -> None:
        hyperspace = load_hyperspace(encoding.split("-")[0])
        self.space = hyperspace.space(hyperspace.decode(encoding), num_classes=10)
        self.noise, self.number = noise, number
        self._draw = cache(lambda *purpose: python_random(number, *purpose).gauss(0, 1))
        rng = python_random(number, "random subnets")
        self.subnets = [self.space.sample(rng) for _ in range(NUM_RANDOM)]
        totals = [self._total(subnet) for subnet in self.subnets]
        self._mean, self._std = float(np.mean(totals)), float(np.std(totals))
        self._median_macs = float(np.median([subnet.macs for subnet in self.subnets]))

    def budgets_ms(self, quantiles: tuple[float, ...]) -> list[float]:
        return np.quantile([self.latency_ms(subnet) for subnet in self.subnets], quantiles).tolist()

    def latency_ms(self, subnet: Subnet) -> float:
        shape, total = subnet.in_shape, 0.05
        for stage in subnet.stages:
            for index, block in enumerate(stage.blocks):
                stride = stage.stride if index == 0 else 1
                cost = block_cost(stage.block_type, stride, shape, block)
                factor = 0.25 * self._draw("kernel", stage.name, block.kernel_size)
                factor += 0.15 * self._draw("in", shape.channels, block.width)
                total += 0.005 + cost.macs / 1e7 * exp(factor)
                shape = cost.out_shape
        return total

    def _total(self, subnet: Subnet) -> float:
        total = 0.6 * self._draw("resolution", subnet.resolution)
        before: Block | None = None
        for stage in subnet.stages:
            total += self._draw("depth", stage.name, len(stage.blocks))
            for index, block in enumerate(stage.blocks):
                place = stage.name, index
                total += 0.6 * 0.85**index * sum(self._draw(*place, *choice) for choice in choices_of(block))
                total += 0.4 * self._draw("block", *place, text_of(block))
                if before is not None:
                    total += 0.4 * self._draw("pair", *place, before.choices[1:], block.choices[1:])
                before = block
        return total

    def top1(self, subnet: Subnet) -> float:
        saturating = 0.84 - 0.14 * (subnet.macs / self._median_macs) ** -0.45
        return saturating + SPREAD * (self._total(subnet) - self._mean) / self._std

    def evaluated(self, subnet: Subnet) -> float:
        return self.top1(subnet) + self.noise * python_random(self.number, "noise", text_of(subnet)).gauss(0, 1)


def choices_of(block: Block) -> list[tuple[str, Value]]:
    return [(name, getattr(block, name)) for name in ("width", "kernel_size", "expand_ratio")] + list(block.added)


def text_of(value: Block | Subnet) -> str:
    """What draws depend on: that of noted results, when blocks had no further choices."""
    return repr(value).replace(", added=()", "")


def search(landscape: Landscape, budgets: list[float], settings: dict[str, Any]) -> tuple[float, float]:
    """Mean top-1 of the chosen subnets, and the hypervolume."""
    rated = search_subnets(
        landscape.space, budgets_ms=budgets, latency_ms=landscape.latency_ms, top1=landscape.evaluated, window=0.15,
        seed=landscape.number, **{**EVALUATIONS, **settings},
    )  # fmt: skip
    chosen = [landscape.top1(best_within(rated, budget)[0].subnet) for budget in budgets]
    front = [rated[index] for index in pareto_front([(one.latency_ms, one.top1) for one in rated])]
    points = [(one.latency_ms / budgets[-1], landscape.top1(one.subnet)) for one in front]
    return float(np.mean(chosen)), hypervolume(points, (1 + 1e-9, FLOOR))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--landscapes", type=int, default=6)
    arguments.add_argument("--spaces", nargs="+", default=["micro-123-122", "onnxw-151122-023231"])
    given = arguments.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    cases = [("two budgets", 0.004), ("two budgets", 0.016), ("four budgets", 0.004)]
    for encoding in given.spaces:
        for budgets_name, noise in cases if encoding.startswith("micro") else cases[:1]:
            landscapes = [Landscape(encoding, number, noise) for number in range(given.landscapes)]
            print(f"{encoding}, {budgets_name}, 68 evaluations each, noise {noise:.1%} (spread {SPREAD:.1%})")
            base: np.ndarray | None = None
            for name, settings in SEARCHES.items():
                start = time.process_time()
                told = [search(one, one.budgets_ms(QUANTILES[budgets_name]), settings) for one in landscapes]
                top1, volume = 100 * np.array(told).T
                base = top1 if base is None else base
                gain, error = (top1 - base).mean(), (top1 - base).std(ddof=1) / len(top1) ** 0.5
                print(f"  {name:22} top-1 {top1.mean():.2f}, gain {gain:+.2f} +- {error:.2f},"
                      f" hypervolume {volume.mean():.2f}, {time.process_time() - start:.1f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
