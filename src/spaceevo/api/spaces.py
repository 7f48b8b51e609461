"""Search spaces on tables of blocks: their Q-T scores, and the best of a hyperspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plotly.graph_objects import Figure

from spaceevo.errors import EncodingError, RecipeError
from spaceevo.progress import Display, Logged
from spaceevo.records import Record, SpaceSearchResult
from spaceevo.report import figures
from spaceevo.report.notebook import framed
from spaceevo.search import space_search
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.qt_score import CombinedEvaluator, Evaluator
from spaceevo.search.sampled_score import SampledEvaluator, draw_subnets
from spaceevo.search.sweep import Sweep, sweep_spaces
from spaceevo.search.tables import doubts, load_block_table, without_failed
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice, load_hyperspace

Method = Literal["exact", "sampled"]
# Spaces that a sweep bounds in well under a minute
QUICKLY_SWEPT = 300_000_000
NUM_DRAWN = 100_000


@dataclass(frozen=True)
class TargetTable:
    """What the blocks of a hyperspace cost on one target, and what is allowed.

    Attributes:
        path: The block table: parquet, a released folder of CSV files, or the folder of a run.
        budgets: At most so much, in ms or the unit of the metric; the scores add up.
        base: Cost of what is not searched: one number, or one by resolution.
    """

    path: Path | str
    budgets: Sequence[float]
    base: float | Mapping[int, float] = 0.0


class BudgetScore(Record):
    """A space under one budget.

    Attributes:
        budget: In ms, or the unit of the metric.
        share: Of its subnets that meet the budget, 0 to 1.
        score: Q-T score.
        loss: Mean of the best of these subnets; None where none meets the budget.
    """

    budget: float
    share: float
    score: float
    loss: float | None


class SpaceScore(Record):
    """A space under all budgets of all targets.

    Attributes:
        space: Its encoding.
        score: Q-T score: the sum, 0 where the space has a failed cell or meets no budget.
        budgets: In the order in which they were given.
        notes: What is to be said of a score of 0.
    """

    space: str
    score: float
    budgets: tuple[BudgetScore, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SpaceScores:
    """The scores of some spaces.

    Attributes:
        spaces: In the order in which they were asked for.
        evaluator: Which scored them.
    """

    spaces: tuple[SpaceScore, ...]
    evaluator: Evaluator | CombinedEvaluator

    def plots(self) -> dict[str, Figure]:
        """Latency and loss of drawn subnets, by heading."""
        return _subnet_plots(self.evaluator, [one.space for one in self.spaces])

    def _repr_html_(self) -> str:
        return framed(figures.page("Search spaces", self.plots()))


@dataclass(frozen=True, eq=False)
class FoundSpaces:
    """The best spaces of a hyperspace.

    Attributes:
        result: What the search found.
        evaluator: Which scored them.
    """

    result: SpaceSearchResult
    evaluator: Evaluator | CombinedEvaluator

    @property
    def best(self) -> str:
        """Encoding of the space with the highest score."""
        return self.result.best.encoding

    def plots(self) -> dict[str, Figure]:
        """The search, what the spaces within tolerance choose, and subnets of the best one, by heading."""
        hyperspace = self.evaluator.hyperspace
        return {
            "Q-T score over the search": figures.plot_search(self.result),
            "The spaces within tolerance": figures.plot_plateau(self.result),
            "Block types of the spaces within tolerance": figures.plot_block_choices(self.result, hyperspace),
            "Widths of the spaces within tolerance": figures.plot_window_choices(self.result, hyperspace),
            **_subnet_plots(self.evaluator, [self.best]),
        }

    def _repr_html_(self) -> str:
        return framed(figures.page("Search spaces", self.plots()))


def score_spaces(
    encodings: Sequence[str],
    tables: Sequence[TargetTable],
    *,
    metric: str = "latency_ms",
    method: Method = "exact",
    seed: int = 0,
    bins: int = 1024,
    keep_failed: bool = False,
    display: Display | None = None,
) -> SpaceScores:
    """The Q-T score of search spaces: how good their best subnets within budgets are, and how many meet them.

    Args:
        encodings: Of spaces of one hyperspace, for example "micro-014-120".
        tables: One per target; the scores add up.
        metric: Column of the tables that budgets limit.
        method: "exact", or "sampled" as published.
        seed: Of samples.
        bins: Of exact scores over the loss; half as many over the latency.
        keep_failed: Use cells, too, whose block-wise training seems to have failed.
        display: Told which cells are doubtful.

    Raises:
        EncodingError: There is none, or one is malformed, or of another hyperspace.
        ArtifactError: A table is damaged, or lacks rows.
        InfeasibleBudgetError: No subnet meets a budget.
        RecipeError: A budget or setting is out of its range.
    """
    if not encodings:
        raise EncodingError("No search space is named", remedy="Name at least one, for example micro-014-120")
    hyperspace = load_hyperspace(encodings[0].split("-", 1)[0])
    choices = [hyperspace.decode(encoding) for encoding in encodings]
    evaluator = _evaluator(hyperspace, tables, metric, method, seed, bins, keep_failed, display or Logged())
    scored = (_scored(evaluator, encoding, choice) for encoding, choice in zip(encodings, choices, strict=True))
    return SpaceScores(tuple(scored), evaluator)


def search_spaces(
    hyperspace: str,
    tables: Sequence[TargetTable],
    *,
    metric: str = "latency_ms",
    method: Method = "exact",
    seed: int = 0,
    num_spaces: int = 5000,
    population_size: int = 500,
    tournament_size: int = 125,
    tolerance: float = 0.005,
    prove: bool | None = None,
    bins: int = 256,
    keep_failed: bool = False,
    display: Display | None = None,
) -> FoundSpaces:
    """The spaces of a hyperspace with the highest Q-T score, which choices they share, and which choices matter.

    Args:
        hyperspace: A preset, for example "onnxw".
        tables: One per target; the scores add up.
        metric: Column of the tables that budgets limit.
        method: "exact", or "sampled" as published.
        seed: Of the search, and of samples.
        num_spaces: That the evolution scores.
        population_size: Of the evolution.
        tournament_size: Of the evolution.
        tolerance: Relative difference to the best that counts as equally good.
        prove: Bound the score of every other space, too; without it, where that takes seconds.
        bins: Of exact scores over the loss; half as many over the latency.
        keep_failed: Use cells, too, whose block-wise training seems to have failed.
        display: Told which cells are doubtful, and how it goes.

    Raises:
        PluginError: There is no such preset.
        ArtifactError: A table is damaged, or lacks rows.
        InfeasibleBudgetError: No subnet meets a budget.
        RecipeError: A budget or setting is out of its range; or sampled scores are to be proved.
    """
    if prove and method == "sampled":
        raise RecipeError("Only exact scores can be proved: sampled ones are noisy", remedy="Leave `prove` out")
    display = display or Logged()
    preset = load_hyperspace(hyperspace)
    evaluator = _evaluator(preset, tables, metric, method, seed, bins, keep_failed, display)
    is_swept = method == "exact" and (preset.num_spaces <= QUICKLY_SWEPT if prove is None else prove)

    def sweep(best: SpaceChoice, threshold: float) -> Sweep:
        with display.task("Bound all other spaces") as progress:
            return sweep_spaces(evaluator, best, threshold, progress)

    with display.task("Evolve spaces") as progress:
        result = space_search.search_spaces(
            preset,
            evaluator,
            num_spaces=num_spaces,
            population_size=population_size,
            tournament_size=tournament_size,
            tolerance=tolerance,
            seed=seed,
            excluded=evaluator.failed,
            progress=progress,
            sweep=sweep if is_swept else None,
        )
    return FoundSpaces(result, evaluator)


def _evaluator(
    hyperspace: Hyperspace,
    tables: Sequence[TargetTable],
    metric: str,
    method: Method,
    seed: int,
    bins: int,
    keep_failed: bool,
    display: Display,
) -> Evaluator | CombinedEvaluator:
    """That of all tables; tells which cells are doubtful."""
    unit = "ms" if metric == "latency_ms" else metric
    parts: list[Evaluator] = []
    for one in tables:
        path = Path(one.path)
        block_table = load_block_table(path, hyperspace, metric)
        found = doubts(block_table)
        for doubt in found:
            state = "doubtful"
            if doubt.is_failed:
                state = "failed, but used" if keep_failed else "failed, and not used"
            stage = hyperspace.searched[doubt.stage].name if doubt.stage < len(hyperspace.searched) else doubt.stage
            display.say(f"{path.name}, {stage}, block {doubt.block}: {state}: {doubt.reason}.")
        if not keep_failed:
            block_table = without_failed(block_table, found)
        base = one.base if isinstance(one.base, Mapping) else dict.fromkeys(hyperspace.resolutions, one.base)
        if method == "exact":
            num_latency_bins = max(bins // 2, 16)
            parts.append(
                ExactEvaluator(
                    block_table,
                    hyperspace,
                    one.budgets,
                    base,
                    num_loss_bins=bins,
                    num_latency_bins=num_latency_bins,
                    unit=unit,
                )
            )
        else:
            parts.append(SampledEvaluator(block_table, hyperspace, one.budgets, base, seed=seed, unit=unit))
    return parts[0] if len(parts) == 1 else CombinedEvaluator(parts)


def _scored(evaluator: Evaluator | CombinedEvaluator, encoding: str, choice: SpaceChoice) -> SpaceScore:
    qualities, settings, notes = evaluator.assess(choice), evaluator.parts[0].settings, []
    if not evaluator.failed.isdisjoint(enumerate(choice.blocks)):
        notes.append(f"{encoding} uses a failed cell, so its score is 0.")
    else:
        for part in evaluator.parts:
            least = min(part.budgets_ms)
            if any(quality.share == 0 for quality in part.assess(choice)):
                few, closest = ("No", "Hardly any")[part.closest_budget(choice) <= least], part.least_budget(choice)
                notes.append(
                    f"{few} subnet of {encoding} meets {least:g} {part.unit}; "
                    f"the closest feasible budget is {closest:g} {part.unit}."
                )
    budgets = tuple(
        BudgetScore(
            budget=budget,
            share=quality.share,
            score=quality.score(settings),
            loss=quality.loss if quality.share else None,
        )
        for budget, quality in zip(evaluator.budgets_ms, qualities, strict=True)
    )
    return SpaceScore(space=encoding, score=evaluator.score(choice), budgets=budgets, notes=tuple(notes))


def _subnet_plots(evaluator: Evaluator | CombinedEvaluator, encodings: Sequence[str]) -> dict[str, Figure]:
    plots: dict[str, Figure] = {}
    choices = {encoding: evaluator.hyperspace.decode(encoding) for encoding in encodings}
    for number, part in enumerate(evaluator.parts, 1):
        which = f", target {number}" if len(evaluator.parts) > 1 else ""
        draws = {
            encoding: draw_subnets(part, choice, NUM_DRAWN, 0)
            for encoding, choice in choices.items()
            if part.failed.isdisjoint(enumerate(choice.blocks))
        }
        plots[f"Latency of subnets{which}"] = figures.plot_latencies(draws, part.budgets_ms, part.unit)
        within = max(part.budgets_ms)
        plots[f"Loss of subnets within {within:g} {part.unit}{which}"] = figures.plot_losses(draws, within)
    return plots
