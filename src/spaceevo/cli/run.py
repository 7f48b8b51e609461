"""`spaceevo run RECIPE`: all stages; and one verb per stage, `spaceevo study RECIPE` and so on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from spaceevo.cli import VERBS
from spaceevo.plugins import Registry

#: Every file of `spaceevo.stages` is a verb; its docstring begins with the help. None is imported before it runs.
STAGE_FILES = Registry("spaceevo.stages", object)

_RECIPE_VERB = "recipe"
RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out", help="The run folder, or s3://BUCKET/PATH and the like; runs/NAME without it.", show_default=False
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite a file that spaceevo did not write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command()
    def run(recipe: RecipeArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
        """Do the whole job: from a recipe to measured INT8 models and a report.

        What is finished is not done again, so an interrupted run goes on where it stood.
        """
        run_until(recipe, out, "report", as_json)

    for name in STAGE_FILES.names():
        if name not in VERBS.names():  # those that take more than a recipe have files of their own
            _register_stage(app, name, STAGE_FILES.about(name))


class _RecipeOrVerb(TyperGroup):
    """A first word that is none of the verbs is a recipe, or an option before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = [_RECIPE_VERB, *args]
        return super().parse_args(ctx, args)


def stage_group(app: typer.Typer, name: str, other_verbs: str) -> typer.Typer:
    """The verb of a stage that takes a recipe, and has verbs of its own.

    Args:
        app: To add it to.
        name: Name of the stage, and of the verb.
        other_verbs: Help on what they do.
    """
    text = f"{STAGE_FILES.about(name)} With a recipe, runs what this needs first, unless it is done. {other_verbs}"
    group = typer.Typer(cls=_RecipeOrVerb, no_args_is_help=True, help=text)
    app.add_typer(group, name=name)

    @group.command(
        _RECIPE_VERB, help=f"The stage of a recipe; the word itself may be left out: `spaceevo {name} RECIPE`."
    )
    def stage(recipe: RecipeArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
        run_until(recipe, out, name, as_json)

    return group


def _register_stage(app: typer.Typer, name: str, text: str) -> None:
    @app.command(name, help=f"{text} Runs what this needs first, unless it is done.")
    def stage(recipe: RecipeArgument, out: OutOption = None, as_json: JsonOption = False) -> None:
        run_until(recipe, out, name, as_json)


def run_until(recipe_path: Path, out: str | Path | None, stage: str, as_json: bool) -> None:
    """Run a recipe up to a stage and print what came out.

    Args:
        recipe_path: Where the recipe lies, a YAML file.
        out: The run folder or its URL; None takes `runs/NAME`.
        stage: The last stage.
        as_json: Print JSON to standard output, and progress to standard error.
    """
    console = Console(stderr=as_json)
    run = run_stage(recipe_path, out, stage, console)
    folder = run.folder
    from spaceevo.stages import report

    if stage != report.STAGE.name:
        manifest = (folder / stage / "stage.json").read_text(encoding="utf-8")
        if as_json:
            typer.echo(manifest)
        else:
            for file in json.loads(manifest)["files"]:
                console.print(f"  {folder / stage / file}", highlight=False, soft_wrap=True)
        return
    summary = run.report.summary
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    from spaceevo.report.console import summary_table

    console.print(summary_table(summary))
    console.print(f"Models: {(folder / summary.models[0].int8_file).parent}", highlight=False, soft_wrap=True)
    console.print(f"Report: {(folder / report.REPORT).resolve()}", highlight=False, soft_wrap=True)


def run_stage(recipe_path: Path, out: str | Path | None, stage: str, console: Console) -> Any:
    """Run a recipe up to a stage. Under `torchrun`, all but the first process only train, and exit.

    Args:
        recipe_path: Where the recipe lies, a YAML file.
        out: The run folder or its URL; None takes `runs/NAME`.
        stage: The last stage.
        console: Shows progress; standard error where standard output is JSON.
    """
    from spaceevo.config import load_recipe
    from spaceevo.errors import TrainingError
    from spaceevo.launch import this_launch
    from spaceevo.storage import located

    recipe = load_recipe(recipe_path)
    place = out or Path("runs") / recipe.name
    folder, storage = located(place)
    if this_launch().rank == 0:  # the first of torchrun's processes; told before torch takes seconds to load
        here = f", here in {folder}" if storage else ""
        console.print(f"Run folder: {place}{here}", highlight=False, soft_wrap=True)
    from spaceevo.api.runs import Run
    from spaceevo.progress import Shown
    from spaceevo.run.run import help_train
    from spaceevo.train.ranks import joined

    with joined() as ranks:
        if not ranks.is_first:
            help_train(recipe, place, ranks)
            raise typer.Exit
        try:
            run = Run(recipe, place, Shown(console), ranks).until(stage)
        except BaseException:
            with suppress(TrainingError):  # where another one is gone too: what went wrong first is told
                ranks.agree(False)
            raise
        ranks.agree(False)  # the others may end
        return run
