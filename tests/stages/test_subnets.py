"""The stage that searches subnets: one Pareto run, interrupted, against the same run in one go."""

import json
from typing import Any

import yaml

from spaceevo.records import SubnetSearchResult


def test_a_pareto_run_serves_every_budget_and_goes_on_where_it_stood(tiny: Any, tmp_path: Any, cli: Any) -> None:
    content = yaml.safe_load(tiny.recipe.read_text())
    content["subnets"] |= {"method": "pareto", "num_generations": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    folder = tiny.copy(tmp_path / "run", without=("subnets", "export"))

    def result() -> SubnetSearchResult:
        done = cli("subnets", recipe, "--out", folder)
        assert done.returncode == 0, done.stderr
        return SubnetSearchResult.model_validate_json((folder / "subnets" / "subnets.json").read_bytes())

    whole = result()
    budgets = json.loads((folder / "predict" / "budgets.json").read_text())["budgets_ms"]
    assert [one.budget_ms for one in whole.found] == budgets
    assert all(one.predicted_ms <= one.budget_ms for one in (*whole.found, *whole.evaluated))
    assert {one.encoding for one in whole.found} <= {one.encoding for one in whole.evaluated}
    points = {(one.predicted_ms, one.top1) for one in whole.front}
    assert [one.predicted_ms for one in whole.front] == sorted(one.predicted_ms for one in whole.front)
    assert all(any(ms <= one.predicted_ms and top1 >= one.top1 for ms, top1 in points) for one in whole.evaluated)

    notes = folder / "subnets" / "evaluated.jsonl"
    lines = notes.read_text().splitlines(keepends=True)
    assert len(lines) == len(whole.evaluated)
    notes.write_text("".join(lines[:6]) + lines[6][:9])  # cut off while it was written
    (folder / "subnets" / "stage.json").unlink()
    again = result()
    assert (again.evaluated, again.front) == (whole.evaluated, whole.front)
    assert len(notes.read_text().splitlines()) == len(lines)
