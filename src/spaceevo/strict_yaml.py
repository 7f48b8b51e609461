"""YAML without its surprises: what a person writes means what it says, or is an error that names the line."""

from __future__ import annotations

import codecs
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spaceevo.errors import RecipeError

MAX_BYTES = 1 << 18
MAX_VALUES = 50_000  # what aliases stand for counts each time
MAX_DEPTH = 30
_SHOWN = 80
_KINDS = {stat.S_ISDIR: "directory", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TAG = "tag:yaml.org,2002:"
_PLAIN = {yaml.ScalarNode: ("str", "int", "float", "bool", "null"), yaml.SequenceNode: ("seq",),
          yaml.MappingNode: ("map",)}  # fmt: skip
Keys = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Takes for numbers what a person would: no `on` and `yes`, no 1:30 as 90, no 010 as 8, no dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     "-+0123456789."),
    ("merge", "<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_form})$"), list(_first))


@dataclass(frozen=True)
class Document:
    """What a file holds, and how it was written.

    Attributes:
        content: Mappings with text as keys, lists, text, numbers, booleans and None.
    """

    content: Any
    _text: str
    _nodes: dict[Keys, yaml.Node]

    def spelling(self, keys: Keys) -> str:
        """A value as it stands in the file, with its line.

        Args:
            keys: Where it is: keys of mappings, positions in lists.
        """
        node = self._nodes.get(keys)
        if node is None:
            return "missing"
        written = " ".join(self._text[node.start_mark.index : node.end_mark.index].split())
        return f"{shortened(written) or 'empty'} (line {_line(node)})"


def read(path: Path) -> Document:
    """Read a file that holds one document of plain values.

    Raises:
        RecipeError: It cannot be read, is too large, is not YAML, has a key twice, or more than plain values.
    """
    text = _text_of(path)
    try:
        root = yaml.compose(text, _Loader)
    except RecursionError:
        raise _too_deep(path) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"The recipe {path} is not YAML",
            found=f"The character {chr(error.character)!r} in line {line}",
            remedy="Remove it",
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(path, error) from None
    reader = _Reader(path)
    return Document(reader.value(root, ()) if root else None, text, reader.nodes)


def shortened(written: str) -> str:
    """The beginning of a long text."""
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}..."


class _Reader:
    """Turns nodes into values."""

    def __init__(self, path: Path) -> None:
        self.nodes: dict[Keys, yaml.Node] = {}
        self._path = path
        self._num_values = 0

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise RecipeError(
                f"The recipe {self._path} holds too much",
                found=f"More than {MAX_VALUES:,} values, those that aliases stand for included",
                remedy="Write fewer",
            )
        if len(keys) > MAX_DEPTH:
            raise _too_deep(self._path)
        kind = node.tag.removeprefix(_TAG)
        if kind not in _PLAIN[type(node)]:
            raise self._not_plain(node, f"The tag {node.tag!r}")
        self.nodes[keys] = node
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*keys, place)) for place, item in enumerate(node.value)]
        return self._scalar(node, kind)

    def _scalar(self, node: yaml.Node, kind: str) -> Any:
        text = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:  # a tag may call anything a number
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            return int(text) if kind == "int" else text
        except ValueError:
            raise self._not_plain(node, f"{shortened(text)!r} with the tag !!{kind}") from None

    def _mapping(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        own: list[tuple[str, yaml.Node]] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._not_plain(key_node, "A key that is no text")
            key = key_node.value
            if key in lines:
                raise self._twice((*keys, key), lines[key], _line(key_node))
            lines[key] = _line(key_node)
            if key_node.tag == f"{_TAG}merge":
                merged = self._merged(value_node, keys)
            else:
                own.append((key, value_node))
        self.nodes[keys] = node  # not what was merged into it
        return merged | {key: self.value(value_node, (*keys, key)) for key, value_node in own}

    def _merged(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        """What `<<` brings in; of two mappings none goes before the other."""
        found: dict[str, Any] = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                raise self._not_plain(part, "<< with what is no mapping")
            for key, value in self.value(part, keys).items():
                if key in found:
                    raise self._twice((*keys, key), _line(node), _line(part))
                found[key] = value
        return found

    def _twice(self, keys: Keys, first: int, second: int) -> RecipeError:
        lines = f"lines {first} and {second}" if first != second else f"line {first}"
        return RecipeError(
            f"The recipe {self._path} has the key {'.'.join(map(str, keys))!r} twice",
            found=f"In {lines}",
            remedy="Leave one of them: nothing says which counts",
        )

    def _not_plain(self, node: yaml.Node, found: str) -> RecipeError:
        return RecipeError(
            f"The recipe {self._path} is not YAML of plain values",
            found=f"{found} in line {_line(node)}",
            remedy="Write mappings with text as keys, lists, text, numbers, true and false",
        )


def _text_of(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe might wait for ever
            kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "device")
            raise RecipeError(f"The recipe {path} cannot be read", found=f"It is a {kind}", remedy="Give a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(
                f"The recipe {path} is too large",
                found=f"More than {MAX_BYTES:,} bytes",
                remedy="Give a recipe, as `spaceevo init` writes it",
            )
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
        return content.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"The recipe {path} cannot be read",
            found=str(error),
            remedy="Write one with: spaceevo init my.yaml --data PATH",
        ) from error


def _not_yaml(path: Path, error: yaml.MarkedYAMLError) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    problem, remedy = error.problem or error.context or "", ""
    if "\\t" in problem:
        remedy = "Indent with spaces, not with tabs"
    elif "expected a single document" in (error.context or ""):
        problem, remedy = "a second document begins", "Write one document: remove the line ---"
    where = f", in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return RecipeError(f"The recipe {path} is not YAML", found=f"{problem}{where}", remedy=remedy)


def _too_deep(path: Path) -> RecipeError:
    return RecipeError(
        f"The recipe {path} is nested too deep", found=f"More than {MAX_DEPTH} levels", remedy="A recipe has four"
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
