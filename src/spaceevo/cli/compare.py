"""`spaceevo compare RECIPE`: the found space against hand-made and random ones."""

from __future__ import annotations

import typer
from rich.console import Console

from spaceevo.cli.run import JsonOption, OutOption, RecipeArgument, run_stage


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def compare(recipe: RecipeArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
        """Train the found space, hand-made and random ones with equal effort; search and measure them alike.

        Runs what this needs first, unless it is done. Interrupted, it goes on where it stood.
        """
        console = Console(stderr=as_json)
        run = run_stage(recipe, out, "compare", console)
        from spaceevo.stages import compare as room

        comparison = run[room.STAGE]
        if as_json:
            typer.echo(comparison.model_dump_json(indent=1))
            return
        from spaceevo.report.comparison import headline
        from spaceevo.report.console import comparison_tables

        for table in comparison_tables(comparison):
            console.print(table)
        console.print(headline(comparison), highlight=False, soft_wrap=True)
        console.print(f"Page: {(run.folder / room.STAGE.name / room.PAGE).resolve()}", highlight=False, soft_wrap=True)
