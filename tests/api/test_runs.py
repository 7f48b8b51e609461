"""A run from Python."""

import logging

import pytest
import yaml

import spaceevo
from spaceevo.errors import ArtifactError, RecipeError
from spaceevo.stages import supernet


@pytest.mark.usefixtures("plugin")
def test_results_of_a_finished_run(tiny) -> None:
    run = spaceevo.Run.open(tiny.folder)
    assert isinstance(run, spaceevo.Run)
    summary = run.report.summary
    assert run.models == summary.models
    assert run.baselines == summary.baselines
    assert [found.budget_ms for found in run.subnets] == [model.budget_ms for model in run.models]
    assert run.space.chosen.encoding == summary.space.encoding
    assert run.assessment.spearman == summary.predictor.spearman
    assert run.study.rows
    assert (run.folder / run.models[0].int8_file).exists()
    assert run[supernet.STAGE].curve
    assert repr(run) == f"Run('tiny', '{tiny.folder}')"


@pytest.mark.usefixtures("plugin")
def test_a_notebook_shows_the_report(tiny) -> None:
    run = spaceevo.Run.open(tiny.folder)
    shown = run._repr_html_()
    assert shown == run.report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "&lt;h1" in shown
    assert "<h1" not in shown


@pytest.mark.usefixtures("plugin")
def test_what_is_not_finished_is_an_error_and_no_page(tiny, tmp_path) -> None:
    run = spaceevo.Run(tiny.recipe, tmp_path / "run")
    assert run._repr_html_() is None
    with pytest.raises(ArtifactError, match="no finished stage 'export'"):
        _ = run.models
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("plugin")
def test_until_goes_on_where_a_run_stood(tiny, tmp_path, caplog) -> None:
    folder = tiny.copy(tmp_path / "run", without=("report",))
    with caplog.at_level(logging.INFO, "spaceevo"):
        run = spaceevo.Run(yaml.safe_load(tiny.recipe.read_text()), folder).until("report")
    assert run.report.summary.models
    done = [record.getMessage() for record in caplog.records if "done before" in record.getMessage()]
    assert len(done) == 9


def test_recipes_in_every_form(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"name": "mine", "data": {"name": "digits"}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    forms = [content, path, str(path), spaceevo.load_recipe(path)]
    runs = [spaceevo.Run(form) for form in forms]
    assert all(run.context.recipe == runs[0].context.recipe for run in runs)
    assert {str(run.folder) for run in runs} == {"runs/mine"}
    with pytest.raises(RecipeError, match=r"'dat'.*'data'"):
        spaceevo.Run({"name": "mine", "dat": {}})
