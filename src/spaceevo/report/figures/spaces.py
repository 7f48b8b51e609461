"""Blocks, search spaces and their Q-T scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go

from spaceevo.records import (
    BlockTable,
    SpaceSearchResult,
)
from spaceevo.report.figures.drawing import (
    BLUE,
    FAINT,
    INK,
    MAX_POINTS,
    empty_figure,
    log_ticks,
    lower_front,
    share_of,
    shares_table,
    styles,
    thinned,
)
from spaceevo.spaces.hyperspace import Hyperspace


def plot_search(search: SpaceSearchResult) -> go.Figure:
    """Q-T score over the search: the best so far and the mean of the population."""
    figure = empty_figure("Search spaces evaluated", "Q-T score", height=340)
    for name, color, dash, values in (
        ("best so far", BLUE, "solid", [step.best_score for step in search.history]),
        ("mean of the population", FAINT, "dot", [step.population_mean for step in search.history]),
    ):
        figure.add_scatter(
            x=[step.num_evaluated for step in search.history], y=values, name=name,
            mode="lines" if len(values) > 1 else "markers",
            line={"color": color, "dash": dash, "width": 2.25},
            hovertemplate="%{x} spaces: %{y:.4g}",
        )  # fmt: skip
    return figure


def plot_plateau(search: SpaceSearchResult) -> go.Figure:
    """Q-T score of the spaces within tolerance, best first: how flat the top is."""
    figure = empty_figure("Rank", "Q-T score", height=340, legend=False)
    ranked = list(enumerate(search.within_tolerance, 1))
    drawn = thinned(ranked, MAX_POINTS)
    figure.add_scatter(
        x=[rank for rank, _ in drawn], y=[space.qt_score for _, space in drawn],
        text=[escape(space.encoding) for _, space in drawn], mode="lines+markers" if len(drawn) > 1 else "markers",
        line={"color": BLUE, "width": 1.75}, marker={"color": BLUE, "size": 5},
        hovertemplate="%{x}: %{text}<br>%{y:.5f}<extra></extra>",
    )  # fmt: skip
    return figure


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram as shares: `shares` between consecutive `edges`, one fewer."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


def distribution_numbers(values: Mapping[str, np.ndarray], num_bins: int = 80) -> dict[str, Distribution]:
    """Histograms of several samples over the same bins; a sample without values has no shares.

    Args:
        values: By name, [num].
        num_bins: Between the least and the largest of all values.
    """
    everything = np.concatenate([*values.values(), np.zeros(0)])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, num_bins + 1)
    return {
        name: Distribution(tuple(edges.tolist()), tuple((np.histogram(own, edges)[0] / max(len(own), 1)).tolist()))
        for name, own in values.items()
    }


def plot_latencies(
    draws: Mapping[str, tuple[np.ndarray, np.ndarray]], budgets: Sequence[float], unit: str = "ms"
) -> go.Figure:
    """Latencies of random subnets of search spaces, and the budgets.

    Args:
        draws: By space, loss and latency [num].
        budgets: In the unit of the latencies.
        unit: Of budgets and latencies, for the axis; another than "ms" names another metric.
    """
    name = "Latency" if unit == "ms" else escape(unit)
    figure = _distributions({space: latency for space, (_, latency) in draws.items()},
                            f"{name} ({unit})" if unit == "ms" else name)  # fmt: skip
    for budget in budgets:
        figure.add_vline(
            x=budget, line={"color": INK, "width": 1, "dash": "dash"},
            annotation={"text": f"{budget:g}", "yanchor": "bottom", "xanchor": "center", "y": 1.0,
                        "font": {"size": 12, "color": INK}},
        )  # fmt: skip
    return figure


def plot_losses(draws: Mapping[str, tuple[np.ndarray, np.ndarray]], budget: float) -> go.Figure:
    """NSR losses of those random subnets of search spaces that meet a budget; arguments as in `plot_latencies`."""
    losses = {space: loss[latency <= budget] for space, (loss, latency) in draws.items()}
    return _distributions(losses, "Sum of the stages' NSR losses")


def _distributions(values: Mapping[str, np.ndarray], title: str) -> go.Figure:
    figure = empty_figure(title, "Share of subnets (%)", height=340)
    for style, (name, own) in zip(styles(list(values)), distribution_numbers(values).items(), strict=True):
        middles = [(low + high) / 2 for low, high in zip(own.edges, own.edges[1:], strict=False)]
        figure.add_scatter(
            x=middles, y=[100 * share for share in own.shares], name=escape(name), mode="lines",
            line={"color": style.color, "width": 2, "shape": "hvh"}, hovertemplate="%{x:.4g}: %{y:.2f} %",
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    return figure


@dataclass(frozen=True, slots=True)
class Cloud:
    """Sub-stages of one (stage, block type).

    Attributes:
        block_type: Name of the block type.
        points: (latency_ms, nsr_loss), thinned to at most `MAX_POINTS`.
        front: Lowest NSR loss at each latency, over all sub-stages, by ascending latency.
    """

    block_type: str
    points: tuple[tuple[float, float], ...]
    front: tuple[tuple[float, float], ...]


def block_type_names(hyperspace: Hyperspace) -> tuple[str, ...]:
    """Every block type of the searched stages, in order of first appearance."""
    names = (str(choice.block_type) for stage in hyperspace.searched for choice in stage.choices)
    return tuple(dict.fromkeys(names))


def block_table_numbers(table: BlockTable, hyperspace: Hyperspace) -> dict[str, tuple[Cloud, ...]]:
    """Per searched stage the clouds of its block types; failed cells are left out."""
    clouds = {}
    for s, stage in enumerate(hyperspace.searched):
        of_stage = []
        for b, choice in enumerate(stage.choices):
            rows = np.flatnonzero((table.stage == s) & (table.block == b))
            if len(rows) == 0 or (s, b) in table.failed:
                continue
            pairs = [(float(table.latency_ms[row]), float(table.nsr_loss[row])) for row in rows]
            of_stage.append(Cloud(str(choice.block_type), tuple(thinned(pairs, MAX_POINTS)), lower_front(pairs)))
        clouds[stage.name] = tuple(of_stage)
    return clouds


def plot_block_table(table: BlockTable, hyperspace: Hyperspace) -> dict[str, go.Figure]:
    """Per searched stage one figure: NSR loss against latency, the front of each block type as a line."""
    by_name = {style.name: style for style in styles(block_type_names(hyperspace))}
    figures = {}
    for stage, clouds in block_table_numbers(table, hyperspace).items():
        figure = empty_figure("Predicted latency (ms)", "NSR loss", height=330, legend=False)
        for cloud in clouds:
            style = by_name[cloud.block_type]
            figure.add_scatter(
                x=[x for x, _ in cloud.points], y=[y for _, y in cloud.points], mode="markers",
                hoverinfo="skip", marker={"color": style.color, "size": 3, "opacity": 0.3},
            )  # fmt: skip
        for cloud in clouds:
            style = by_name[cloud.block_type]
            figure.add_scatter(
                x=[x for x, _ in cloud.front], y=[y for _, y in cloud.front], name=escape(cloud.block_type),
                mode="lines+markers", line={"color": style.color, "width": 2, "shape": "hv"},
                marker={"color": style.color, "symbol": style.symbol, "size": 6},
                hovertemplate="%{x:.3g} ms: %{y:.3g}",
            )  # fmt: skip
        figure.update_xaxes(type="log", **log_ticks([x for c in clouds for x, _ in c.points]))
        figure.update_layout(hovermode="closest")
        figures[stage] = figure
    return figures


@dataclass(frozen=True, slots=True)
class ChoiceNumbers:
    """What the spaces within tolerance of the best choose.

    Attributes:
        stages: Searched stages.
        block_types: Names of the block types.
        block_shares: [block type][stage], 0 to 1; None where the stage has no such block type.
        widths: [window][stage], for example "16–24"; empty where the stage has fewer windows.
        window_shares: [window][stage], as `block_shares`.
    """

    stages: tuple[str, ...]
    block_types: tuple[str, ...]
    block_shares: tuple[tuple[float | None, ...], ...]
    widths: tuple[tuple[str, ...], ...]
    window_shares: tuple[tuple[float | None, ...], ...]


def choice_numbers(search: SpaceSearchResult, hyperspace: Hyperspace) -> ChoiceNumbers:
    """Shares among the spaces within tolerance.

    Raises:
        EncodingError: A space is not one of the hyperspace.
    """
    choices = [hyperspace.decode(space.encoding) for space in search.within_tolerance]
    stages = hyperspace.searched
    names = block_type_names(hyperspace)
    blocks: list[list[float | None]] = [[None] * len(stages) for _ in names]
    num_windows = max(stage.num_windows for stage in stages)
    windows: list[list[float | None]] = [[None] * len(stages) for _ in range(num_windows)]
    widths = [[""] * len(stages) for _ in range(num_windows)]
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage.choices):
            share = share_of([choice.blocks[s] == b for choice in choices])
            row = blocks[names.index(str(block.block_type))]
            row[s] = (row[s] or 0.0) + share  # one block type may be there with several kernel sizes
        for w in range(stage.num_windows):
            windows[w][s] = share_of([choice.windows[s] == w for choice in choices])
            window = stage.widths[w : w + stage.window_size]
            widths[w][s] = f"{window[0]}–{window[-1]}" if len(window) > 1 else f"{window[0]}"
    return ChoiceNumbers(
        tuple(stage.name for stage in stages), names, tuple(map(tuple, blocks)),
        tuple(map(tuple, widths)), tuple(map(tuple, windows)),
    )  # fmt: skip


def plot_block_choices(search: SpaceSearchResult, hyperspace: Hyperspace) -> go.Figure:
    """Heat map: share of the spaces within tolerance that take a block type in a stage."""
    numbers = choice_numbers(search, hyperspace)
    texts = [["" if share is None else f"{100 * share:.0f} %" for share in row] for row in numbers.block_shares]
    return shares_table(numbers.stages, numbers.block_types, numbers.block_shares, texts)


def plot_window_choices(search: SpaceSearchResult, hyperspace: Hyperspace) -> go.Figure:
    """Heat map: share of the spaces within tolerance that take a width window in a stage."""
    numbers = choice_numbers(search, hyperspace)
    texts = [
        ["" if share is None else f"{width}: {100 * share:.0f} %" for width, share in zip(*rows, strict=True)]
        for rows in zip(numbers.widths, numbers.window_shares, strict=True)
    ]
    names = [f"window {w}" for w in range(len(texts))]
    return shares_table(numbers.stages, names, numbers.window_shares, texts)
