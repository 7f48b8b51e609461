"""What makes two programs, kernels or spaces the same: canonical JSON with a format version.

A field that has its default is left out, so that a type may get a new field without changing what is known by its
identity. A default is therefore part of the form: to change one is to raise `FORMAT`. A number that is whole is written
as such, since 3 and 3.0 are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, cast, get_args

from pydantic import TypeAdapter

from spaceevo.graph.nodes import Node, Program, Role
from spaceevo.graph.ops import Op
from spaceevo.graph.tensors import Shape, Tensor

FORMAT = 1
_OPS: dict[str, type[Any]] = {op.__name__: op for op in get_args(Op)}
_OP = "op"  # key of an operator's name


def identity(value: object) -> str:
    """SHA-256 that is equal for equal values, in every version of spaceevo with the same `FORMAT`.

    Args:
        value: Of frozen dataclasses, named tuples, tuples, mappings, texts and numbers.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """A value as JSON in one form only, with the version of the form.

    >>> canonical_json(Tensor(Shape(3, 32, 32), "free"))
    '{"format":1,"value":{"quantizer":"free","shape":[3,32,32]}}'
    """
    content = {"format": FORMAT, "value": canonical(value)}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: object) -> Any:
    """A value as what JSON has: fields with their defaults left out, whole numbers as integers.

    Raises:
        TypeError: It holds something that has no such form.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return int(value) if value.is_integer() else value
        case Mapping():
            return {str(key): canonical(item) for key, item in value.items()}
        case Shape():  # of which there are too many to name its fields
            return list(value)
        case tuple() if (names := vars(type(value)).get("_fields")) is not None:  # a named tuple
            defaults = vars(type(value))["_field_defaults"]
            return {
                name: canonical(item)
                for name, item in zip(names, value, strict=True)
                if name not in defaults or item != defaults[name]
            }
        case tuple() | list():
            return [canonical(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            content = {
                field.name: canonical(getattr(value, field.name))
                for field in fields(value)
                if not _is_default(field, getattr(value, field.name))
            }
            name = type(value).__name__
            return {_OP: name, **content} if _OPS.get(name) is type(value) else content
    raise TypeError(f"{type(value).__name__} has no canonical form")


def program_to_json(program: Sequence[Node]) -> list[dict[str, Any]]:
    """A program as what JSON has, to be read by `program_from_json`."""
    return [cast("dict[str, Any]", canonical(node)) for node in program]


def program_from_json(rows: Sequence[Mapping[str, Any]]) -> Program:
    """The program that `program_to_json` wrote.

    Raises:
        ValueError: It is none; pydantic's errors are such, too.
    """
    if not isinstance(rows, (list, tuple)):
        raise ValueError(f"A program is a list of nodes, not {type(rows).__name__}")
    return tuple(_node(row) for row in rows)


def op_from_json(content: Mapping[str, Any]) -> Op:
    """The operator that `canonical` wrote.

    Raises:
        ValueError: It is none; pydantic's errors are such, too.
    """
    values = _fields(content, "An operator")
    name = values.pop(_OP, None)
    if not isinstance(name, str) or name not in _OPS:
        raise ValueError(f"There is no operator {name!r}; there are {', '.join(_OPS)}")
    if unknown := values.keys() - {field.name for field in fields(_OPS[name])}:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
    op: Op = _ADAPTERS[name].validate_python(values)
    return op


def _is_default(field: Field[Any], value: object) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and bool(value == field.default)


def _fields(content: object, what: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} is an object with names, not {type(content).__name__}")
    return dict(content)


@dataclass(frozen=True, slots=True)
class _Rest:
    """A node without its operator."""

    id: str
    inputs: tuple[str, ...]
    in_shape: Shape
    out: Tensor
    role: Role
    weights: str | None = None


_ADAPTERS = {name: TypeAdapter(kind) for name, kind in _OPS.items()}
_REST = TypeAdapter(_Rest)


def _node(row: Mapping[str, Any]) -> Node:
    values = _fields(row, "A node")
    op = op_from_json(values.pop("op", None))
    if unknown := values.keys() - {field.name for field in fields(_Rest)}:
        raise ValueError(f"A node has no {', '.join(sorted(unknown))}")
    rest = _REST.validate_python(values)
    return Node(rest.id, op, rest.inputs, rest.in_shape, rest.out, rest.role, rest.weights)
