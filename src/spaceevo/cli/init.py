"""`spaceevo init`: write a commented recipe."""

from __future__ import annotations

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
        from spaceevo.settings import parse

        if recipe.exists() and not force:
            raise RecipeError(f"{recipe} exists already", remedy="Choose another name, or overwrite it with --force")
        content: dict[str, Any] = {"name": run_name(recipe.stem)}
        if data is not None:
            content["data"] = {"name": "folder", "options": {"path": str(data.expanduser().resolve())}}
        content.setdefault("data", {})["image_size"] = image_size
        budgets = [*(budget_ms or []), *_numbers(context.args)]
        if budgets:
            content["budgets_ms"] = budgets
        parsed = parse(Recipe, content, "The recipe")
        if data is not None:
            from spaceevo import plugins

            plugin = plugins.load("spaceevo.train.datasets", "folder")
            plugin.check(plugin.Settings(path=str(data)))
        write_atomically(recipe, commented_yaml(parsed))
        typer.echo(f"Wrote {recipe}. Next: spaceevo run {recipe}")


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
