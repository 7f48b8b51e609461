"""`spaceevo init`: write a commented recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(context_settings={"allow_extra_args": True})
    def init(
        context: typer.Context,
        recipe: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
        data: Annotated[
            Path | None,
            typer.Option(help="A folder with train/<class>/... and val/<class>/...; the built-in images without it."),
        ] = None,
        budget_ms: Annotated[
            list[float] | None,
            typer.Option("--budget-ms", help="INT8 latency budgets in ms, for example --budget-ms 3 6."),
        ] = None,
        image_size: Annotated[int, typer.Option(help="Images are brought to this size, in pixels.")] = 40,
        force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
    ) -> None:
        """Write a recipe with every setting, its default and what it means."""
        from spaceevo.artifacts import write_atomically
        from spaceevo.config import Recipe, run_name
        from spaceevo.errors import RecipeError
        from spaceevo.ownership import at_home
        from spaceevo.settings import parse

        recipe = at_home(recipe)
        if recipe.is_dir():
            raise RecipeError(f"{recipe} is a folder", remedy="Name a file in it")
        if recipe.exists() and not force:
            raise RecipeError(
                f"The file {recipe} exists already", remedy="Choose another name, or overwrite it with --force"
            )
        data = data and at_home(data)
        content: dict[str, Any] = {"name": run_name(recipe.stem)}
        if data is not None:
            content["data"] = {"name": "folder", "options": {"path": str(data.resolve())}}
        content.setdefault("data", {})["image_size"] = image_size
        budgets = [*(budget_ms or []), *_numbers(context.args)]
        if budgets:
            content["budgets_ms"] = budgets
        parsed = parse(Recipe, content, "The recipe")
        if data is not None:
            from PIL import Image

            from spaceevo.train.datasets import folder

            folder.check(folder.Settings(path=str(data)))

            endings = Image.registered_extensions()
            num_train = sum(file.suffix.lower() in endings for file in (data / "train").rglob("*"))
            parsed = parse(Recipe, content | fitting(num_train, parsed), "The recipe")
        write_atomically(recipe, commented_yaml(parsed))
        typer.echo(f"Wrote {recipe}. Next: spaceevo run {shlex.quote(str(recipe))}")


def fitting(num_train: int, recipe: Any) -> dict[str, Any]:
    """Settings of a recipe that asks for no more images than there are.

    Args:
        num_train: Training images, from which some are held out.
        recipe: A `config.Recipe`, whose settings are not exceeded.
    """
    from spaceevo.config import num_held_out

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


def commented_yaml(recipe: Any) -> str:
    """A recipe as YAML, every key followed by what it means.

    Args:
        recipe: A `config.Recipe`.
    """
    return "\n".join(["# A run of spaceevo; see `spaceevo run --help`.", *_lines(recipe, "")]) + "\n"


def _lines(settings: Any, indent: str) -> list[str]:
    from pydantic import BaseModel

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
    import json

    # Escapes of JSON beyond 16 bit are none of YAML.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _numbers(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise typer.BadParameter(f"{' '.join(words)!r}: budgets are numbers of milliseconds") from None
