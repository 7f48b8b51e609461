"""Generators are pure functions of (seed, purpose), in every process."""

import subprocess
import sys

from hypothesis import given, strategies as st

from spaceevo.seeding import derive, numpy_random, python_random

SEEDS = st.integers(0, 2**64)


@given(SEEDS, st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3))
def test_derive_repeats_and_fits_63_bits(seed: int, purpose: list[object]) -> None:
    value = derive(seed, *purpose)
    assert value == derive(seed, *purpose)
    assert 0 <= value < 2**63


@given(SEEDS)
def test_purposes_differ(seed: int) -> None:
    purposes = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a0",), ("a", "", 0), ("a, 0",)]
    assert len({derive(seed, *purpose) for purpose in purposes}) == len(purposes)
    assert derive(seed, "a") != derive(seed + 1, "a")


def test_generators_start_afresh_every_time() -> None:
    assert python_random(1, "x").random() == python_random(1, "x").random()
    assert numpy_random(1, "x").random() == numpy_random(1, "x").random()
    assert python_random(1, "x").random() != python_random(1, "y").random()
    assert numpy_random(1, "x").random() != numpy_random(1, "y").random()


def test_global_generators_are_left_alone() -> None:
    import random

    state = random.getstate()
    python_random(0, "x").random()
    assert random.getstate() == state


def test_another_process_with_other_string_hashes_draws_the_same() -> None:
    code = "from spaceevo.seeding import derive; print(derive(3, 'supernet', 7))"
    values = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert values == {f"{derive(3, 'supernet', 7)}\n"}
