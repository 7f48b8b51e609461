"""The published string of a subnet: depths, kernel sizes, widths, expand ratios, resolution.

`d1#2#..._k3#3#..._w16#24#..._e0#4.0#..._r48`: depths per stage, the rest per block in order; an expand ratio of 0
means that the block has none. Several kernel sizes of a block are joined by `+`. An axis that a block type adds has a
field of its own before the resolution, which begins with its name (`groups1#0#2`), 0 in blocks without it. The block
types come from the search space.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from spaceevo.errors import EncodingError
from spaceevo.spaces.choices import Axis, Block, Value, from_text, to_text
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet

T = TypeVar("T")

FORM = "dD#..._kK#..._wW#..._eE#..._rR"
_KNOWN = {"width": "w", "kernel_size": "k", "expand_ratio": "e"}  # letters of the axes that every block has
_ENCODING = re.compile(r"d[^_]*_k[^_]*_w[^_]*_e[^_]*(_[a-z-]+[^_]*)*_r[^_]*")


def is_encoding(word: str) -> bool:
    """Whether a word looks like the encoding of a subnet.

    >>> is_encoding("d1_k3_w16_e0_r32"), is_encoding("ResNet-18")
    (True, False)
    """
    return _ENCODING.fullmatch(word) is not None


def encode(subnet: Subnet) -> str:
    """The published string of a subnet."""
    blocks = [block for stage in subnet.stages for block in stage.blocks]
    fields = {
        "d": [str(len(stage.blocks)) for stage in subnet.stages],
        "k": [to_text(block.kernel_size) for block in blocks],
        "w": [str(block.width) for block in blocks],
        "e": [str(block.expand_ratio or 0) for block in blocks],
    }
    for name in dict.fromkeys(name for block in blocks for name, _ in block.added):
        fields[_field_name(name)] = [to_text(dict(block.added).get(name, 0)) for block in blocks]
    fields["r"] = [str(subnet.resolution)]
    return "_".join(letter + "#".join(values) for letter, values in fields.items())


def words(block: Block) -> tuple[str, ...]:
    """What `encode` writes of a block of a space without added axes: kernel size, width, expand ratio."""
    return (to_text(block.kernel_size), str(block.width), str(block.expand_ratio or 0))


def decode(encoding: str, space: SearchSpace) -> Subnet:
    """The subnet of a search space that a published string names.

    Raises:
        EncodingError: Malformed, or a value that the space does not have (position and allowed values are told).
    """
    added = list(dict.fromkeys(axis.name for stage in space.stages for axis in stage.choice.added))
    names = ["d", "k", "w", "e", *map(_field_name, added), "r"]
    parts = encoding.split("_")
    if len(parts) != len(names) or not all(map(str.startswith, parts, names)):
        form = FORM if not added else "_".join(f"{name}..." for name in names)
        raise EncodingError(f"{encoding!r} is not the encoding of a subnet", remedy=f"Write it as {form}")
    fields = dict(zip(names, parts, strict=True))
    depths = _values(fields, "d", int, encoding)
    resolution, *others = _values(fields, "r", int, encoding)
    if others:
        raise EncodingError(f"{encoding!r} gives {1 + len(others)} resolutions", remedy="Write one, for example r32")
    if len(depths) != len(space.stages):
        raise EncodingError(
            f"{encoding!r} gives {len(depths)} depths",
            found=f"{space.encoding} has {len(space.stages)} stages",
        )
    columns: dict[str, list[Value]] = {
        "kernel_size": _values(fields, "k", from_text, encoding),
        "width": _values(fields, "w", from_text, encoding),
        "expand_ratio": _values(fields, "e", float, encoding),
    }
    columns |= {name: _values(fields, _field_name(name), from_text, encoding) for name in added}
    for name, values in columns.items():
        if len(values) != sum(depths):
            raise EncodingError(
                f"{encoding!r} gives {len(values)} values after {_KNOWN.get(name, name)!r}",
                found=f"its depths add up to {sum(depths)} blocks",
            )
    if resolution not in space.resolutions:
        raise EncodingError(
            f"{encoding!r} has resolution {resolution}",
            remedy=f"{space.encoding} has {_listed(space.resolutions)}",
        )
    stages = []
    ends = [sum(depths[:number]) for number in range(len(depths) + 1)]
    for elastic, (start, end) in zip(space.stages, pairwise(ends), strict=True):
        _allowed(end - start, elastic.depths, "depth", elastic.name, encoding)
        axes = {axis.name: axis for axis in elastic.axes}
        chosen: dict[str, list[Value]] = {}
        for name, values in columns.items():
            axis, what = axes.get(name, Axis(name, (0,))), name.replace("_", " ")  # 0: the block type has no such axis
            chosen[name] = [
                _allowed(value, axis.values, what, f"block {index} of {elastic.name}", encoding)
                for index, value in enumerate(values[start:end])
            ]
        rows = zip(*(chosen[name] for name in axes), strict=True)
        stages.append(elastic.stage(tuple(Block.of(choices, elastic.choice.added) for choices in rows)))
    return space.subnet(resolution, tuple(stages))


def _field_name(axis: str) -> str:
    """What an added axis' field begins with: fields are joined by "_"."""
    return axis.replace("_", "-")


def _values(fields: dict[str, str], name: str, convert: Callable[[str], T], encoding: str) -> list[T]:
    text = fields[name].removeprefix(name)
    try:
        return [convert(number) for number in text.split("#")]
    except ValueError:
        raise EncodingError(f"{encoding!r} has {text!r} after {name!r}", remedy="Write numbers joined by #") from None


def _allowed(value: Value, allowed: tuple[Value, ...], what: str, where: str, encoding: str) -> Value:
    """The allowed value that is equal: the space's 16, where the encoding has 16.0."""
    if value not in allowed:
        raise EncodingError(
            f"{encoding!r} has {what} {_number(value)} in {where}", remedy=f"Allowed there: {_listed(allowed)}"
        )
    return allowed[allowed.index(value)]


def _listed(values: tuple[Value, ...]) -> str:
    return ", ".join(map(_number, values))


def _number(value: Value) -> str:
    return to_text(value) if isinstance(value, tuple) else f"{value:g}"
