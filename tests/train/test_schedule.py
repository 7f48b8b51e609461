"""Rates of both loops, bit for bit as they were when each loop had a formula of its own."""

from __future__ import annotations

import math
import random

from spaceevo.train.schedule import OF_CELLS, OF_NETWORKS, learning_rate


def of_networks_0_2_0(peak: float, done: float) -> float:
    if done < 0.05:
        return peak * (done + 1e-3) / 0.05
    return peak * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / (1 - 0.05)))


def of_cells_0_2_0(peak: float, step: int, length: int) -> float:
    warm = min(1.0, (step + 1) / (0.1 * length))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * step / length))


def test_the_rates_of_version_0_2_0() -> None:
    rng = random.Random(0)
    for _ in range(100):
        peak, length = rng.uniform(1e-5, 1.0), rng.randint(1, 3000)
        for step in range(length):
            assert learning_rate(OF_NETWORKS, peak, step, length) == of_networks_0_2_0(peak, step / length)
            assert learning_rate(OF_CELLS, peak, step, length) == of_cells_0_2_0(peak, step, length)


def test_rates_rise_then_fall_and_stay_within_the_peak() -> None:
    for schedule in (OF_NETWORKS, OF_CELLS):
        rates = [learning_rate(schedule, 0.5, step, 200) for step in range(200)]
        top = rates.index(max(rates))
        assert min(rates) > 0
        assert max(rates) <= 0.5
        assert abs(top - schedule.warm_up * 200) <= 1
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
