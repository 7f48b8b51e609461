"""The published string of a subnet: depths, kernel sizes, widths, expand ratios, resolution.

`d1#2#..._k3#3#..._w16#24#..._e0#4.0#..._r48`: depths per stage, the rest per block in order; an expand ratio of 0
means that the block has none. The block types come from the search space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from spaceevo.errors import EncodingError
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Block, Subnet

T = TypeVar("T")

FORM = "dD#..._kK#..._wW#..._eE#..._rR"


def encode(subnet: Subnet) -> str:
    """The published string of a subnet."""
    blocks = [block for stage in subnet.stages for block in stage.blocks]
    fields: dict[str, list[float]] = {
        "d": [len(stage.blocks) for stage in subnet.stages],
        "k": [block.kernel_size for block in blocks],
        "w": [block.width for block in blocks],
        "e": [block.expand_ratio or 0 for block in blocks],
        "r": [subnet.resolution],
    }
    return "_".join(letter + "#".join(map(str, values)) for letter, values in fields.items())


def decode(encoding: str, space: SearchSpace) -> Subnet:
    """The subnet of a search space that a published string names.

    Raises:
        EncodingError: Malformed, or a value that the space does not have (position and allowed values are told).
    """
    parts = encoding.split("_")
    if [part[:1] for part in parts] != list("dkwer"):
        raise EncodingError(f"{encoding!r} is not the encoding of a subnet", remedy=f"Write it as {FORM}")
    depths = _numbers(parts[0], int, encoding)
    resolution, *others = _numbers(parts[4], int, encoding)
    if others:
        raise EncodingError(f"{encoding!r} gives {1 + len(others)} resolutions", remedy="Write one, for example r32")
    if len(depths) != len(space.stages):
        raise EncodingError(
            f"{encoding!r} gives {len(depths)} depths",
            found=f"{space.encoding} has {len(space.stages)} stages",
        )
    kernel_sizes = _numbers(parts[1], int, encoding)
    widths = _numbers(parts[2], int, encoding)
    expand_ratios = _numbers(parts[3], float, encoding)
    counts = {"k": len(kernel_sizes), "w": len(widths), "e": len(expand_ratios)}
    for letter, count in counts.items():
        if count != sum(depths):
            raise EncodingError(
                f"{encoding!r} gives {count} values after {letter!r}",
                found=f"its depths add up to {sum(depths)} blocks",
            )
    if resolution not in space.resolutions:
        raise EncodingError(
            f"{encoding!r} has resolution {resolution}",
            remedy=f"{space.encoding} has {_listed(space.resolutions)}",
        )
    rows = zip(widths, kernel_sizes, expand_ratios, strict=True)
    blocks = [Block(width, kernel_size, expand_ratio) for width, kernel_size, expand_ratio in rows]
    stages = []
    for elastic, depth in zip(space.stages, depths, strict=True):
        own, blocks = tuple(blocks[:depth]), blocks[depth:]
        _check(depth, elastic.depths, "depth", elastic.name, encoding)
        for index, block in enumerate(own):
            where = f"block {index} of {elastic.name}"
            _check(block.width, elastic.widths, "width", where, encoding)
            _check(block.kernel_size, elastic.choice.kernel_sizes, "kernel size", where, encoding)
            _check(block.expand_ratio, elastic.choice.expand_ratios, "expand ratio", where, encoding)
        stages.append(elastic.stage(own))
    return space.subnet(resolution, tuple(stages))


def _numbers(part: str, convert: Callable[[str], T], encoding: str) -> list[T]:
    try:
        return [convert(number) for number in part[1:].split("#")]
    except ValueError:
        raise EncodingError(
            f"{encoding!r} has {part[1:]!r} after {part[:1]!r}", remedy="Write numbers joined by #"
        ) from None


def _check(value: float, allowed: tuple[float, ...], what: str, where: str, encoding: str) -> None:
    if value not in allowed:
        raise EncodingError(
            f"{encoding!r} has {what} {value:g} in {where}", remedy=f"Allowed there: {_listed(allowed)}"
        )


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
