"""The axes of a block, and their values as text."""

import contextlib

import pytest
from hypothesis import given, strategies as st

from spaceevo.spaces.choices import Axis, Block, from_text, make_divisible, to_text

GROUPS, PAIRS = Axis("groups", (1, 2, 4)), Axis("pairs", ((0, 3), (3, 0), (3, 5)))
values = st.integers(0, 99) | st.floats(0, 9, width=16) | st.tuples(st.integers(0, 9), st.integers(0, 9))


@st.composite
def blocks(draw):
    """A block with two axes beside those that every block has."""
    pair = st.tuples(st.integers(0, 9), st.integers(0, 9))
    choices = (
        draw(st.integers(1, 99)),
        draw(pair),
        draw(st.floats(0, 9)),
        draw(st.sampled_from(GROUPS.values)),
        draw(pair),
    )
    return Block.of(choices, (GROUPS, PAIRS))


@given(st.floats(0, 5000), st.sampled_from([1, 2, 4, 8, 16]))
def test_make_divisible(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value
    nearest = abs(rounded - value) <= divisor / 2
    too_far_down = rounded - divisor < 0.9 * value and rounded - value < divisor
    assert nearest or too_far_down or rounded == divisor


@pytest.mark.parametrize(("value", "rounded"), [(0, 8), (11.9, 16), (12, 16), (19, 24), (36, 40), (35, 32), (100, 104)])
def test_make_divisible_by_hand(value, rounded):
    # 11.9 and 19 would go down to 8 and 16, which is more than 10 %
    assert make_divisible(value) == rounded


@given(values)
def test_values_come_back_from_text(value):
    back = from_text(to_text(value))
    assert (back, type(back)) == (value, type(value))
    assert not set(to_text(value)) & set("#_"), "encodings are split there"


@given(st.text(alphabet="0123456789+-. e"))
def test_any_text_is_a_value_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert isinstance(from_text(text), int | float | tuple)


@pytest.mark.parametrize("text", ["", "x", "3+", "+", "3+x", "3+5.0"])
def test_what_is_no_value(text):
    with pytest.raises(ValueError):
        from_text(text)


def test_choices_are_in_the_order_of_the_axes():
    assert Block(8, 3, 2.0).choices == (8, 3, 2.0)
    block = Block.of((8, (3, 5), 2.0, 4, (0, 3)), (GROUPS, PAIRS))
    assert block == Block(8, (3, 5), 2.0, (("groups", 4), ("pairs", (0, 3))))
    assert block.choices == (8, (3, 5), 2.0, 4, (0, 3))


def test_choices_and_axes_must_be_as_many():
    with pytest.raises(ValueError):
        Block.of((8, 3, 2.0), (GROUPS,))
    with pytest.raises(TypeError):
        Block.of((8, 3, 2.0, 4))


@given(blocks())
def test_a_block_is_its_choices(block):
    assert Block.of(block.choices, (GROUPS, PAIRS)) == block


@given(blocks(), blocks(), blocks())
def test_what_blocks_share_is_a_meet(a, b, c):
    assert a.common(a) == a
    assert a.common(b) == b.common(a)
    assert a.common(b).common(c) == a.common(b.common(c))
    for shared, own in zip(a.common(b).choices, a.choices, strict=True):
        pairs = zip(shared, own, strict=True) if isinstance(own, tuple) else [(shared, own)]
        assert all(small <= large for small, large in pairs)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [((3, 5), (5, 0), (3, 0)), ((3, 5), (5, 3), (3, 3)), ((3, 0), (0, 3), (0, 0)), ((5, 5), (5, 5), (5, 5))],
)
def test_pairs_share_each_kernel_size(first, second, shared):
    assert Block(16, first, 2.0).common(Block(16, second, 2.0)) == Block(16, shared, 2.0)


def test_what_blocks_of_different_types_share_is_refused():
    with pytest.raises(ValueError):
        Block(8, 3).common(Block.of((8, 3, 0.0, 1), (GROUPS,)))
    with pytest.raises(AssertionError):
        Block(8, 3).common(Block(8, (3, 5)))
