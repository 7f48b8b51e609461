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
        from spaceevo.ownership import at_home
        from spaceevo.progress import lines, shown
        from spaceevo.tools import handout

        console = Console(stderr=as_json)
        say = lines(console)
        jobs = [(path, name) for path in handout.networks_of(source) for name in _runtimes(runtime, console)]
        verified, failures = [], []
        for path, name in jobs:
            with shown(console, f"{path.stem} for {name}") as progress:
                try:
                    folder = at_home(Path(out or path.parent))
                    handed_out = handout.export_network(path, name, folder, data, progress, say, force)
                    verified.append(handed_out.verification)
                except handout.FAILURES as error:
                    failures.append({"network": str(path), "runtime": name, "error": in_options(error)})
        _tell(console, verified, as_json, failures)

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
        from spaceevo.ownership import kind_of
        from spaceevo.progress import lines, shown
        from spaceevo.tools import handout
        from spaceevo.tools.integrity import check_folder

        console = Console(stderr=as_json)
        say = lines(console)
        folders = [source for source in sources if source.is_dir() and (only_files or kind_of(source) is not None)]
        checked = [check_folder(folder) for folder in folders]
        for one in checked:
            _tell_files(console, one)
        verified = []
        faulty = [Path(one.folder) for one in checked if one.faults]
        unfinished = [folder for folder in folders if only_files or not (folder / "export" / "models").is_dir()]
        for source in (source for source in sources if source not in [*faulty, *unfinished]):
            for path in handout.int8_files_of(source):
                with shown(console, path.name) as progress:
                    verified.append(
                        handout.verify_file(
                            path, network=network, runtime_name=runtime, data=data, progress=progress, say=say
                        )
                    )
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


def _runtimes(wanted: list[str] | None, console: Console) -> list[str]:
    from spaceevo.errors import TargetError
    from spaceevo.runtimes import RUNTIMES

    installed = []
    for name in wanted or RUNTIMES.names():
        try:
            RUNTIMES.load(name).version()
            installed.append(name)
        except TargetError as error:
            if wanted:
                raise
            console.print(f"Left out: {error}", highlight=False, soft_wrap=True)
    return installed


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
