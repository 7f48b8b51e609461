"""Scores and searches of spaces from Python: the same as by verb, which has tests of its own."""

import json

import pytest

import spaceevo
from made_tables import write_table
from spaceevo.errors import EncodingError, RecipeError


@pytest.fixture
def tables(tmp_path):
    return [spaceevo.TargetTable(write_table(tmp_path / "table.parquet"), [1.5, 2.0], 0.1)]


def test_scores_are_those_of_the_verb(cli, tables):
    spaces = ["micro-111-000", "micro-222-111"]
    found = spaceevo.score_spaces(spaces, tables, bins=128)
    done = cli("space", "score", *spaces, "--table", tables[0].path, "--latency", "1.5,2", "--base-latency", 0.1,
               "--bins", 128, "--json")  # fmt: skip
    assert json.loads(done.stdout) == json.loads(json.dumps([space.model_dump() for space in found.spaces]))
    assert all(space.score > 0 for space in found.spaces)
    assert [term.budget for term in found.spaces[0].budgets] == [1.5, 2.0]
    assert "Latency of subnets" in found.plots()
    assert found._repr_html_().startswith("<iframe")


def test_search(tables):
    found = spaceevo.search_spaces(
        "micro", tables, bins=32, num_spaces=40, population_size=10, tournament_size=4, prove=False
    )
    assert found.best == found.result.within_tolerance[0].encoding
    (scored,) = spaceevo.score_spaces([found.best], tables, bins=32).spaces
    assert scored.score == found.result.best.qt_score
    assert "The spaces within tolerance" in found.plots()


def test_what_is_refused(tables):
    with pytest.raises(RecipeError, match="Only exact scores can be proved"):
        spaceevo.search_spaces("micro", tables, method="sampled", prove=True)
    with pytest.raises(EncodingError, match="No search space"):
        spaceevo.score_spaces([], tables)
    with pytest.raises(EncodingError):
        spaceevo.score_spaces(["micro-111-000", "onnxw-111-000"], tables)
