"""`spaceevo predict`: the stage of a recipe, or the latency of networks on a target, thousands at once."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import STAGE_VERBS, JsonOption, run_until
from spaceevo.cli.target import (
    ClassesOption,
    CoresOption,
    FolderOption,
    Fp32Option,
    SpaceOption,
    ThreadsOption,
    core_numbers,
)

MAX_ROWS = 40


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(help=f"{STAGE_VERBS['predict']} Or predict networks on a target, after `spaceevo target fit`.")
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
        as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        if Path(source).suffix in (".yaml", ".yml"):
            if networks or file or space:
                raise typer.BadParameter("networks go with a target, not with a recipe")
            run_until(Path(source), out, "predict", as_json)
            return
        from spaceevo import targets as room

        device = room.open_device(source, threads, core_numbers(cores), folder)
        lines = room.listed_networks(networks or [], file)
        found = room.predict_all(device, lines, space, num_classes, "fp32" if fp32 else "int8")
        if out is not None:
            with Path(out).open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(("network", "latency_ms", "num_outside"))
                writer.writerows((one.name, one.latency_ms, one.num_outside) for one in found)
        if as_json:
            json.dump([one.model_dump() for one in found], sys.stdout, indent=1)
            typer.echo()
            return
        console = Console()
        table = Table("network", title=f"Predicted for {source}")
        table.add_column("ms", justify="right")
        table.add_column("operators outside of what was measured", justify="right")
        for one in found[:MAX_ROWS]:
            table.add_row(one.name, f"{one.latency_ms:.4g}", str(one.num_outside))
        console.print(table)
        if len(found) > MAX_ROWS:
            latencies = [one.latency_ms for one in found]
            console.print(
                f"{len(found):,} networks, {min(latencies):.4g} to {max(latencies):.4g} ms, median "
                f"{median(latencies):.4g}; the first {MAX_ROWS} are shown, --out FILE writes all.",
                highlight=False,
            )
