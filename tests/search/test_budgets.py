"""Budgets that messages name are met."""

from hypothesis import given, strategies as st

from spaceevo.search.budgets import rounded_up


@given(st.floats(1e-9, 1e9), st.integers(1, 8))
def test_a_named_budget_is_met_and_close(latency_ms: float, digits: int) -> None:
    named = rounded_up(latency_ms, digits)
    assert latency_ms <= named <= latency_ms * (1 + 10.0 ** (1 - digits)) * (1 + 1e-9)
    assert rounded_up(named, digits) == named
    if digits <= 6:
        assert float(f"{named:g}") == named, "a message tells it whole"
