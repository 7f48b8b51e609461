"""Budgets: what predict accepts goes through every stage, and what binds nothing is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spaceevo import plugins
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.pipeline import any_space, predict, space, supernet
from spaceevo.pipeline.context import Context
from spaceevo.progress import silent
from spaceevo.records import Summary
from spaceevo.report.words import notes
from spaceevo.search.subnet_search import search_subnets


@pytest.fixture
def context(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a copy of the tiny run, up to its blocks."""
    monkeypatch.syspath_prepend(str(next(Path(p) for p in tiny.env["PYTHONPATH"].split(":"))))
    plugins._locations.cache_clear()
    others = ("space", "supernet", "subnets", "finetune", "baselines", "export", "report")
    yield Context.of_folder(tiny.copy(tmp_path / "run", without=others))
    plugins._locations.cache_clear()


def with_budgets(context: Context, *budgets_ms: float) -> Context:
    """As if predict had been run with these."""
    own = replace(context, recipe=context.recipe.model_copy(update={"budgets_ms": budgets_ms}))
    found = predict._budgets(own, predict.load_predictor(own))
    context.path("predict", "budgets.json").write_text(found.model_dump_json(exclude_defaults=True))
    return own


def named(error: InfeasibleBudgetError) -> float:
    """The budget that an error names."""
    return float(error.remedy.split("at least ")[1].split(",")[0].rstrip("."))


