"""`spaceevo predict`: the stage of a recipe, or the latency of networks on a target, thousands at once."""

from __future__ import annotations

import csv
import sys
from array import array
from pathlib import Path
from shutil import copyfileobj
from statistics import median
from tempfile import TemporaryFile
from textwrap import indent
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import STAGE_FILES, ForceOption, JsonOption, run_until
from spaceevo.cli.target import (
    ClassesOption,
    CoresOption,
    FolderOption,
    Fp32Option,
    SpaceOption,
    ThreadsOption,
    core_numbers,
    precision_of,
)

MAX_ROWS = 40


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(help=f"{STAGE_FILES.about('predict')} Or predict networks on a target, after `spaceevo target fit`.")
    def predict(
        source: Annotated[
            str, typer.Argument(help="A recipe; or a target, runtime@transport.", metavar="RECIPE|TARGET",
                                show_default=False)
        ],
        networks: Annotated[
            list[str] | None, typer.Argument(help="Names of the zoo, encodings.", show_default=False)
        ] = None,
        file: Annotated[
            Path | None,
            typer.Option(help="More of them, one per line; or a line has a space, a blank and an encoding.",
                         show_default=False),
        ] = None,
        space: SpaceOption = "",
        num_classes: ClassesOption = 1000,
        fp32: Fp32Option = False,
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        out: Annotated[
            str | None,
            typer.Option("--out", help="Of a recipe the run folder; of networks a CSV file for the predictions.",
                         show_default=False),
        ] = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        if Path(source).suffix in (".yaml", ".yml"):
            if networks or file or space:
                raise typer.BadParameter("networks go with a target, not with a recipe")
            run_until(Path(source), out, "predict", as_json)
            return
        from spaceevo.api.targets import Target
        from spaceevo.artifacts import write_atomically
        from spaceevo.ownership import PREDICTIONS, output_file
        from spaceevo.predict.lists import named_networks

        path = None if out is None else output_file(Path(out), force=force)
        device = Target(source, threads=threads, cores=core_numbers(cores), folder=folder)
        listed = named_networks(networks or [], file)
        found = device.predictions(listed, space=space, num_classes=num_classes, precision=precision_of(fp32))
        first, latencies = [], array("d")
        # Nothing is written before all are predicted, and few of them are held: there may be millions
        with (
            TemporaryFile("w+", encoding="utf-8", newline="") as rows,
            TemporaryFile("w+", encoding="utf-8") as entries,
        ):
            writer = csv.writer(rows)
            writer.writerow(PREDICTIONS)
            for one in found:
                first += [one] if len(latencies) < MAX_ROWS else []
                latencies.append(one.latency_ms)
                if path is not None:
                    writer.writerow((one.name, one.latency_ms, one.num_outside))
                if as_json:
                    entries.write((",\n" if len(latencies) > 1 else "") + indent(one.model_dump_json(indent=1), " "))
            if path is not None:
                rows.seek(0)
                write_atomically(path, rows.read())
            if as_json:
                entries.seek(0)
                typer.echo("[")
                copyfileobj(entries, sys.stdout)
                typer.echo("\n]")
                return
        console = Console()
        table = Table("network", title=f"Predicted for {source}")
        table.add_column("ms", justify="right")
        table.add_column("operators outside of what was measured", justify="right")
        for one in first:
            table.add_row(one.name, f"{one.latency_ms:.4g}", str(one.num_outside))
        console.print(table)
        if len(latencies) > MAX_ROWS:
            console.print(
                f"{len(latencies):,} networks, {min(latencies):.4g} to {max(latencies):.4g} ms, median "
                f"{median(latencies):.4g}; the first {MAX_ROWS} are shown, --out FILE writes all.",
                highlight=False,
            )
