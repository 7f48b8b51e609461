from __future__ import annotations

import pytest
from made_up_report import make_target
from rich.console import Console

from spaceevo.records import ComparedNetwork, ComparedSpace, Comparison, FrontPoint
from spaceevo.report import comparison as compared, figures, html
from spaceevo.report.console import comparison_tables


def network(budget_ms: float, top1: float, int8_ms: float) -> ComparedNetwork:
    return ComparedNetwork(budget_ms=budget_ms, encoding="d1", macs=3_000_000, int8_ms=int8_ms, fp32_ms=2 * int8_ms,
                           top1_int8=top1, top1_fp32=top1 + 0.01)  # fmt: skip


@pytest.fixture
def comparison() -> Comparison:
    searched = ((network(1.0, 0.7, 0.9), network(2.0, 0.8, 1.9)), (network(1.0, 0.6, 1.0), network(2.0, 0.9, 1.8)))
    others = ((network(2.0, 0.5, 1.5),), ())  # the smaller budget is met by no seed, the larger one by one
    spaces = (
        ComparedSpace(name="searched", kind="searched", encoding="micro-000-000", networks=searched, fronts=((), ()),
                      hypervolumes=(1.0, 1.2), hypervolume_interval=(0.9, 1.3)),
        ComparedSpace(name="<b>hand", kind="hand-made", encoding="x--", networks=others, fronts=((), ()),
                      hypervolumes=(0.5, 0.0), hypervolume_interval=(0.1, 0.8)),
        ComparedSpace(name="alone", kind="network", encoding="", networks=((), ()), fronts=((), ()),
                      hypervolumes=(9.0, 9.0), hypervolume_interval=None),
    )  # fmt: skip
    return Comparison(target=make_target(), data="digits", num_val_images=100, budgets_ms=(1.0, 2.0), reference_ms=2.2,
                      reference_top1=0.1, seeds=(0, 1), spaces=spaces)  # fmt: skip


def test_means_over_seeds(comparison: Comparison) -> None:
    small, large = compared.means(comparison, comparison.spaces[0])
    assert (small.budget_ms, small.num_seeds, small.int8_ms) == (1.0, 2, pytest.approx(0.95))
    assert (small.top1_int8, small.lowest, small.highest) == (pytest.approx(0.65), 0.6, 0.7)
    assert (large.top1_fp32, large.speedup, large.macs) == (pytest.approx(0.86), 2.0, 3_000_000)
    (only,) = compared.means(comparison, comparison.spaces[1])
    assert (only.budget_ms, only.num_seeds) == (2.0, 1)
    assert compared.means(comparison, comparison.spaces[2]) == ()


def test_the_sentence(comparison: Comparison) -> None:
    assert compared.headline(comparison) == (
        "The searched space covers 340.0 % more area than the best other space, <b>hand."
    )
    searched, other, alone = comparison.spaces
    worse = searched.model_copy(update={"hypervolumes": (0.1, 0.3), "hypervolume_interval": (0.0, 0.4)})
    text = compared.headline(comparison.model_copy(update={"spaces": (worse, other, alone)}))
    assert text == (
        "The searched space covers 20.0 % less area than the best other space, <b>hand; "
        "the intervals of the two overlap."
    )
    assert "alone" in compared.headline(comparison.model_copy(update={"spaces": (searched, alone)}))


def test_page_plot_and_tables(comparison: Comparison) -> None:
    page = html.render_comparison(comparison)
    assert "<b>hand" not in page
    assert "&lt;b&gt;hand" in page
    figure = figures.plot_comparison(comparison)
    assert [trace.name for trace in figure.data] == ["searched", "&lt;b&gt;hand", "alone"]
    assert figure.data[0].y == pytest.approx((65, 85))
    assert figure.data[0].error_y.array == pytest.approx((5, 5))
    front = (
        FrontPoint(encoding="d1", int8_ms=0.8, top1_int8=0.55),
        FrontPoint(encoding="d2", int8_ms=1.7, top1_int8=0.8),
    )
    searched = comparison.spaces[0].model_copy(update={"fronts": (front, front[:1])})
    figure = figures.plot_comparison(comparison.model_copy(update={"spaces": (searched, *comparison.spaces[1:])}))
    assert [trace.legendgroup for trace in figure.data[:2]] == ["searched"] * 2
    assert figure.data[1].x == (0.8, 1.7, 0.8)
    assert figure.data[1].y == pytest.approx((55, 80, 55))
    console = Console(width=80, record=True)
    for table in comparison_tables(comparison):
        console.print(table)
    text = console.export_text()
    assert "0.950 ms" in text
    assert "0.9 – 1.3" in text
    assert "…" not in text
