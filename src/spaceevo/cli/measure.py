"""`spaceevo measure TARGET MODEL|ENCODING…`: latency and other metrics of models on a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from spaceevo.cli.run import ForceOption, JsonOption
from spaceevo.cli.target import (
    ClassesOption,
    CoresOption,
    FolderOption,
    SpaceOption,
    TargetArgument,
    ThreadsOption,
    core_numbers,
)
from spaceevo.errors import EXIT_PARTLY_DONE


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def measure(
        name: TargetArgument,
        networks: Annotated[
            list[str], typer.Argument(help="Model files, names of the zoo, encodings.", show_default=False)
        ],
        space: SpaceOption = "",
        num_classes: ClassesOption = 1000,
        precision: Annotated[
            list[str], typer.Option("--precision", help="int8, fp32; may be given twice. For networks without a file.")
        ] = ["int8"],  # noqa: B006
        metric: Annotated[
            list[str] | None,
            typer.Option("--metric", help="A metric beside latency, for example size-mib; may be given several times."),
        ] = None,
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        export: Annotated[
            Path | None,
            typer.Option(help="Also write all measurements of the target to this parquet file.", show_default=False),
        ] = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Measure models on a device: latency with its 95 % interval, and other metrics.

        A network of the zoo or an encoding is measured with random weights: latency does not depend on them. What was
        measured before, on the same target with the same versions, is not measured again.
        """
        from spaceevo.api.targets import Target
        from spaceevo.ownership import output_file
        from spaceevo.progress import shown

        export = None if export is None else output_file(export, force=force)
        precisions = [_precision(word) for word in precision]
        console = Console(stderr=as_json)
        device = Target(name, threads=threads, cores=core_numbers(cores), folder=folder)
        with shown(console, "measure") as progress:
            found = device.measure(
                networks,
                space=space,
                num_classes=num_classes,
                precisions=precisions,
                metrics=metric or (),
                progress=progress,
            )
        if export is not None:
            device.export_measurements(export)
        missing = list(dict.fromkeys(text for one in found for text in one.missing.values()))
        if as_json:
            typer.echo(json.dumps([one.model_dump() for one in found], indent=1))
        else:
            from spaceevo.report.console import measured_table

            console.print(measured_table(name, found, metric or []))
        for text in missing:
            console.print(text, highlight=False, soft_wrap=True)
        if missing:
            raise typer.Exit(EXIT_PARTLY_DONE)


def _precision(word: str) -> Literal["int8", "fp32"]:
    match word:
        case "int8" | "fp32":
            return word
        case _:
            raise typer.BadParameter(f"{word!r} is no precision; there are int8 and fp32")
