"""A stage of a third party, typed off CONTRIBUTING.md: a verb, a part of every run, in plan and report."""

import json
import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from made_rates import RATES
from spaceevo import plugins
from spaceevo.errors import PluginError
from spaceevo.run.context import Context
from spaceevo.run.run import Run, given_to
from spaceevo.run.stage import LAST, STAGES, Given, in_order, load_stage, needs_of

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
ABOUT = "Count the training images of every class."


@pytest.fixture
def typed_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any) -> Any:
    """The stage as a module of a third party, with its entry point."""
    source = re.search(r"```python\n# stages/class_counts\.py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert source
    (tmp_path / "of_a_third_party.py").write_text(source[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    found = plugins.entry_points

    def with_it(group: str) -> Any:
        entry = EntryPoint("class-counts", "of_a_third_party", group)
        return [*found(group=group), *([entry] if group == "spaceevo.stages" else [])]

    monkeypatch.setattr(plugins, "entry_points", with_it)
    plugins._locations.cache_clear()
    yield
    sys.modules.pop("of_a_third_party", None)
    plugins._locations.cache_clear()


def test_one_file_is_a_stage_a_verb_a_row_of_the_plan_and_a_section(
    typed_off: Any, tiny: Any, tmp_path: Path, cli: Any
) -> None:
    assert STAGES.about("class-counts") == ABOUT
    assert ABOUT in " ".join(cli("class-counts", "--help").stdout.split())
    folder = tiny.copy(tmp_path / "run")
    done = cli("run", tiny.recipe, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "[10/11] Count the images of every class" in done.stdout
    assert done.stdout.count("done before") == 9, "all but the new stage and the report"
    page = (folder / "report.html").read_text()
    assert "<h2>Classes</h2>" in page
    counts = json.loads((folder / "class-counts" / "counts.json").read_text())["counts"]
    assert sum(counts.values()) == 1617
    assert f'<tr><th scope="row">0</th><td>{counts["0"]}</td></tr>' in page
    (tmp_path / "rates.json").write_text(RATES.model_dump_json())
    planned = cli("plan", tiny.recipe, "--out", folder, "--rates", tmp_path / "rates.json", "--json")
    assert planned.returncode == 0, planned.stderr
    rows = {stage["name"]: stage for stage in json.loads(planned.stdout)["stages"]}
    assert rows["class-counts"]["took_seconds"] is not None
    checked = cli("verify", folder, "--files")
    assert checked.returncode == 0, checked.stdout
    assert "class-counts" not in checked.stdout, "nothing of it is unknown"


def test_another_version_of_the_code_is_made_anew(typed_off: Any, tiny: Any, tmp_path: Path, cli: Any) -> None:
    folder, module = tiny.copy(tmp_path / "run"), STAGES.load("class-counts")
    run = Run.open(folder).until("class-counts")
    first = (folder / "class-counts" / "stage.json").read_bytes()
    assert run.until("class-counts").folder == folder
    assert (folder / "class-counts" / "stage.json").read_bytes() == first
    module.__dict__["STAGE"] = replace(module.STAGE, version=2)
    run.until("class-counts")
    assert json.loads((folder / "class-counts" / "stage.json").read_bytes())["input_hash"] not in first.decode()
    assert run[module.STAGE].counts["0"] > 100


def test_the_first_version_has_the_hash_of_runs_that_noted_none(tiny: Any, cli: Any) -> None:
    assert {stage.version for stage in in_order(LAST)} == {1}
    done = cli("run", tiny.recipe, "--out", tiny.folder)
    assert done.stdout.count("done before") == len(in_order(LAST))


def test_what_a_report_gathers(typed_off: Any, tiny: Any) -> None:
    report, counted = load_stage("report"), load_stage("class-counts")
    assert needs_of(report) == (*report.needs, counted)
    given = Given(report, lambda stage: counted_of(tiny.folder) if stage is counted else None)
    (section,) = given.sections()
    assert section.title == "Classes"


def counted_of(folder: Path) -> Any:
    context = Context.of_folder(folder)
    stage = load_stage("class-counts")
    return stage.make(context, given_to(context, "class-counts"), folder, lambda done, total: None)


def test_a_file_and_its_stage_have_one_name(typed_off: Any) -> None:
    module = STAGES.load("class-counts")
    module.__dict__["STAGE"] = replace(module.STAGE, name="counts")
    with pytest.raises(PluginError, match=r"is named otherwise\. counts"):
        load_stage("class-counts")


def test_nothing_is_made_for_a_recipe_that_is_wrong(tiny: Any, tmp_path: Path, cli: Any) -> None:
    content = yaml.safe_load(tiny.recipe.read_text()) | {"hyperspace": "tinny"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert cli("report", tmp_path / "r.yaml", "--out", tmp_path / "run").returncode == 1
    assert not (tmp_path / "run").exists()
