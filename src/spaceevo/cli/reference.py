"""`spaceevo reference check DIR`: our blocks against the published tables, encodings and logits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spaceevo.cli.run import JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(help="Compare with the published reference.", no_args_is_help=True)
    app.add_typer(group, name="reference")

    @group.callback()
    def reference() -> None:
        """Compare with the published reference."""

    @group.command()
    def check(
        folder: Annotated[Path, typer.Argument(help="A folder of reference data.", show_default=False)],
        as_json: JsonOption = False,
    ) -> None:
        """Check counts, encodings and logits against a folder of published data; it may hold any part of it.

        Prints a line per file and per parity case. The exit code is 1 if anything falls short.
        """
        from spaceevo.tools.reference import check as findings_of

        console = Console(stderr=as_json, highlight=False)
        findings = []
        for finding in findings_of(folder):
            findings.append(finding)
            mark = {True: "[green]ok[/green]  ", False: "[red]FAIL[/red]", None: "[yellow]skip[/yellow]"}[
                finding.passed
            ]
            console.print(f"{mark} {finding.name}: {finding.text}", soft_wrap=True)
        failed = [finding.name for finding in findings if finding.passed is False]
        skipped = sum(finding.passed is None for finding in findings)
        if as_json:
            typer.echo(json.dumps({"passed": not failed, "findings": [asdict(one) for one in findings]}, indent=1))
        console.print(
            f"{len(findings) - len(failed) - skipped} of {len(findings)} hold"
            + (f", {skipped} skipped" if skipped else "")
            + (f", {len(failed)} fall short: {'; '.join(failed)}" if failed else "")
            + "."
        )
        if failed:
            raise typer.Exit(1)