def test_the_budget_that_predict_names_goes_through_all_stages(context: Context, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        with_budgets(context, 1e-4, 50.0)
    closest, predictor = named(caught.value), predict.load_predictor(context)
    for budgets in ((closest,), (closest, 50.0)):
        own = with_budgets(context, *budgets)
        folder = own.path("space", "")
        folder.mkdir(exist_ok=True)
        space.run(own, folder, silent)
        found = space.load_space(own)
        assert space.load(own).best.qt_score > 0
        assert found.smallest().cost.macs > 0
        rated = search_subnets(
            found, budgets_ms=predict.load_budgets(own), latency_ms=predictor.network_ms, top1=lambda subnet: 0.5,
            population_size=4, num_generations=0, seed=own.recipe.seed,
        )  # fmt: skip
        assert min(one.latency_ms for one in rated) <= closest
        any_space.trained_subnets(own, found, predictor.network_ms, own.recipe.seed)
    with pytest.raises(InfeasibleBudgetError):
        with_budgets(context, 0.98 * closest * 0.99)


def test_spaces_are_compared_by_what_the_table_can_tell(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose rows are all slower than the smallest sub-stages, as of few draws."""
    predictor = predict.load_predictor(context)
    smallest_ms = predict._budgets(context, predictor).smallest_ms
    table_of = space.blocks.with_latency

    def slow(*words: Any) -> Any:
        table = table_of(*words)
        return replace(table, latency_ms=2 * table.latency_ms)

    monkeypatch.setattr(space.blocks, "with_latency", slow)
    own, folder = with_budgets(context, 1.02 * smallest_ms, 50.0), context.path("space", "")
    folder.mkdir(exist_ok=True)
    space.run(own, folder, silent)
    found = space.load(own)
    assert found.budgets_ms[0] > predict.load_budgets(own)[0]
    best = space.load_space(own).smallest()
    resolutions = [replace(best, resolution=resolution) for resolution in own.hyperspace.resolutions]
    assert min(map(predictor.network_ms, resolutions)) <= 1.02 * smallest_ms
    (note,) = space.notes(own)
    assert f"fast enough for {1.02 * smallest_ms:g} ms" in note


def test_what_a_budget_cannot_be_met_without_is_used_although_it_failed(context: Context) -> None:
    predictor, hyperspace = predict.load_predictor(context), context.hyperspace
    least, smallest_ms = predict.fastest(predictor, hyperspace, context.data.num_classes)
    own, folder = with_budgets(context, 1.001 * smallest_ms), context.path("space", "")
    folder.mkdir(exist_ok=True)
    path = own.path("blocks", "cells.json")
    cells = json.loads(path.read_text())
    slow = 1 - least.blocks[1]
    for cell in cells:
        failed = {("stage1", least.blocks[0]), ("stage2", slow)}
        cell["failure"] = "no" if (cell["stage"], cell["block"]) in failed else ""
    path.write_text(json.dumps(cells))
    space.run(own, folder, silent)
    needed, other = (f"{stage.name}/{stage.choices[block].block_type}"
                     for stage, block in zip(hyperspace.searched, (least.blocks[0], slow), strict=True))  # fmt: skip
    assert space.load(own).excluded == (other,)
    assert space.load_space(own).encoding.startswith(f"tiny-{least.blocks[0]}{least.blocks[1]}-")
    assert space.notes(own)[0].startswith(f"Without {needed} no subnet meets {1.001 * smallest_ms:g} ms")
    assert [bool(cell.failure) for cell in space.judged_cells(own)].count(True) == 1
    space.run(with_budgets(context, 50.0), folder, silent)
    assert set(space.load(own).excluded) == {needed, other}, "only where it has to be"
    assert space.notes(with_budgets(context, 50.0)) == []


def test_a_budget_that_only_diverged_block_types_meet_is_refused_with_another(context: Context) -> None:
    predictor, hyperspace = predict.load_predictor(context), context.hyperspace
    least, smallest_ms = predict.fastest(predictor, hyperspace, context.data.num_classes)
    own, folder = with_budgets(context, 1.001 * smallest_ms), context.path("space", "")
    folder.mkdir(exist_ok=True)
    path = own.path("blocks", "cells.json")
    cells = json.loads(path.read_text())
    for cell in cells:
        cell["failure"] = "no" if (cell["stage"], cell["block"]) == ("stage1", least.blocks[0]) else ""
    path.write_text(json.dumps(cells))
    table = space.blocks.load_table(own)
    is_lost = (table.stage == 0) & (table.block == least.blocks[0])
    lost = replace(table, nsr_loss=np.where(is_lost, np.nan, table.nsr_loss))
    space.blocks.write_table(own.path("blocks", "table.parquet"), vars(lost))
    with pytest.raises(InfeasibleBudgetError, match=r"without stage1/.*, whose distillation diverged") as caught:
        space.run(own, folder, silent)
    space.run(with_budgets(context, named(caught.value)), folder, silent)
    assert space.load_space(own).encoding[5] != str(least.blocks[0])


def test_budgets_that_bind_nothing_are_told_and_searched_once(context: Context, tiny: Any) -> None:
    predictor = predict.load_predictor(context)
    largest_ms = predict.slowest(predictor, context.hyperspace, context.data.num_classes).latency_ms
    within = 0.9 * largest_ms
    own = with_budgets(context, within, 1.1 * largest_ms, 20.0, 1000.0)
    assert predict.load_budgets(own) == (within, 1.1 * largest_ms)
    first, second = predict.notes(own)
    assert f"A budget of {1.1 * largest_ms:g} ms binds nothing" in first
    assert f"{largest_ms:.3g} ms" in first
    assert second == "20 and 1000 ms are not searched: they would find the same."
    with_budgets(context, within, within * (1 + 1e-9))
    assert predict.load_budgets(own) == (within,), "both would be written alike, in the names of files too"
    assert predict.notes(own) == [f"{within:g} ms is not searched: it would find the same."]
    with_budgets(context, within)
    assert predict.notes(own) == []
    before = json.loads((tiny.folder / "predict" / "budgets.json").read_text())
    assert before.keys() == {"budgets_ms", "smallest_ms"}, "nothing more where all is well: digests stay"
    summary = Summary.model_validate_json((tiny.folder / "summary.json").read_bytes())
    assert summary.notes == ()
    assert notes(summary.model_copy(update={"notes": (first,)}))[0] == first


def test_limits_that_no_subnet_meets_are_refused_before_the_supernet_is_trained(tiny: Any, context: Context) -> None:
    own = replace(context, run=replace(context.run, path=tiny.folder))
    found, predictor = space.load_space(own), predict.load_predictor(own)
    for limit, fails in ((1e-6, True), (100.0, False)):
        subnets = own.recipe.subnets.model_copy(update={"limits": {"activation-memory-mib": limit}})
        limited = replace(own, recipe=own.recipe.model_copy(update={"subnets": subnets}))
        if not fails:
            any_space.check_limits(limited, found, predictor.network_ms)
            continue
        with pytest.raises(InfeasibleBudgetError, match="exceeds activation-memory-mib by"):
            any_space.check_limits(limited, found, predictor.network_ms)
        with pytest.raises(InfeasibleBudgetError, match="exceeds activation-memory-mib by"):
            supernet.run(limited, limited.path("supernet", ""), silent)
