"""`spaceevo space`: the stage of a recipe, or the Q-T score and the search over spaces from block tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import ForceOption, JsonOption, stage_group
from spaceevo.errors import EXIT_PARTLY_DONE

MAX_SHOWN = 10

TableOption = Annotated[
    list[Path],
    typer.Option("--table", help="A block table: parquet, a released folder of CSV files, or a run's. One per target.",
                 show_default=False),
]  # fmt: skip
LatencyOption = Annotated[
    list[str],
    typer.Option("--latency", metavar="MS,...", help="Budgets, whose scores add up; or once per table.",
                 show_default=False),
]  # fmt: skip
BaseOption = Annotated[
    list[str] | None,
    typer.Option("--base-latency", metavar="MS|RES=MS,...",
                 help="Latency of the stages that are not searched: one number, or one per resolution; 0 without it.",
                 show_default=False),
]  # fmt: skip
MetricOption = Annotated[
    str, typer.Option("--metric", help="Column of the table that budgets limit, for example mflops.")
]
EvaluatorOption = Annotated[str, typer.Option("--evaluator", help="exact, or sampled as published.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the search, and of samples.")]
BinsOption = Annotated[
    int, typer.Option("--bins", help="Bins of exact scores over the loss; half as many over the latency.")
]
KeepOption = Annotated[
    bool, typer.Option("--keep-failed", help="Use cells, too, whose block-wise training seems to have failed.")
]
PlotsOption = Annotated[Path | None, typer.Option("--plots", help="Write an HTML file with plots.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = stage_group(app, "space", "Or, from block tables: score named spaces, search for the best.")

    @group.command()
    def score(
        encodings: Annotated[list[str], typer.Argument(help="Spaces, hyperspace-blocks-windows.", show_default=False)],
        table: TableOption,
        latency: LatencyOption,
        base_latency: BaseOption = None,
        metric: MetricOption = "latency_ms",
        evaluator: EvaluatorOption = "exact",
        seed: SeedOption = 0,
        bins: BinsOption = 1024,
        keep_failed: KeepOption = False,
        plots: PlotsOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """The Q-T score of search spaces: how good their best subnets within budgets are, and how many meet them."""
        from spaceevo.api.spaces import score_spaces
        from spaceevo.ownership import output_file
        from spaceevo.progress import Shown

        plots = plots and output_file(plots, force=force)
        console = Console(stderr=as_json, highlight=False)
        found = score_spaces(
            encodings,
            _tables(table, latency, base_latency),
            metric=metric,
            method=_method(evaluator),
            seed=seed,
            bins=bins,
            keep_failed=keep_failed,
            display=Shown(console),
        )
        if as_json:
            typer.echo(json.dumps([space.model_dump() for space in found.spaces], indent=1))
        _show_scores(console, found.spaces, found.evaluator.parts[0].unit)
        for note in (note for space in found.spaces for note in space.notes):
            console.print(note, soft_wrap=True)
        if plots:
            _write_plots(console, plots, found)

    @group.command()
    def search(
        hyperspace: Annotated[str, typer.Option(help="A preset, for example onnxw.", show_default=False)],
        table: TableOption,
        latency: LatencyOption,
        base_latency: BaseOption = None,
        metric: MetricOption = "latency_ms",
        evaluator: EvaluatorOption = "exact",
        seed: SeedOption = 0,
        num_spaces: Annotated[int, typer.Option(help="Spaces that the evolution scores.")] = 5000,
        population_size: Annotated[int, typer.Option(help="Of the evolution.")] = 500,
        tournament_size: Annotated[int, typer.Option(help="Of the evolution.")] = 125,
        tolerance: Annotated[
            float, typer.Option(help="Relative difference to the best that counts as equally good.")
        ] = 0.005,
        prove: Annotated[
            bool | None,
            typer.Option("--prove/--no-prove", show_default=False,
                         help="Bound the score of every other space, too; without it, where that takes seconds."),
        ] = None,
        bins: BinsOption = 256,
        keep_failed: KeepOption = False,
        plots: PlotsOption = None,
        force: ForceOption = False,
        as_json: JsonOption = False,
    ) -> None:  # fmt: skip
        """The spaces of a hyperspace with the highest Q-T score, which choices they share, and which choices matter."""
        from spaceevo.api.spaces import search_spaces
        from spaceevo.ownership import output_file
        from spaceevo.progress import Shown

        plots = plots and output_file(plots, force=force)
        console = Console(stderr=as_json, highlight=False)
        if prove and evaluator != "exact":
            raise typer.BadParameter("Only exact scores can be proved: sampled ones are noisy", param_hint="--prove")
        found = search_spaces(
            hyperspace,
            _tables(table, latency, base_latency),
            metric=metric,
            method=_method(evaluator),
            seed=seed,
            num_spaces=num_spaces,
            population_size=population_size,
            tournament_size=tournament_size,
            tolerance=tolerance,
            prove=prove,
            bins=bins,
            keep_failed=keep_failed,
            display=Shown(console),
        )
        if as_json:
            typer.echo(found.result.model_dump_json(indent=1))
        _show_result(console, found.result)
        if plots:
            _write_plots(console, plots, found)
        if prove and found.result.why_unbounded:
            raise typer.Exit(EXIT_PARTLY_DONE)


def _method(word: str) -> Literal["exact", "sampled"]:
    match word:
        case "exact" | "sampled":
            return word
        case _:
            raise typer.BadParameter(f"{word!r} is neither exact nor sampled", param_hint="--evaluator")


def _tables(paths: Sequence[Path], latencies: Sequence[str], bases: Sequence[str] | None) -> list[Any]:
    """A `TargetTable` for each path."""
    from spaceevo.api.spaces import TargetTable

    budgets_of = _per_table(latencies, paths, "--latency")
    bases_of = _per_table(bases or ["0"], paths, "--base-latency")
    return [
        TargetTable(path, [_number(word, "--latency") for group in words for word in group.split(",")], _base(base))
        for path, words, base in zip(paths, budgets_of, bases_of, strict=True)
    ]


def _per_table(values: Sequence[str], tables: Sequence[Path], option: str) -> list[list[str]]:
    """The values of an option for each table."""
    if len(tables) == 1 or len(values) == 1:
        return [list(values)] * len(tables)
    if len(values) != len(tables):
        raise typer.BadParameter(f"Give {option} once, or once per table ({len(tables)})", param_hint=option)
    return [[value] for value in values]


def _base(words: Sequence[str]) -> float | dict[int, float]:
    """Latency of the unsearched stages, or by resolution."""
    values = [word for group in words for word in group.split(",")]
    if len(values) == 1 and "=" not in values[0]:
        return _number(values[0], "--base-latency")
    base = {}
    for value in values:
        resolution, equals, number = value.partition("=")
        if not (equals and resolution.isascii() and resolution.isdigit()):
            raise typer.BadParameter(f"{value!r} is not resolution=latency, for example 224=1.5",
                                     param_hint="--base-latency")  # fmt: skip
        base[int(resolution)] = _number(number, "--base-latency")
    return base


def _number(word: str, option: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is not a number", param_hint=option) from None


def _show_scores(console: Console, spaces: Sequence[Any], unit: str) -> None:
    shown = Table(title="Q-T score; share of subnets within the budget, mean loss of the best")
    shown.add_column("space", no_wrap=True)
    for column in ("score", f"budget, {unit}", "share", "mean loss"):
        shown.add_column(column, justify="right")
    for space in spaces:
        for index, term in enumerate(space.budgets):
            first = (space.space, f"{space.score:.5f}") if index == 0 else ("", "")
            loss = "-" if term.loss is None else f"{term.loss:.4f}"
            shown.add_row(*first, f"{term.budget:g}", f"{100 * term.share:.3g} %", loss)
    console.print(shown)


def _show_result(console: Console, result: Any) -> None:
    from spaceevo.report import words

    within = result.within_tolerance
    shown = Table(title=f"{len(within)} spaces within {100 * result.tolerance:g} % of the best")
    shown.add_column("space", no_wrap=True)
    shown.add_column("Q-T score", justify="right")
    for space in within[:MAX_SHOWN]:
        shown.add_row(space.encoding, f"{space.qt_score:.5f}")
    if len(within) > MAX_SHOWN:
        shown.add_row(f"and {len(within) - MAX_SHOWN} more", f"from {within[-1].qt_score:.5f}")
    console.print(shown)
    chosen = Table("stage", "choice", title="What they choose; what the best space without it would lose")
    for column in ("share", "loss of score"):
        chosen.add_column(column, justify="right")
    for choice in result.choices:
        chosen.add_row(
            choice.stage, words.choice_name(choice), f"{100 * choice.share:.3g} %", f"{100 * choice.loss_without:.2f} %"
        )
    console.print(chosen)
    console.print(words.extent_of_search(result), soft_wrap=True)


def _write_plots(console: Console, path: Path, found: Any) -> None:
    from spaceevo.artifacts import write_atomically
    from spaceevo.report import figures

    write_atomically(path, figures.page("Search spaces", found.plots()))
    console.print(f"Plots: {path}", soft_wrap=True)
