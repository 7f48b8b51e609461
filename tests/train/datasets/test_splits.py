"""Images that are held out of one part."""

import pytest
from hypothesis import given, strategies as st

from spaceevo.errors import DataError
from spaceevo.train.datasets._splits import held_out

COUNTS = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(2, 40), min_size=1, max_size=5)


@given(COUNTS, st.floats(0.01, 0.99), st.integers(0, 3))
def test_each_image_is_in_one_part(counts: dict[str, int], share: float, seed: int) -> None:
    images = {name: list(range(count)) for name, count in counts.items()}
    train, val = held_out(images, share, seed, "here")
    for name, count in counts.items():
        assert sorted(train[name] + val[name]) == images[name]
        assert train[name] == sorted(train[name])
        assert min(len(train[name]), len(val[name])) >= 1
        assert abs(len(val[name]) - share * count) <= 1
    assert held_out(images, share, seed, "there") == (train, val)


def test_a_class_does_not_change_what_is_drawn_of_another() -> None:
    first = held_out({"a": range(30)}, 0.3, 0, "")[1]["a"]
    assert held_out({"b": range(9), "a": range(30)}, 0.3, 0, "")[1]["a"] == first
    assert held_out({"a": range(30)}, 0.3, 1, "")[1]["a"] != first


def test_one_image_is_too_few() -> None:
    with pytest.raises(DataError, match=r"two images, one for training and one for validation.*'b' has 1 in here"):
        held_out({"a": [1, 2], "b": [1]}, 0.5, 0, "here")
