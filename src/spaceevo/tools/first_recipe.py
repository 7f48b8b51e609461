"""The first recipe for pictures of one's own: what it asks for is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spaceevo.config import Recipe, num_held_out, run_name
from spaceevo.settings import parse

TABLES = (".csv", ".tsv")


def recipe_for(
    data: Path | str | None = None,
    budgets_ms: Sequence[float] = (),
    image_size: int = 40,
    name: str = "",
    val_share: float | None = None,
) -> Recipe:
    """A recipe with settings that the pictures suffice for.

    Args:
        data: A folder with train/<class>/... and val/<class>/...; or a .csv or .tsv file that lists pictures
            (path,label,split); without it, images are rendered.
        budgets_ms: INT8 latency budgets in ms; without them, two are taken from the middle of what the target shows.
        image_size: Pictures are brought to this size, in pixels.
        name: Of the run; that of the folder or the file without it.
        val_share: Of pictures that come in one part, <class>/... or without a column of splits: share of each class
            that is held out for validation, 0 to 1.

    Raises:
        DataError: There are no such pictures.
        RecipeError: A value is out of its range.
    """
    source = None if data is None else Path(data)
    content: dict[str, Any] = {"name": run_name(name or (source.resolve().stem if source else "first"))}
    if source is not None:
        content["data"] = _data_of(source, val_share)
    content.setdefault("data", {})["image_size"] = image_size
    if budgets_ms:
        content["budgets_ms"] = list(budgets_ms)
    recipe = parse(Recipe, content, "The recipe")
    if source is None:
        return recipe
    if recipe.data.name == "folder":  # a data set takes long to import
        from spaceevo.train.datasets import folder

        num_train = folder.count_train(parse(folder.Settings, recipe.data.options, "The recipe, at 'data.options',"))
    else:
        from spaceevo.train.datasets import listing

        num_train = listing.count_train(parse(listing.Settings, recipe.data.options, "The recipe, at 'data.options',"))
    return parse(Recipe, content | _fitting(num_train, recipe), "The recipe")


def _data_of(source: Path, val_share: float | None) -> dict[str, Any]:
    if source.suffix.lower() in TABLES and not source.is_dir():
        held_out = {} if val_share is None else {"split": "", "val_share": val_share}
        return {"name": "listing", "options": {"file": str(source.resolve()), **held_out}}
    held_out = {} if val_share is None else {"val_share": val_share}
    return {"name": "folder", "options": {"path": str(source.resolve()), **held_out}}


def _fitting(num_train: int, recipe: Recipe) -> dict[str, Any]:
    """Settings of a recipe that asks for no more images than there are.

    Args:
        num_train: Training images, from which some are held out.
        recipe: Whose settings are not exceeded.
    """
    held_out = num_held_out(num_train, recipe.data.search_share)
    left = num_train - held_out
    scored = max(16, min(recipe.blocks.score_images, left // 4))
    distilled = max(32, min(recipe.blocks.num_images, left - scored))
    # A power of two with some steps per epoch
    batch_size = max(2, min(recipe.supernet.batch_size, 1 << max(0, (left // 4).bit_length() - 1)))
    return {
        "blocks": {
            "num_images": distilled,
            "score_images": scored,
            "batch_size": min(recipe.blocks.batch_size, batch_size),
            "teacher": {"batch_size": batch_size},
        },
        "supernet": {"batch_size": batch_size},
        "subnets": {"num_images": max(16, min(recipe.subnets.num_images, held_out))},
    }


def commented_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, every key followed by what it means."""
    return "\n".join(["# A run of spaceevo; see `spaceevo run --help`.", *_lines(recipe, "")]) + "\n"


def _lines(settings: Any, indent: str) -> list[str]:
    lines = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            about = field.description or (type(value).__doc__ or "").splitlines()[0]
            lines += ["", f"{indent}{name}:  # {about}", *_lines(value, indent + "  ")]
        else:
            comment = f"  # {field.description}" if field.description else ""
            lines.append(f"{indent}{name}: {_scalar(value)}{comment}")
    return lines


def _scalar(value: Any) -> str:
    # Escapes of JSON beyond 16 bit are none of YAML
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
