"""A hyperspace: per searched stage the block types and width windows that a search space may take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Protocol

from spaceevo.errors import EncodingError
from spaceevo.plugins import Registry
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import Head


@dataclass(frozen=True, slots=True)
class HyperStage:
    """One stage of a hyperspace.

    Attributes:
        name: For example "stage1".
        choices: Block types to choose from; a search space takes one.
        widths: Ascending; a search space takes a window of `window_size` consecutive ones.
        window_size: Widths per window.
        depths: Elastic depths.
        stride: Of the first block.
    """

    name: str
    choices: tuple[BlockChoice, ...]
    widths: tuple[int, ...]
    window_size: int
    depths: tuple[int, ...]
    stride: int

    @property
    def num_windows(self) -> int:
        """How many width windows there are."""
        return len(self.widths) - self.window_size + 1

    @property
    def is_searched(self) -> bool:
        """Whether a search space chooses anything here."""
        return len(self.choices) * self.num_windows > 1

    def elastic(self, block: int, window: int) -> ElasticStage:
        """The elastic stage of one block type and one width window."""
        widths = self.widths[window : window + self.window_size]
        return ElasticStage(self.name, self.choices[block], widths, self.depths, self.stride)

    def all_widths(self, block: int) -> ElasticStage:
        """The elastic stage of one block type over the widths of all windows."""
        return ElasticStage(self.name, self.choices[block], self.widths, self.depths, self.stride)


@dataclass(frozen=True, slots=True)
class SpaceChoice:
    """A search space as its choices: per searched stage a block index and a window index."""

    blocks: tuple[int, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hyperspace:
    """All search spaces of one hyperspace.

    Attributes:
        name: First part of every encoding.
        stages: All stages, the stem first; those with one choice are not searched.
        head: What follows the stages.
        resolutions: Ascending input resolutions, elastic in every space.
    """

    name: str
    stages: tuple[HyperStage, ...]
    head: Head
    resolutions: tuple[int, ...]

    @property
    def searched(self) -> tuple[HyperStage, ...]:
        """The stages in which a search space chooses."""
        return tuple(stage for stage in self.stages if stage.is_searched)

    @property
    def num_spaces(self) -> int:
        """How many search spaces there are."""
        return prod(len(stage.choices) * stage.num_windows for stage in self.searched)

    def encode(self, choice: SpaceChoice) -> str:
        """The published form: hyperspace-blocks-windows, one digit per searched stage."""
        return f"{self.name}-{''.join(map(str, choice.blocks))}-{''.join(map(str, choice.windows))}"

    def decode(self, encoding: str) -> SpaceChoice:
        """The choices of an encoded space.

        Raises:
            EncodingError: Malformed, of another hyperspace, or an index out of range (position is told).
        """
        form = f"{self.name}-{'0' * len(self.searched)}-{'0' * len(self.searched)}"
        parts = encoding.split("-")
        if len(parts) != 3 or parts[0] != self.name:
            raise EncodingError(
                f"{encoding!r} is not the encoding of a space of {self.name}",
                remedy=f"Write hyperspace-blocks-windows, for example {form!r}",
            )
        limits = {
            "block": [len(stage.choices) for stage in self.searched],
            "window": [stage.num_windows for stage in self.searched],
        }
        values: dict[str, tuple[int, ...]] = {}
        for (what, limit), digits in zip(limits.items(), parts[1:], strict=True):
            if len(digits) != len(limit):
                raise EncodingError(
                    f"{encoding!r} has {len(digits)} {what} digits",
                    found=f"{self.name} has {len(limit)} searched stages",
                    remedy=f"Write one digit per stage, for example {form!r}",
                )
            for stage, digit, allowed in zip(self.searched, digits, limit, strict=True):
                if not (digit.isascii() and digit.isdigit()) or int(digit) >= allowed:
                    raise EncodingError(
                        f"{encoding!r} names {what} {digit!r} in {stage.name}",
                        remedy=f"Allowed there: 0 to {allowed - 1}",
                    )
            values[what] = tuple(map(int, digits))
        return SpaceChoice(values["block"], values["window"])

    def space(self, choice: SpaceChoice, num_classes: int) -> SearchSpace:
        """The search space of these choices."""
        chosen = iter(zip(choice.blocks, choice.windows, strict=True))
        stages = tuple(stage.elastic(*next(chosen)) if stage.is_searched else stage.elastic(0, 0)
                       for stage in self.stages)  # fmt: skip
        return SearchSpace(self.encode(choice), stages, self.head, self.resolutions, num_classes)

    def sample(self, rng: random.Random) -> SpaceChoice:
        """A random space: every choice uniform and independent."""
        return SpaceChoice(
            tuple(rng.randrange(len(stage.choices)) for stage in self.searched),
            tuple(rng.randrange(stage.num_windows) for stage in self.searched),
        )

    def uniform_choices(self) -> Iterator[SpaceChoice]:
        """All spaces with one block index and one window index in every stage (the published start)."""
        num_blocks = min(len(stage.choices) for stage in self.searched)
        num_windows = min(stage.num_windows for stage in self.searched)
        count = len(self.searched)
        for block, window in product(range(num_blocks), range(num_windows)):
            yield SpaceChoice((block,) * count, (window,) * count)

    def mutate_block(self, choice: SpaceChoice, rng: random.Random) -> SpaceChoice:
        """Change the block type of one stage; the same choice where no stage has another."""
        limits = [len(stage.choices) for stage in self.searched]
        return replace(choice, blocks=_change_one(choice.blocks, limits, rng))

    def mutate_window(self, choice: SpaceChoice, rng: random.Random) -> SpaceChoice:
        """Change the width window of one stage; the same choice where no stage has another."""
        limits = [stage.num_windows for stage in self.searched]
        return replace(choice, windows=_change_one(choice.windows, limits, rng))


class Preset(Protocol):
    """A module of `presets/`, or of an entry point in the group `spaceevo.spaces.presets`.

    Attributes:
        HYPERSPACE: Its name is the file's.
    """

    HYPERSPACE: Hyperspace


PRESETS = Registry("spaceevo.spaces.presets", Preset)


def load_hyperspace(name: str) -> Hyperspace:
    """The hyperspace of a preset (a file of `presets/`).

    Raises:
        PluginError: No preset of that name.

    >>> load_hyperspace("micro").num_spaces
    12500
    """
    return PRESETS.load(name).HYPERSPACE


def _change_one(values: tuple[int, ...], limits: list[int], rng: random.Random) -> tuple[int, ...]:
    open_positions = [i for i, limit in enumerate(limits) if limit > 1]
    if not open_positions:
        return values
    position = rng.choice(open_positions)
    other = rng.choice([v for v in range(limits[position]) if v != values[position]])
    return (*values[:position], other, *values[position + 1 :])
