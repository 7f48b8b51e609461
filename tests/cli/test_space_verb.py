"""The verbs `space score` and `space search`, and that `space RECIPE` is still the stage."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from made_tables import write_table
from spaceevo.spaces.hyperspace import load_hyperspace

MICRO = load_hyperspace("micro")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "table.parquet")


def test_score(cli, table, tmp_path):
    done = cli("space", "score", "micro-111-000", "micro-333-000", "micro-101-000", "--table", table,
               "--latency", "1.6,2.5", "--base-latency", "0.1", "--bins", "128", "--plots", tmp_path / "plots.html",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second, third = json.loads(done.stdout)
    assert first["score"] == pytest.approx(sum(term["score"] for term in first["budgets"]))
    assert [term["budget"] for term in first["budgets"]] == [1.6, 2.5]
    assert first["score"] > second["score"] > third["score"] == 0
    assert "stage2, block 0: failed, and not used" in done.stderr
    assert "micro-101-000 uses a failed cell" in done.stderr
    page = (tmp_path / "plots.html").read_text()
    assert "Loss of subnets within 2.5 ms" in page
    assert "micro-111-000" in page
    sampled = cli("space", "score", "micro-111-000", "--table", table, "--latency", "1.6", "--latency", "2.5",
                  "--base-latency", "0.1", "--evaluator", "sampled", "--json")  # fmt: skip
    assert json.loads(sampled.stdout)[0]["score"] == pytest.approx(first["score"], rel=0.02)


def test_a_budget_that_one_space_misses(cli, tmp_path):
    path = write_table(tmp_path / "table.parquet")
    columns = pq.read_table(path).to_pydict()
    columns["latency_ms"] = [
        ms + 5 * (block == 2) for ms, block in zip(columns["latency_ms"], columns["block"], strict=True)
    ]
    pq.write_table(pa.table(columns), path)
    done = cli("space", "score", "micro-112-000", "--table", path, "--latency", "3")
    assert done.returncode == 0, done.stderr
    assert "No subnet of micro-112-000 meets 3 ms; the closest feasible budget is 5." in done.stdout


def test_search(cli, table, tmp_path):
    words = ("--hyperspace", "micro", "--table", table, "--latency", "2", "--bins", "64", "--num-spaces", "150",
             "--population-size", "30", "--tournament-size", "8")  # fmt: skip
    done = cli("space", "search", *words, "--no-prove", "--json", "--plots", tmp_path / "plots.html")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["best"]["encoding"].startswith("micro-111-")
    assert result["excluded"] == ["stage2/" + str(MICRO.searched[1].choices[0].block_type)]
    assert result["bound"] is None
    assert result["sampled_score"] is None
    block = next(c for c in result["choices"] if (c["stage"], c["kind"], c["index"]) == ("stage1", "block", 1))
    assert block["share"] == 1
    assert block["loss_without"] > 0.005
    assert "The spaces within tolerance" in (tmp_path / "plots.html").read_text()
    text = cli("space", "search", *words, "--evaluator", "sampled", "--seed", "3")
    assert text.returncode == 0, text.stderr
    assert "is the best of" in text.stdout


def test_search_with_proof(cli, table, tmp_path):
    words = ("--hyperspace", "micro", "--latency", "2", "--num-spaces", "60", "--population-size", "20",
             "--tournament-size", "5")  # fmt: skip
    done = cli("space", "search", "--table", write_table(tmp_path / "table.parquet", num_rows=150), *words)
    assert done.returncode == 0, done.stderr
    assert "is the best of all 10,000 spaces" in done.stdout
    # With few rows per cell sums are not smooth enough: partly done where the proof was asked for, a word elsewhere.
    write_table(tmp_path / "few.parquet", num_rows=20)
    done = cli("space", "search", "--table", tmp_path / "few.parquet", *words)
    assert done.returncode == 0, done.stderr
    assert "No proof: The scores of all spaces cannot be bounded" in done.stdout
    done = cli("space", "search", "--table", tmp_path / "few.parquet", *words, "--prove")
    assert done.returncode == 3
    assert "A cell has 20 rows" in done.stdout


def test_two_targets(cli, table, tmp_path):
    other = write_table(tmp_path / "other.parquet", seed=1)
    words = ("space", "score", "micro-111-000", "--bins", "64", "--json")
    both = cli(*words, "--table", table, "--latency", "2", "--table", other, "--latency", "1.5,3")
    parts = [cli(*words, "--table", table, "--latency", "2"), cli(*words, "--table", other, "--latency", "1.5,3")]
    score, *scores = (json.loads(done.stdout)[0]["score"] for done in (both, *parts))
    assert score == pytest.approx(sum(scores))
    done = cli(*words, "--table", table, "--table", other, "--latency", "1", "--latency", "2", "--latency", "3")
    assert done.returncode == 2
    assert "once per table" in done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nsr_loss": float("nan")}, "1 rows with a NSR loss that is not a positive number"),
        ({"latency_ms": -1.0}, "1 rows with a latency that is not a positive number"),
        ({"block": 9}, "names block 9 in stage1. Allowed there: 0 to 4"),
        ({"window": 9}, "names width window 9 in stage1"),
        ({"stage": 9}, "names stage 9"),
    ],
)
def test_bad_tables(cli, tmp_path, changed, message):
    path = write_table(tmp_path / "table.parquet", **changed)
    done = cli("space", "search", "--hyperspace", "micro", "--table", path, "--latency", "2")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_stage_and_infeasible_budget(cli, table, tmp_path):
    rows = pq.read_table(table)
    path = tmp_path / "table.parquet"
    pq.write_table(rows.filter(pa.compute.not_equal(rows["stage"], 1)), path)
    done = cli("space", "search", "--hyperspace", "micro", "--table", path, "--latency", "2")
    assert done.returncode == 1
    assert "The block table has no rows for stage2. It has rows for stage1, stage3." in done.stderr
    done = cli("space", "search", "--hyperspace", "micro", "--table", table, "--latency", "0.1")
    assert done.returncode == 1
    assert "The closest feasible budget is 0." in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--latency", "fast"), "'fast' is not a number"),
        (("--latency", "2", "--base-latency", "32=x"), "'x' is not a number"),
        (("--latency", "2", "--base-latency", "32=1,x"), "is not resolution=latency"),
        (("--latency", "2", "--evaluator", "best"), "neither exact nor sampled"),
        (("--latency", "2", "--evaluator", "sampled", "--prove"), "sampled ones are noisy"),
    ],
)
def test_bad_options(cli, table, words, message):
    done = cli("space", "search", "--hyperspace", "micro", "--table", table, *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_recipe_is_still_the_stage(cli, tmp_path):
    for words in ((tmp_path / "no.yaml",), ("--out", tmp_path, tmp_path / "no.yaml"),
                  ("recipe", tmp_path / "no.yaml")):  # fmt: skip
        done = cli("space", *words)
        assert done.returncode == 1
        assert "no.yaml cannot be read" in done.stderr
    done = cli("space", "--help")
    assert done.returncode == 0
    assert "score" in done.stdout
