"""`spaceevo init`: write a commented recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(context_settings={"allow_extra_args": True})
    def init(
        context: typer.Context,
        recipe: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
        data: Annotated[
            Path | None,
            typer.Option(
                help="A folder with train/<class>/... and val/<class>/..., or a .csv or .tsv file (path,label,split); "
                "the built-in images without it."
            ),
        ] = None,
        val_share: Annotated[
            float | None,
            typer.Option(
                help="Of pictures in one part (<class>/..., or no column of splits): share of each class that is held "
                "out for validation.",
                show_default=False,
            ),
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
        from spaceevo.errors import RecipeError
        from spaceevo.ownership import at_home
        from spaceevo.tools.first_recipe import commented_yaml, recipe_for

        recipe = at_home(recipe)
        if recipe.is_dir():
            raise RecipeError(f"{recipe} is a folder", remedy="Name a file in it")
        if recipe.exists() and not force:
            raise RecipeError(
                f"The file {recipe} exists already", remedy="Choose another name, or overwrite it with --force"
            )
        budgets = [*(budget_ms or []), *_numbers(context.args)]
        parsed = recipe_for(data and at_home(data), budgets, image_size, recipe.stem, val_share)
        write_atomically(recipe, commented_yaml(parsed))
        typer.echo(f"Wrote {recipe}. Next: spaceevo run {shlex.quote(str(recipe))}")


def _numbers(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise typer.BadParameter(f"{' '.join(words)!r}: budgets are numbers of milliseconds") from None
