"""Trials of near-equal spaces: which are tried, what is chosen, and that a killed run ends alike."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from spaceevo.config import Recipe, load_recipe
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import silent
from spaceevo.records import SpaceSearchResult, SpaceTrial
from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.search.space_search import best_of_block_types, most_trials, of_other_widths
from spaceevo.stages import predict, space

NUM_TRIED = 3


@pytest.fixture
def recipe(tiny: Any, tmp_path: Path) -> Path:
    content = yaml.safe_load(tiny.recipe.read_text())
    content["space"] |= {"tolerance": 0.9, "num_tried": NUM_TRIED, "tried_share": 0.5}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_near_equal_spaces_are_told_apart_by_trials(tiny: Any, tmp_path: Path, cli: Any, recipe: Path) -> None:
    folder = tiny.copy(tmp_path / "run", without=("space",))
    assert (done := cli("space", recipe, "--out", folder)).returncode == 0, done.stderr
    context = Context.of_folder(folder)
    found = result_of(context, space.STAGE).result
    best = best_of_block_types(found, context.hyperspace)
    assert len(best) > NUM_TRIED
    first, then = found.trials[:NUM_TRIED], found.trials[NUM_TRIED:]
    assert tuple(trial.space for trial in first) == best[:NUM_TRIED]
    winner = max(first, key=lambda trial: trial.mean_top1).space
    assert tuple(trial.space for trial in then) == of_other_widths(found, context.hyperspace, winner)[: NUM_TRIED - 1]
    assert 1 <= len(then) <= most_trials(NUM_TRIED) - NUM_TRIED
    assert all(len(trial.top1) == len(found.budgets_ms) for trial in found.trials)
    assert all(0 < top1 < 1 for trial in found.trials for top1 in trial.top1)
    assert len({trial.top1 for trial in found.trials}) > 1
    assert found.chosen == max(found.trials, key=lambda trial: sum(trial.top1)).space
    assert result_of(context, space.STAGE).space.encoding == found.chosen.encoding
    assert not (folder / "space" / space.TRIALS).exists()

    killed = tiny.copy(tmp_path / "killed", without=("space",))
    with tiny.start("space", recipe, "--out", killed) as process:
        while not list(killed.glob("space/trials/*/*-int8.safetensors")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.0005)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (done := cli("space", recipe, "--out", killed)).returncode == 0, done.stderr
    assert SpaceSearchResult.model_validate_json((killed / "space" / "search.json").read_bytes()) == found


def test_the_most_accurate_trial_is_chosen(tiny: Any) -> None:
    found = SpaceSearchResult.model_validate_json((tiny.folder / "space" / "search.json").read_bytes())
    assert found.trials == ()
    assert found.chosen == found.best
    spaces = [found.best, found.best.model_copy(update={"encoding": "tiny-11-11"})]
    for top1s, chosen in (((0.5, 0.7), (0.6, 0.61)), 1), (((0.5, 0.7), (0.6, 0.59)), 0):
        trials = [{"space": one, "top1": top1} for one, top1 in zip(spaces, top1s, strict=True)]
        tried = SpaceSearchResult.model_validate(found.model_dump() | {"trials": trials})
        assert tried.chosen == spaces[chosen]
        assert SpaceSearchResult.model_validate_json(tried.model_dump_json()) == tried


def test_a_budget_that_is_not_met_counts_before_accuracy(tiny: Any) -> None:
    found = SpaceSearchResult.model_validate_json((tiny.folder / "space" / "search.json").read_bytes())
    spaces = [found.best, found.best.model_copy(update={"encoding": "tiny-11-11"})]
    for top1s, chosen in (
        (((None, 0.9), (0.4, 0.3)), 1),
        (((0.0, 0.9), (0.4, 0.3)), 0),
        (((None, None), (0.0, None)), 1),
    ):
        trials = [SpaceTrial(space=one, top1=top1) for one, top1 in zip(spaces, top1s, strict=True)]
        assert found.model_copy(update={"trials": tuple(trials)}).chosen == spaces[chosen]
    assert SpaceTrial(space=found.best, top1=(None, 0.9)).mean_top1 is None
    assert SpaceTrial(space=found.best, top1=(0.5, 0.75)).mean_top1 == 0.625


def test_a_budget_that_no_network_is_found_for_has_no_accuracy(
    tiny: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context.of_folder(tiny.folder)
    monkeypatch.setattr(LatencyPredictor, "network_ms", lambda self, subnet: 1e6)
    trial = space._Trial(result_of(context, space.STAGE).result.best, 0, 1.0, tmp_path / "trial")
    assert space._train(context, result_of(context, predict.STAGE).predictor, trial, silent) is None
    assert not trial.folder.exists()


def test_the_training_of_networks_matters_where_there_are_trials(tiny: Any, recipe: Path) -> None:
    context = Context.of_folder(tiny.folder)

    def inputs(recipe: Recipe, epochs: float) -> dict[str, object]:
        supernet = recipe.supernet.model_copy(update={"epochs_fp32": epochs})
        return space.STAGE.inputs(replace(context, recipe=recipe.model_copy(update={"supernet": supernet})), Path())

    assert inputs(context.recipe, 1) == inputs(context.recipe, 2)
    assert inputs(load_recipe(recipe), 1) != inputs(load_recipe(recipe), 2)
