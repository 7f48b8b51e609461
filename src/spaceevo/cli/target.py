"""`spaceevo target VERB TARGET`: what a device is, what gains from INT8 there, how long its operators take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import JsonOption

TargetArgument = Annotated[
    str, typer.Argument(help="runtime@transport or runtime@transport:device.", metavar="TARGET", show_default=False)
]
ThreadsOption = Annotated[int, typer.Option(help="Threads that the runtime may use.", min=1)]
CoresOption = Annotated[
    str, typer.Option(help="Logical cores that it is pinned to, for example 0,1; any without it.", show_default=False)
]
FolderOption = Annotated[
    Path | None,
    typer.Option(help="Of what is known about the target; targets/TARGET without it.", show_default=False),
]
SpaceOption = Annotated[
    str, typer.Option("--space", help="Search space of the encodings, for example micro-014-120.", show_default=False)
]
ClassesOption = Annotated[int, typer.Option("--num-classes", help="Logits of networks without a file.", min=1)]
Fp32Option = Annotated[bool, typer.Option("--fp32", help="FP32 instead of INT8.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws the networks.")]
HyperspaceOption = Annotated[list[str], typer.Option("--hyperspace", help="A preset; may be given several times.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    target = typer.Typer(help="Get to know a device: describe, study, profile; fit and assess a latency predictor.",
                         no_args_is_help=True)  # fmt: skip
    app.add_typer(target, name="target")

    @target.command()
    def describe(
        name: TargetArgument,
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Tell what a target is: processor, flags, runtime, largest weight code, state, and what was measured there."""
        from spaceevo.api.targets import Target

        device = Target(name, threads=threads, cores=core_numbers(cores), folder=folder)
        about = device.describe()
        if as_json:
            typer.echo(about.model_dump_json(indent=1))
            return
        target = about.target
        table = Table(show_header=False, box=None, pad_edge=False)
        cores_told = f", on cores {', '.join(map(str, target.cores))}" if target.cores else ""
        rows = {
            "device": f"{target.device} ({target.machine}), {about.num_cores} cores",
            "flags for INT8": " ".join(target.flags) or "none",
            "runtime": f"{target.runtime} {target.runtime_version}",
            "profile": about.profile,
            "weight codes": f"up to {target.w_qmax}",
            "threads": f"{target.threads}{cores_told}",
            "now": _state(about.state),
            "measured": f"{about.num_measurements:,} in {device.folder}{', while it was busy' * about.busy}",
        }
        for key, value in rows.items():
            table.add_row(key, value)
        console = Console()
        console.print(table)
        for line in about.stale:
            console.print(line, highlight=False, soft_wrap=True)

    @target.command()
    def study(
        name: TargetArgument,
        hyperspace: Annotated[str, typer.Option(help="Preset whose block types are studied.")] = "micro",
        widths: Annotated[str, typer.Option(help="Channels.")] = "16,48,128",
        sizes: Annotated[str, typer.Option(help="Heights = widths of feature maps.")] = "6,12,24",
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Measure INT8 against FP32 by operator, width, kernel size, activation and block type, and give advice."""
        from spaceevo.api.targets import Target
        from spaceevo.config import StudySettings
        from spaceevo.progress import shown
        from spaceevo.settings import parse

        wanted = parse(StudySettings, {"widths": _numbers(widths), "sizes": _numbers(sizes)}, "The command line")
        console = Console(stderr=as_json)
        device = Target(name, threads=threads, cores=core_numbers(cores), folder=folder)
        with shown(console, "study") as progress:
            found = device.study(hyperspace, widths=wanted.widths, sizes=wanted.sizes, progress=progress)
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
            return
        from spaceevo.report.console import study_table

        console.print(study_table(found))
        for line in found.advice:
            console.print(f"- {line}", highlight=False, soft_wrap=True)
        console.print(f"Plots: {device.page.resolve()}", highlight=False, soft_wrap=True)

    @target.command()
    def profile(
        name: TargetArgument,
        network: Annotated[
            str, typer.Argument(help="A model file, a name of the zoo, or an encoding.", show_default=False)
        ],
        space: SpaceOption = "",
        num_classes: ClassesOption = 1000,
        fp32: Fp32Option = False,
        repeats: Annotated[int, typer.Option(help="Inferences.", min=1)] = 50,
        threads: ThreadsOption = 1,
        as_json: JsonOption = False,
    ) -> None:
        """List the time per operator, in the context of the whole network, as the runtime itself counts it."""
        from spaceevo.api.targets import Target

        device, precision = Target(name, threads=threads), precision_of(fp32)
        times = device.profile(network, space=space, num_classes=num_classes, precision=precision, repeats=repeats)
        if as_json:
            typer.echo(json.dumps(times, indent=1))
            return
        total = sum(times.values())
        table = Table("operator", title=f"{network} on {name}", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("ms", justify="right")
        table.add_column("share", justify="right")
        for operator, ms in sorted(times.items(), key=lambda item: -item[1]):
            table.add_row(operator, f"{ms:.4f}", f"{ms / total:.1%}")
        table.add_section()
        table.add_row("all", f"{total:.4f}", "")
        console = Console()
        console.print(table)
        console.print("Counting takes time itself: small networks are slower here than measured.", highlight=False)

    @target.command()
    def fit(
        name: TargetArgument,
        hyperspace: HyperspaceOption = ["micro"],  # noqa: B006
        fp32: Fp32Option = False,
        num_fit: Annotated[int, typer.Option(help="Networks to measure.", min=10)] = 120,
        num_classes: ClassesOption = 1000,
        seed: SeedOption = 0,
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Measure random networks of hyperspaces and fit a latency predictor, for `spaceevo predict`."""
        from spaceevo.api.targets import Target
        from spaceevo.progress import shown

        console = Console(stderr=as_json)
        precision = precision_of(fp32)
        device = Target(name, threads=threads, cores=core_numbers(cores), folder=folder)
        with shown(console, "measure and fit") as progress:
            device.fit(
                hyperspace,
                precision=precision,
                num_fit=num_fit,
                num_classes=num_classes,
                seed=seed,
                progress=progress,
            )
        path = device.predictor_path(precision)
        if as_json:
            typer.echo(path.read_text(encoding="utf-8"))
            return
        console.print(f"Predictor: {path}", highlight=False, soft_wrap=True)
        console.print(f"Judge it with: {device.command('assess', precision)}", highlight=False, soft_wrap=True)

    @target.command()
    def assess(
        name: TargetArgument,
        fp32: Fp32Option = False,
        num_unseen: Annotated[int, typer.Option(help="Networks to measure, of every hyperspace.", min=5)] = 30,
        seed: SeedOption = 0,
        threads: ThreadsOption = 1,
        cores: CoresOption = "",
        folder: FolderOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Measure networks that a predictor has not seen, and tell how well it predicts them."""
        from spaceevo.api.targets import Target
        from spaceevo.progress import shown

        console = Console(stderr=as_json)
        device = Target(name, threads=threads, cores=core_numbers(cores), folder=folder)
        with shown(console, "measure") as progress:
            found = device.assess(precision=precision_of(fp32), num_unseen=num_unseen, seed=seed, progress=progress)
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
            return
        from spaceevo.report.console import assessment_table

        console.print(assessment_table(found))
        console.print(f"Plot: {device.page.resolve()}", highlight=False, soft_wrap=True)


def precision_of(fp32: bool) -> Literal["int8", "fp32"]:
    """The precision of an option.

    >>> precision_of(False)
    'int8'
    """
    return "fp32" if fp32 else "int8"


def core_numbers(text: str) -> tuple[int, ...]:
    """The cores of an option.

    >>> core_numbers("0,2")
    (0, 2)
    """
    return _numbers(text) if text else ()


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers; write for example 0,1") from None


def _state(state: Any) -> str:
    told = {
        "load {:.2f}": state.load,
        "{:.0f} MHz": state.frequency_mhz,
        "{:.0f} °C": state.temperature_c,
    }
    return ", ".join(form.format(value) for form, value in told.items() if value is not None) or "not told"
