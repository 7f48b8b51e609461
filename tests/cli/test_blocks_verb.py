"""The verbs `blocks distill` and `blocks table`, and that `blocks RECIPE` is still the stage."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from spaceevo.run.context import Context
from spaceevo.run.run import result_of
from spaceevo.stages import predict
from spaceevo.tools import block_table

TEACHER = """
import torch
from torch import nn


def teacher():
    torch.manual_seed(0)
    widths, strides = (3, 8, 12, 16), (2, 1, 2)
    parts = [nn.Conv2d(a, b, 3, s, 1) for a, b, s in zip(widths, widths[1:], strides)]
    return nn.Sequential(*parts), ["0", "1", "2"]
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    """As few steps as there can be: what they compute is tested elsewhere."""
    (tmp_path / "teacher_of_the_test.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return ("blocks", "distill", "--hyperspace", "tiny", "--data", "digits", "--teacher", "teacher_of_the_test:teacher",
            "--num-images", "32", "--score-images", "16", "--steps-fp32", "1", "--steps-int8", "1", "--batch-size", "4",
            "--substages", "2", "--w-qmax", "63", "--out", tmp_path / "cells")  # fmt: skip


def test_distill_stage_by_stage(cli, words, tmp_path):
    folder = tmp_path / "cells" / "cells"
    done = cli(*words, "--stage", "2", "--block", "1", "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert (cell["stage"], cell["block"], cell["block_type"]) == ("stage2", 1, "mbv3-hard-swish")
    assert "1 cells in" in done.stderr
    before = (folder / "1-1.json").stat().st_mtime_ns
    assert sorted(path.name for path in folder.glob("*.json")) == ["1-1.json"]

    done = cli(*words, "--stage", "stage2")
    assert done.returncode == 0, done.stderr
    assert "mbv2-relu6" in done.stdout
    assert {path.name for path in folder.glob("?-?.json")} == {"1-0.json", "1-1.json"}
    assert (folder / "1-1.json").stat().st_mtime_ns == before
    about = json.loads((tmp_path / "cells" / "distillation.json").read_text())
    assert about["data"]["image_size"] == 24, "the largest resolution"
    assert (about["w_qmax"], about["settings"]["steps_fp32"], about["per_channel"]) == (63, 1, True)

    done = cli("blocks", "table", tmp_path / "cells", "--target", "onnxruntime@fake", "--out", tmp_path / "t.parquet")
    assert done.returncode == 1
    assert "lacks 2 of 4 cells. The first one is stage1, block 0" in done.stderr
    done = cli(*words, "--weight-scales", "per-tensor")
    assert done.returncode == 1
    assert "per_channel was True, is False" in done.stderr


def test_table_of_a_run_for_its_own_target(cli, tiny, tmp_path):
    """Quality and predictor of the run, joined by the verb, are the table that the run itself searched on."""
    target = tmp_path / "target"
    target.mkdir()
    shutil.copy(tiny.folder / "predict" / "predictor.json", target / "predictor-int8.json")
    name = yaml.safe_load(tiny.recipe.read_text())["target"]["name"]
    words = ("blocks", "table", tiny.folder / "blocks", "--target", name, "--target-folder", target,
             "--out", tmp_path / "table.parquet")  # fmt: skip
    done = cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    ours, run = pq.read_table(tmp_path / "table.parquet"), pq.read_table(tiny.folder / "space" / "table.parquet")
    assert ours.select(run.column_names).equals(run)
    result = json.loads(done.stdout)
    context = Context.of_folder(tiny.folder)
    predictor = result_of(context, predict.STAGE).predictor
    base_ms = block_table.base_ms(context.hyperspace, context.data.num_classes, predictor)
    assert {int(resolution): ms for resolution, ms in result["base_latency_ms"].items()} == base_ms
    recorded = json.loads((tiny.folder / "blocks" / "cells.json").read_text())
    assert [(c["stage"], c["block"], c["nsr_int8"], c["attempts"], c["failure"]) for c in result["cells"]] == [
        (c["stage"], c["block"], c["nsr_int8"], c["attempts"], c["failure"]) for c in recorded
    ]
    failed = {(row["stage"], row["block"]) for row in ours.to_pylist() if row["failed"]}
    names = {"stage1": 0, "stage2": 1}
    assert failed == {(names[cell["stage"]], cell["block"]) for cell in recorded if cell["failure"]}

    done = cli(*words)
    assert done.returncode == 0, done.stderr
    option = done.stdout.split("--base-latency ")[1].split()[0]
    done = cli("space", "score", "tiny-00-00", "--table", tmp_path / "table.parquet", "--latency", "5",
               "--base-latency", option)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_table_without_a_predictor(cli, tiny, tmp_path):
    done = cli("blocks", "table", tiny.folder / "blocks", "--target", "onnxruntime@fake", "--target-folder", tmp_path,
               "--out", tmp_path / "t.parquet")  # fmt: skip
    assert done.returncode == 1
    assert "spaceevo target fit onnxruntime@fake" in done.stderr
    done = cli("blocks", "table", tmp_path, "--target", "onnxruntime@fake", "--out", tmp_path / "t.parquet")
    assert done.returncode == 1
    assert "distillation.json" in done.stderr


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("--stage", "7"), 2, "tiny searches stage1, stage2, not stage7"),
        (("--block", "5"), 2, "no block 5"),
        (("--w-qmax", "200"), 2, "less than or equal to 127"),
        (("--steps-fp32", "0"), 1, "'blocks.steps_fp32'"),
        (("--weight-scales", "none"), 1, "'supernet.weight_scales'"),
        (("--data", "digitz"), 1, "no data set 'digitz'"),
        (("--hyperspace", "tine"), 1, "tiny"),
        (("--teacher", "nowhere:teacher"), 1, "cannot be imported"),
        (("--recipe", "nowhere.yaml"), 1, "nowhere.yaml cannot be read"),
    ],
)
def test_errors(cli, words, change, code, told):
    done = cli(*words, *change)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_missing_is_told(cli, tmp_path):
    done = cli("blocks", "distill", "--out", tmp_path, "--data", "digits")
    assert done.returncode == 1
    assert "--hyperspace is missing" in done.stderr


def test_settings_of_a_recipe(cli, words, tiny, tmp_path, monkeypatch):
    from spaceevo.tools import distillation

    seen = []
    monkeypatch.setattr(distillation, "distil", lambda context, *_: seen.append(context.recipe) or [])
    done = cli("blocks", "distill", "--recipe", tiny.recipe, "--out", tmp_path / "cells", "--lr", "0.5", "--seed", "3",
               "--teacher-epochs", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (recipe,) = seen
    assert (recipe.hyperspace, recipe.data.image_size, recipe.data.shift) == ("tiny", 24, 1)
    assert (recipe.blocks.steps_fp32, recipe.blocks.lr, recipe.blocks.teacher.epochs_fp32) == (14, 0.5, 2)
    assert recipe.seed == 3


def test_a_recipe_is_still_the_stage(cli, tmp_path):
    for words in ((tmp_path / "no.yaml",), ("--out", tmp_path, tmp_path / "no.yaml")):
        done = cli("blocks", *words)
        assert done.returncode == 1
        assert "no.yaml cannot be read" in done.stderr
    done = cli("blocks", "--help")
    assert done.returncode == 0
    assert "distill" in done.stdout
