"""Budgets: what predict accepts goes through every stage, and what binds nothing is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_stages import made, notes_of
from spaceevo import plugins
from spaceevo.errors import InfeasibleBudgetError
from spaceevo.records import Summary
from spaceevo.report.words import notes
from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.search.subnet_search import search_subnets
from spaceevo.stages import _any_space, blocks, predict, space, supernet
from spaceevo.tools.block_table import write_table


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
    found = predict._budgets(own, result_of(own, predict.STAGE).predictor)
    (context.run.path / "predict" / "budgets.json").write_text(found.model_dump_json(exclude_defaults=True))
    return own


def named(error: InfeasibleBudgetError) -> float:
    """The budget that an error names."""
    return float(error.remedy.split("at least ")[1].split(",")[0].rstrip("."))


def test_the_budget_that_predict_names_goes_through_all_stages(context: Context, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        with_budgets(context, 1e-4, 50.0)
    closest, predictor = named(caught.value), result_of(context, predict.STAGE).predictor
    for budgets in ((closest,), (closest, 50.0)):
        own = with_budgets(context, *budgets)
        made(own, space.STAGE)
        found = result_of(own, space.STAGE).space
        assert result_of(own, space.STAGE).result.best.qt_score > 0
        assert found.smallest().cost.macs > 0
        budgets_ms = result_of(own, predict.STAGE).budgets_ms
        rated = search_subnets(
            found, budgets_ms=budgets_ms, latency_ms=predictor.network_ms, top1=lambda subnet: 0.5,
            population_size=4, num_generations=0, seed=own.recipe.seed,
        )  # fmt: skip
        assert min(one.latency_ms for one in rated) <= closest
        _any_space.trained_subnets(own, found, predictor.network_ms, budgets_ms, own.recipe.seed)
    with pytest.raises(InfeasibleBudgetError):
        with_budgets(context, 0.98 * closest * 0.99)


def test_spaces_are_compared_by_what_the_table_can_tell(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose rows are all slower than the smallest sub-stages, as of few draws."""
    predictor = result_of(context, predict.STAGE).predictor
    smallest_ms = predict._budgets(context, predictor).smallest_ms
    table_of = space.with_latency

    def slow(*words: Any) -> Any:
        table = table_of(*words)
        return replace(table, latency_ms=2 * table.latency_ms)

    monkeypatch.setattr(space, "with_latency", slow)
    own = with_budgets(context, 1.02 * smallest_ms, 50.0)
    made(own, space.STAGE)
    found = result_of(own, space.STAGE).result
    assert found.budgets_ms[0] > result_of(own, predict.STAGE).budgets_ms[0]
    best = result_of(own, space.STAGE).space.smallest()
    resolutions = [replace(best, resolution=resolution) for resolution in own.hyperspace.resolutions]
    assert min(map(predictor.network_ms, resolutions)) <= 1.02 * smallest_ms
    (note,) = notes_of(own, space.STAGE)
    assert f"fast enough for {1.02 * smallest_ms:g} ms" in note


def test_what_a_budget_cannot_be_met_without_is_used_although_it_failed(context: Context) -> None:
    predictor, hyperspace = result_of(context, predict.STAGE).predictor, context.hyperspace
    least, smallest_ms = predict.fastest(predictor, hyperspace, context.data.num_classes)
    own = with_budgets(context, 1.001 * smallest_ms)
    path = own.run.path / "blocks" / "cells.json"
    cells = json.loads(path.read_text())
    slow = 1 - least.blocks[1]
    for cell in cells:
        failed = {("stage1", least.blocks[0]), ("stage2", slow)}
        cell["failure"] = "no" if (cell["stage"], cell["block"]) in failed else ""
    path.write_text(json.dumps(cells))
    made(own, space.STAGE)
    needed, other = (f"{stage.name}/{stage.choices[block].block_type}"
                     for stage, block in zip(hyperspace.searched, (least.blocks[0], slow), strict=True))  # fmt: skip
    assert result_of(own, space.STAGE).result.excluded == (other,)
    assert result_of(own, space.STAGE).space.encoding.startswith(f"tiny-{least.blocks[0]}{least.blocks[1]}-")
    assert notes_of(own, space.STAGE)[0].startswith(f"Without {needed} no subnet meets {1.001 * smallest_ms:g} ms")
    judged = space.judged_cells(result_of(own, space.STAGE).result, result_of(own, blocks.STAGE).cells)
    assert [bool(cell.failure) for cell in judged].count(True) == 1
    made(with_budgets(context, 50.0), space.STAGE)
    assert set(result_of(own, space.STAGE).result.excluded) == {needed, other}, "only where it has to be"
    assert notes_of(with_budgets(context, 50.0), space.STAGE) == []


