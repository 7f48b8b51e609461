"""Latency budgets as messages name them."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context

#: Where automatic budgets lie among the predicted latencies of random subnets of random spaces.
AUTO_QUANTILES = (0.35, 0.75)


def rounded_up(latency_ms: float, digits: int = 4) -> float:
    """A budget of so many significant digits that a latency meets: never below it.

    Args:
        latency_ms: Positive and finite.
        digits: At least 1.

    >>> rounded_up(0.082301, 2), rounded_up(99.5, 2), rounded_up(0.1018)
    (0.083, 100.0, 0.1018)
    """
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(float(latency_ms))))
