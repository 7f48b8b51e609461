"""`spaceevo space`: the stage of a recipe, or the Q-T score and the search over spaces from block tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spaceevo.cli.run import ForceOption, JsonOption, stage_group
from spaceevo.errors import EXIT_PARTLY_DONE

# Spaces that a sweep bounds in well under a minute.
QUICKLY_SWEPT = 300_000_000
MAX_SHOWN = 10
NUM_DRAWN = 100_000

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
        from spaceevo.ownership import output_file
        from spaceevo.spaces.hyperspace import load_hyperspace

        plots = plots and output_file(plots, force=force)
        console = Console(stderr=as_json, highlight=False)
        hyperspace = load_hyperspace(encodings[0].split("-", 1)[0])
        choices = [hyperspace.decode(encoding) for encoding in encodings]
        scorer = _evaluator(console, hyperspace, table, latency, base_latency, metric, evaluator, seed, bins,
                            keep_failed)  # fmt: skip
        settings = scorer.parts[0].settings
        rows, notes = [], []
        for encoding, choice in zip(encodings, choices, strict=True):
            qualities = scorer.assess(choice)
            terms = [{"budget": budget, "share": quality.share, "score": quality.score(settings),
                      "loss": quality.loss if quality.share else None}
                     for budget, quality in zip(scorer.budgets_ms, qualities, strict=True)]  # fmt: skip
            rows.append({"space": encoding, "score": scorer.score(choice), "budgets": terms})
            if not scorer.failed.isdisjoint(enumerate(choice.blocks)):
                notes.append(f"{encoding} uses a failed cell, so its score is 0.")
                continue
            for part in scorer.parts:
                own = min(part.budgets_ms)
                if any(quality.share == 0 for quality in part.assess(choice)):
                    few, closest = ("No", "Hardly any")[part.closest_budget(choice) <= own], part.least_budget(choice)
                    notes.append(f"{few} subnet of {encoding} meets {own:g} {part.unit}; "
                                 f"the closest feasible budget is {closest:g} {part.unit}.")  # fmt: skip
        if as_json:
            typer.echo(json.dumps(rows, indent=1))
        _show_scores(console, rows, scorer.parts[0].unit)
        for note in notes:
            console.print(note, soft_wrap=True)
        if plots:
            _write_plots(console, plots, scorer, encodings, choices)

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
        from spaceevo.ownership import output_file
        from spaceevo.progress import shown
        from spaceevo.search.space_search import search_spaces
        from spaceevo.search.sweep import Sweep, sweep_spaces
        from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace

        plots = plots and output_file(plots, force=force)
        console = Console(stderr=as_json, highlight=False)
        own = load_hyperspace(hyperspace)
        scorer = _evaluator(console, own, table, latency, base_latency, metric, evaluator, seed, bins,
                            keep_failed)  # fmt: skip
        if prove and evaluator != "exact":
            raise typer.BadParameter("Only exact scores can be proved: sampled ones are noisy", param_hint="--prove")
        is_swept = evaluator == "exact" and (own.num_spaces <= QUICKLY_SWEPT if prove is None else prove)

        def sweep(best: SpaceChoice, threshold: float) -> Sweep:
            with shown(console, "Bound all other spaces") as progress:
                return sweep_spaces(scorer, best, threshold, progress)

        with shown(console, "Evolve spaces") as progress:
            result = search_spaces(
                own,
                scorer,
                num_spaces=num_spaces,
                population_size=population_size,
                tournament_size=tournament_size,
                tolerance=tolerance,
                seed=seed,
                excluded=scorer.failed,
                progress=progress,
                sweep=sweep if is_swept else None,
            )
        if as_json:
            typer.echo(result.model_dump_json(indent=1))
        _show_result(console, result)
        if plots:
            best = result.best.encoding
            _write_plots(console, plots, scorer, [best], [own.decode(best)], (result, own))
        if prove and result.why_unbounded:
            raise typer.Exit(EXIT_PARTLY_DONE)


def _evaluator(
    console: Console,
    hyperspace: Any,
    tables: Sequence[Path],
    latencies: Sequence[str],
    bases: Sequence[str] | None,
    metric: str,
    evaluator: str,
    seed: int,
    bins: int,
    keep_failed: bool,
) -> Any:
    """The evaluator of all tables; tells which cells are doubtful."""
    from spaceevo.search.qt_score import CombinedEvaluator, Evaluator, ExactEvaluator, SampledEvaluator
    from spaceevo.search.tables import doubts, load_block_table, without_failed

    if evaluator not in ("exact", "sampled"):
        raise typer.BadParameter(f"{evaluator!r} is neither exact nor sampled", param_hint="--evaluator")
    unit = "ms" if metric == "latency_ms" else metric
    parts: list[Evaluator] = []
    budgets_of = _per_table(latencies, tables, "--latency")
    for path, words, base in zip(tables, budgets_of, _per_table(bases or ["0"], tables, "--base-latency"), strict=True):
        block_table = load_block_table(path, hyperspace, metric)
        found = doubts(block_table)
        for doubt in found:
            state = "doubtful"
            if doubt.is_failed:
                state = "failed, but used" if keep_failed else "failed, and not used"
            stage = hyperspace.searched[doubt.stage].name if doubt.stage < len(hyperspace.searched) else doubt.stage
            console.print(f"{path.name}, {stage}, block {doubt.block}: {state}: {doubt.reason}.", soft_wrap=True)
        if not keep_failed:
            block_table = without_failed(block_table, found)
        budgets = [_number(word, "--latency") for group in words for word in group.split(",")]
        base_ms = _base(base, hyperspace.resolutions)
        if evaluator == "exact":
            parts.append(
                ExactEvaluator(block_table, hyperspace, budgets, base_ms, num_loss_bins=bins,
                               num_latency_bins=max(bins // 2, 16), unit=unit)
            )  # fmt: skip
        else:
            parts.append(SampledEvaluator(block_table, hyperspace, budgets, base_ms, seed=seed, unit=unit))
    return parts[0] if len(parts) == 1 else CombinedEvaluator(parts)


def _per_table(values: Sequence[str], tables: Sequence[Path], option: str) -> list[list[str]]:
    """The values of an option for each table."""
    if len(tables) == 1 or len(values) == 1:
        return [list(values)] * len(tables)
    if len(values) != len(tables):
        raise typer.BadParameter(f"Give {option} once, or once per table ({len(tables)})", param_hint=option)
    return [[value] for value in values]


def _base(words: Sequence[str], resolutions: Sequence[int]) -> dict[int, float]:
    """Latency of the unsearched stages by resolution."""
    values = [word for group in words for word in group.split(",")]
    if len(values) == 1 and "=" not in values[0]:
        return dict.fromkeys(resolutions, _number(values[0], "--base-latency"))
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


def _show_scores(console: Console, rows: Sequence[dict[str, Any]], unit: str) -> None:
    shown = Table(title="Q-T score; share of subnets within the budget, mean loss of the best")
    shown.add_column("space", no_wrap=True)
    for column in ("score", f"budget, {unit}", "share", "mean loss"):
        shown.add_column(column, justify="right")
    for row in rows:
        for index, term in enumerate(row["budgets"]):
            first = (row["space"], f"{row['score']:.5f}") if index == 0 else ("", "")
            loss = "-" if term["loss"] is None else f"{term['loss']:.4f}"
            shown.add_row(*first, f"{term['budget']:g}", f"{100 * term['share']:.3g} %", loss)
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


def _write_plots(
    console: Console,
    path: Path,
    scorer: Any,
    encodings: Sequence[str],
    choices: Sequence[Any],
    searched: tuple[Any, Any] | None = None,
) -> None:
    from spaceevo.artifacts import write_atomically
    from spaceevo.report import figures
    from spaceevo.search.qt_score import draw_subnets

    plots = {}
    if searched:
        plots["Q-T score over the search"] = figures.plot_search(searched[0])
        plots["The spaces within tolerance"] = figures.plot_plateau(searched[0])
        plots["Block types of the spaces within tolerance"] = figures.plot_block_choices(*searched)
        plots["Widths of the spaces within tolerance"] = figures.plot_window_choices(*searched)
    for number, part in enumerate(scorer.parts, 1):
        which = f", target {number}" if len(scorer.parts) > 1 else ""
        draws = {
            encoding: draw_subnets(part, choice, NUM_DRAWN, 0)
            for encoding, choice in zip(encodings, choices, strict=True)
            if part.failed.isdisjoint(enumerate(choice.blocks))
        }
        plots[f"Latency of subnets{which}"] = figures.plot_latencies(draws, part.budgets_ms, part.unit)
        plots[f"Loss of subnets within {max(part.budgets_ms):g} {part.unit}{which}"] = figures.plot_losses(
            draws, max(part.budgets_ms)
        )
    write_atomically(path, figures.page("Search spaces", plots))
    console.print(f"Plots: {path}", soft_wrap=True)