def test_a_budget_that_only_diverged_block_types_meet_is_refused_with_another(context: Context) -> None:
    predictor, hyperspace = result_of(context, predict.STAGE).predictor, context.hyperspace
    least, smallest_ms = predict.fastest(predictor, hyperspace, context.data.num_classes)
    own = with_budgets(context, 1.001 * smallest_ms)
    path = own.run.path / "blocks" / "cells.json"
    cells = json.loads(path.read_text())
    for cell in cells:
        cell["failure"] = "no" if (cell["stage"], cell["block"]) == ("stage1", least.blocks[0]) else ""
    path.write_text(json.dumps(cells))
    table = result_of(own, blocks.STAGE).table
    is_lost = (table.stage == 0) & (table.block == least.blocks[0])
    lost = replace(table, nsr_loss=np.where(is_lost, np.nan, table.nsr_loss))
    write_table((own.run.path / "blocks" / "table.parquet"), vars(lost))
    with pytest.raises(InfeasibleBudgetError, match=r"without stage1/.*, whose distillation diverged") as caught:
        made(own, space.STAGE)
    made(with_budgets(context, named(caught.value)), space.STAGE)
    assert result_of(own, space.STAGE).space.encoding[5] != str(least.blocks[0])


def test_budgets_that_bind_nothing_are_told_and_searched_once(context: Context, tiny: Any) -> None:
    predictor = result_of(context, predict.STAGE).predictor
    largest_ms = predict.slowest(predictor, context.hyperspace, context.data.num_classes).latency_ms
    within = 0.9 * largest_ms
    own = with_budgets(context, within, 1.1 * largest_ms, 20.0, 1000.0)
    assert result_of(own, predict.STAGE).budgets_ms == (within, 1.1 * largest_ms)
    first, second = notes_of(own, predict.STAGE)
    assert f"A budget of {1.1 * largest_ms:g} ms binds nothing" in first
    assert f"{largest_ms:.3g} ms" in first
    assert second == "20 and 1000 ms are not searched: they would find the same."
    with_budgets(context, within, within * (1 + 1e-9))
    assert result_of(own, predict.STAGE).budgets_ms == (within,), (
        "both would be written alike, in the names of files too"
    )
    assert notes_of(own, predict.STAGE) == [f"{within:g} ms is not searched: it would find the same."]
    with_budgets(context, within)
    assert notes_of(own, predict.STAGE) == []
    before = json.loads((tiny.folder / "predict" / "budgets.json").read_text())
    assert before.keys() == {"budgets_ms", "smallest_ms"}, "nothing more where all is well: digests stay"
    summary = Summary.model_validate_json((tiny.folder / "summary.json").read_bytes())
    assert summary.notes == ()
    assert notes(summary.model_copy(update={"notes": (first,)}))[0] == first


def test_limits_that_no_subnet_meets_are_refused_before_the_supernet_is_trained(tiny: Any, context: Context) -> None:
    own = replace(context, run=replace(context.run, path=tiny.folder))
    found, predictor = result_of(own, space.STAGE).space, result_of(own, predict.STAGE).predictor
    budgets_ms = result_of(own, predict.STAGE).budgets_ms
    for limit, fails in ((1e-6, True), (100.0, False)):
        subnets = own.recipe.subnets.model_copy(update={"limits": {"activation-memory-mib": limit}})
        limited = replace(own, recipe=own.recipe.model_copy(update={"subnets": subnets}))
        if not fails:
            _any_space.check_limits(limited, found, predictor.network_ms, budgets_ms)
            continue
        with pytest.raises(InfeasibleBudgetError, match="exceeds activation-memory-mib by"):
            _any_space.check_limits(limited, found, predictor.network_ms, budgets_ms)
        with pytest.raises(InfeasibleBudgetError, match="exceeds activation-memory-mib by"):
            made(limited, supernet.STAGE)
