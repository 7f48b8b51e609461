"""The choices of a block: an open, ordered set of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

#: A choice on one axis; a tuple where a block type chooses several numbers at once, such as two kernel sizes.
Value = int | float | tuple[int, ...]


class Axis(NamedTuple):
    """What is chosen, and among what.

    Attributes:
        name: For example "kernel_size"; of letters and "_".
        values: Ascending.
    """

    name: str
    values: tuple[Value, ...]


class Block(NamedTuple):
    """The elastic choices of one block.

    Attributes:
        width: Channels put out.
        kernel_size: As the block type reads it, odd in most; several where it has several.
        expand_ratio: 0 means that the block type has none.
        added: Name and value on every axis that the block type adds, in its order.
    """

    width: int
    kernel_size: int | tuple[int, ...]
    expand_ratio: float = 0.0
    added: tuple[tuple[str, Value], ...] = ()

    @property
    def choices(self) -> tuple[Value, ...]:
        """The value on every axis, in order: width, kernel size, expand ratio, and what is added."""
        if not self.added:
            return self[:3]
        return (*self[:3], *(value for _, value in self.added))

    @classmethod
    def of(cls, choices: Sequence[Value], added: Sequence[Axis] = ()) -> Self:
        """The block with these values on the axes.

        Args:
            choices: In the order of `choices`.
            added: The axes that the block type adds.
        """
        if not added:
            return cls._make((*choices, ()))
        names = [axis.name for axis in added]
        return cls._make((*choices[:3], tuple(zip(names, choices[3:], strict=True))))

    def common(self, other: Block) -> Block:
        """What two blocks share: on each axis the smaller value.

        >>> Block(8, (3, 5), 4.0).common(Block(16, (5, 0), 2.0))
        Block(width=8, kernel_size=(3, 0), expand_ratio=2.0, added=())
        """
        shared = [_smaller(*pair) for pair in zip(self.choices, other.choices, strict=True)]
        return Block.of(shared, [Axis(name, ()) for name, _ in self.added])


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least `divisor`, never more than 10 % down.

    >>> make_divisible(22.4), make_divisible(3)
    (24, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def to_text(value: Value) -> str:
    """A value as encodings have it.

    >>> to_text(3), to_text(4.0), to_text((3, 5))
    ('3', '4.0', '3+5')
    """
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def from_text(text: str) -> Value:
    """The value that `to_text` wrote.

    Raises:
        ValueError: It is none.

    >>> from_text("3"), from_text("4.0"), from_text("3+5")
    (3, 4.0, (3, 5))
    """
    if "+" in text:
        return tuple(int(part) for part in text.split("+"))
    try:
        return int(text)
    except ValueError:
        return float(text)


def _smaller(value: Value, other: Value) -> Value:
    if isinstance(value, tuple) and isinstance(other, tuple):
        return tuple(map(min, value, other))
    assert not isinstance(value, tuple), value
    assert not isinstance(other, tuple), other
    return min(value, other)
