"""Settings that people write: how they are checked, and in which words a wrong one is told."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from spaceevo.errors import RecipeError, nearest
from spaceevo.strict_yaml import Document, Keys, shortened

S = TypeVar("S", bound=BaseModel)
_KINDS = {bool: ("true or false",) * 2, int: ("a whole number", "whole numbers"), float: ("a number", "numbers"),
          str: ("text", "texts")}  # fmt: skip
_UNIONS = (Union, types.UnionType)
_LISTS = (tuple, list, Sequence)
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Settings(BaseModel):
    """Base of all parts of a recipe: frozen, unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse(model: type[S], content: Any, where: str, document: Document | None = None) -> S:
    """Check settings against their model.

    A section with nothing in it has the defaults; `true` is no number.

    Args:
        model: Class of the settings.
        content: What was written.
        where: Where that was, for errors.
        document: It, so that errors tell its lines and words.

    Raises:
        RecipeError: The first thing that is wrong: its key, its value as it was written, and what is allowed; of an
            unknown key the nearest valid one.
    """
    try:
        return model.model_validate(_prepared(model, content))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise _unknown_key(model, first["loc"], where) from None
        keys, annotation, fields = _located(model, first["loc"])
        key = ".".join(map(str, keys))
        allowed = f"Write {_allowed(annotation, fields)}"
        if first["type"] == "missing":
            raise RecipeError(f"{where} lacks the key {key!r}", remedy=allowed) from None
        problem = f"{where} has a wrong value at {key!r}" if keys else f"{where} is wrong"
        value = _value_at(content, keys)
        if first["type"] == "value_error":  # in our own words
            allowed = str(first["ctx"]["error"])
        elif annotation is str and isinstance(value, (int, float)):
            allowed += ", in quotes"
        found = document.spelling(keys) if document else shortened(repr(value))
        raise RecipeError(problem, found=f"It is {found}", remedy=allowed) from None


def limits(field: FieldInfo) -> str:
    """The allowed range of a field, for example "above 0, below 1"; empty without one."""
    return ", ".join(
        f"{word} {value if isinstance(value, int) else format(value, '.15g')}"
        for name, word in _LIMITS.items()
        for constraint in field.metadata
        if (value := getattr(constraint, name, None)) is not None
    )


def _prepared(annotation: Any, value: Any) -> Any:
    """Without what pydantic would take for something else: nothing for a section, a switch for a number."""
    annotation, _ = _bare(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in _UNIONS:
        for part in () if bool in parts else parts:
            value = _prepared(part, value)
    elif _is_model(annotation) or origin is dict:
        if value is None:
            return {}
        if isinstance(value, dict):
            fields = {} if origin else annotation.model_fields
            inside = {key: parts[1] if origin else fields[key].annotation for key in value if origin or key in fields}
            return {key: _prepared(inside.get(key, Any), own) for key, own in value.items()}
    elif origin in _LISTS and isinstance(value, (list, tuple)):
        return [_prepared(parts[0], own) for own in value]
    elif annotation in (int, float) and isinstance(value, bool):
        return str(value)
    return value


def _located(model: type[BaseModel], place: tuple[str | int, ...]) -> tuple[Keys, Any, list[FieldInfo]]:
    """(keys, type, constraints) of the value that pydantic found wrong; what may be of several types, as a whole."""
    keys: list[str | int] = []
    annotation: Any = model
    fields: list[FieldInfo] = []
    for step in place:
        origin, parts = get_origin(annotation), get_args(annotation)
        if _is_model(annotation) and step in annotation.model_fields:
            fields = [annotation.model_fields[step]]
            annotation = fields[0].annotation
        elif origin in _LISTS or (origin is dict and step != "[key]"):
            annotation, fields = _bare(parts[origin is dict])
        else:
            break
        keys.append(step)
    return tuple(keys), annotation, fields


def _unknown_key(model: type[BaseModel], place: tuple[str | int, ...], where: str) -> RecipeError:
    _, section, _ = _located(model, place[:-1])
    valid = list(section.model_fields) if _is_model(section) else []
    close = nearest(str(place[-1]), valid)
    return RecipeError(
        f"{where} has the unknown key {'.'.join(map(str, place))!r}",
        found=f"Valid there: {', '.join(valid)}",
        remedy=f"Did you mean {close!r}?" if close else "",
    )


def _value_at(content: Any, keys: Keys) -> Any:
    for key in keys:
        content = content[key]
    return content


def _allowed(annotation: Any, fields: Sequence[FieldInfo]) -> str:
    """What may be written, for example "a list of whole numbers, for example [1, 2] (each at least 1)"."""
    several = get_args(annotation) if get_origin(annotation) in _UNIONS else [annotation]
    example = next((f", for example {field.examples[0]}" for field in fields if field.examples), "")
    words, ranges = [], _ranges(fields)
    for is_word in (False, True):
        for kind in several:
            if (get_origin(kind) == Literal) == is_word:
                word, inside = _kind(kind)
                words.append(word if is_word else word + _title(fields) + example)
                ranges += inside
    return ", or ".join(words) + (f" ({'; '.join(ranges)})" if ranges else "")


def _kind(annotation: Any) -> tuple[str, list[str]]:
    """A type in words, and the ranges of what is inside."""
    annotation, fields = _bare(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin == Literal:
        return " or ".join(map(str, parts)), []
    if _is_model(annotation):
        return f"a section with the keys {', '.join(annotation.model_fields)}", []
    if origin in _LISTS or origin is dict:
        inner, inside = _bare(parts[origin is dict])
        one, many = _KINDS.get(inner, ("a value", "values"))
        word = f"keys with {one} each" if origin is dict else f"a list of {many}"
        return word + _title(inside), [*_ranges(fields), *(f"each {text}" for text in _ranges(inside))]
    return _KINDS.get(annotation, ("something else", ""))[0], _ranges(fields)


def _ranges(fields: Sequence[FieldInfo]) -> list[str]:
    """Of numbers, and of the lengths of lists."""
    found = [text for field in fields if (text := limits(field))]
    lengths = {"min_length": "at least", "max_length": "at most"}
    return found + [
        f"{word} {value} of them"
        for name, word in lengths.items()
        for field in fields
        for constraint in field.metadata
        if (value := getattr(constraint, name, None)) is not None and get_origin(field.annotation) is not None
    ]


def _title(fields: Sequence[FieldInfo]) -> str:
    return next((f" of {field.title}" for field in fields if field.title), "")


def _bare(annotation: Any) -> tuple[Any, list[FieldInfo]]:
    """A type without what is annotated to it, and that."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    bare, *others = get_args(annotation)
    return bare, [other for other in others if isinstance(other, FieldInfo)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
