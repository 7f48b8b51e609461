"""`spaceevo export` and `spaceevo verify`: files for devices, and whether files are what was written and trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from spaceevo.cli import in_options
from spaceevo.cli.run import ForceOption, JsonOption, run_until

RuntimeOption = Annotated[list[str] | None, typer.Option("--runtime", help="A runtime; may be given several times.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A built-in data set, a folder of images, or a recipe whose data are taken; the run's without it.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command()
    def export(
        source: Annotated[
            Path, typer.Argument(help="A recipe, a run folder, or an extracted network.", show_default=False)
        ],
        runtime: RuntimeOption = None,
        data: DataOption = None,
        out: Annotated[
            str | None,
            typer.Option("--out", help="Folder for the files; where a recipe is given, as of `spaceevo run`."),
        ] = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Write INT8 models and their FP32 twins for one or more runtimes, and verify each before it is handed out.

        With a recipe: the stage of that name, for the recipe's target; what it needs runs first, unless it is done.
        With a run folder or an extracted network (.safetensors): for every runtime that is installed, or those named.
        The exit code is 3 if only some files could be handed out.
        """
        if source.suffix in (".yaml", ".yml"):
            if runtime or data:
                raise typer.BadParameter("--runtime and --data go with a run folder or an extracted network")
            run_until(source, out, "export", as_json)
            return
        from spaceevo.api.networks import export as export_networks
        from spaceevo.progress import Shown

        console = Console(stderr=as_json)
        display = Shown(console)
        found = export_networks(source, runtimes=runtime or (), data=data, folder=out, force=force, display=display)
        failures = [
            {"network": str(one.network), "runtime": one.runtime, "error": in_options(one.error)}
            for one in found.failures
        ]
        _tell(console, [one.verification for one in found.handed_out], as_json, failures)

    @app.command()
    def verify(
        sources: Annotated[
            list[Path],
            typer.Argument(help="Run folders, for all their files and models; or INT8 models.", show_default=False),
        ],
        runtime: Annotated[
            str | None, typer.Option("--runtime", help="Runs the models; without it, the one they were written for.")
        ] = None,
        network: Annotated[
            Path | None,
            typer.Option("--network", help="The extracted network; without it, the one beside the model."),
        ] = None,
        data: DataOption = None,
        only_files: Annotated[
            bool, typer.Option("--files", help="Of run folders check the files only, which needs no images.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Check that files of runs are as they were written, and that exported INT8 models compute what was trained.

        Of a run folder, every file is checked against its digest. Of a model, every constant and its logits on the
        validation images are compared with the network that it was exported from; where a bound is broken, the first
        tensor that differs is told. The exit code is 1 if anything is damaged or broken.
        """
        from spaceevo.api.networks import verifications
        from spaceevo.progress import Shown
        from spaceevo.records import FolderCheck

        console = Console(stderr=as_json)
        verified, checked = [], []
        for one in verifications(
            *sources, runtime=runtime, network=network, data=data, only_files=only_files, display=Shown(console)
        ):
            if isinstance(one, FolderCheck):
                checked.append(one)
                _tell_files(console, one)
            else:
                verified.append(one)
        _tell(console, verified, as_json, files=checked)


def _tell_files(console: Console, check: Any) -> None:
    states = Counter(one.state for one in check.files)
    counts = [f"{count} {state}" for state, count in states.items()]
    console.print(f"{check.folder}: {len(check.files)} files, {', '.join(counts)}.", highlight=False, soft_wrap=True)
    for one in check.files:
        if one.state in ("damaged", "missing"):
            console.print(f"  [red]{one.state}[/red] {escape(one.file)}: {escape(one.found)}.", highlight=False,
                          soft_wrap=True)  # fmt: skip
        elif one.state == "unknown":
            console.print(f"  unknown {escape(one.file)}: spaceevo did not write it.", highlight=False, soft_wrap=True)
    if check.unfinished:
        console.print(f"  Not finished: {', '.join(check.unfinished)}.", highlight=False, soft_wrap=True)
    if check.faults:
        console.print(
            "Restore these files; or delete them, or the whole folders of their stages, and run the same command "
            "again: the other stages are kept.",
            soft_wrap=True,
        )


def _tell(
    console: Console,
    verified: Sequence[Any],
    as_json: bool,
    failures: Sequence[dict[str, str]] = (),
    files: Sequence[Any] = (),
) -> None:
    from spaceevo.errors import EXIT_ERROR, EXIT_PARTLY_DONE
    from spaceevo.report.console import verification_table

    if as_json:
        found = {"models": [one.model_dump() for one in verified], "failures": list(failures)}
        if files:
            found["folders"] = [one.model_dump() for one in files]
        typer.echo(json.dumps(found, indent=1))
    if verified:
        console.print(verification_table(verified))
    for one in verified:
        if one.exported_for != one.verified_on:
            console.print(
                f"{one.file} was exported for {one.exported_for} and verified on {one.verified_on}: what holds here "
                "need not hold there.",
                soft_wrap=True,
            )
        if one.problems:
            console.print(f"[red]{one.file}[/red]: {'; '.join(one.problems)}.", highlight=False, soft_wrap=True)
            where = f"{one.first_difference}, in {one.differing_codes:.1%} of its codes"
            console.print(f"  The first tensor that differs: {where}.", highlight=False, soft_wrap=True)
    for failure in failures:
        console.print(f"[red]{failure['network']} for {failure['runtime']}[/red]: {failure['error']}",
                      highlight=False, soft_wrap=True)  # fmt: skip
    if failures:
        raise typer.Exit(EXIT_PARTLY_DONE if verified else EXIT_ERROR)
    if any(one.problems for one in verified) or any(one.faults for one in files):
        raise typer.Exit(EXIT_ERROR)
