"""Block tables from files: parquet and CSV folders alike, a run's, bad ones, and failed cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spaceevo.errors import DataError
from spaceevo.records import BlockTable
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.search.tables import doubts, load_block_table, without_failed
from spaceevo.spaces.hyperspace import Hyperspace, load_hyperspace

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
ONNXW = load_hyperspace("onnxw")
DOWNSAMPLING = (2, 4, 8, 16, 16, 32)  # of the input of stages 1 to 6


def released(num_rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """A small table with the columns of the released ones, a row per resolution and more."""
    rng = np.random.default_rng(seed)
    rows = [
        (index + 1, block, window, resolution // DOWNSAMPLING[index])
        for index, stage in enumerate(ONNXW.searched)
        for block in range(len(stage.choices))
        for window in range(stage.num_windows)
        for resolution in (160, 192, 224)
        for _ in range(num_rows)
    ]
    stage, block, window, size = np.array(rows).T
    return {
        "stage": stage, "block": block, "window": window,
        "blocks": np.array(["3#32#None_5#48#4.0"] * len(rows)), "cin": np.full(len(rows), 32), "hw": size,
        "nsr_loss": rng.uniform(0.2, 0.9, len(rows)).round(4), "mflops": rng.uniform(5, 9, len(rows)).round(4),
        "mparams": rng.uniform(1, 2, len(rows)).round(4), "latency_ms": rng.uniform(0.5, 2, len(rows)).round(4),
    }  # fmt: skip


def write(columns: dict[str, np.ndarray], path: Path) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def write_folder(columns: dict[str, np.ndarray], folder: Path) -> Path:
    folder.mkdir()
    keys = np.stack([columns[name] for name in ("stage", "block", "window")], axis=1)
    for key in np.unique(keys, axis=0):
        lines = []
        for row in np.flatnonzero((keys == key).all(axis=1)):
            value = {name: column[row] for name, column in columns.items()}
            numbers = ",".join(f"{value[name]:.4f}" for name in ("nsr_loss", "mflops", "mparams", "latency_ms"))
            lines.append(f"{value['blocks']},1x{value['cin']}x{value['hw']}x{value['hw']},{numbers}\n")
        (folder / "stage{}_{}_{}.csv".format(*key)).write_text("".join(lines))
    (folder / "README.md").write_text("Not a table.")
    return folder


def assert_equal(one: BlockTable, other: BlockTable) -> None:
    """The same rows in any order."""
    names = ("stage", "block", "window", "resolution", "nsr_loss", "latency_ms", "macs", "num_params", "in_width")
    first, second = (np.stack([np.asarray(getattr(t, name), float) for name in names]) for t in (one, other))
    np.testing.assert_array_equal(first[:, np.lexsort(first)], second[:, np.lexsort(second)])


def test_parquet_and_folder_are_the_same_table(tmp_path: Path) -> None:
    columns = released()
    one = load_block_table(write(columns, tmp_path / "table.parquet"), ONNXW)
    assert_equal(one, load_block_table(write_folder(columns, tmp_path / "table"), ONNXW))
    assert set(one.resolution.tolist()) == {160, 192, 224}
    assert one.stage.min() == 0
    assert one.macs[0] == round(columns["mflops"][0] * 1e6)
    budget = ExactEvaluator(one, ONNXW, [7.0], dict.fromkeys(ONNXW.resolutions, 0.0))
    assert budget.score(ONNXW.decode("onnxw-151122-023231")) > 0


def test_any_column_can_be_the_metric(tmp_path: Path) -> None:
    columns = released()
    table = load_block_table(write(columns, tmp_path / "table.parquet"), ONNXW, "mflops")
    assert table.latency_ms.tolist() == columns["mflops"].tolist()
    with pytest.raises(DataError, match="no column energy_mj"):
        load_block_table(tmp_path / "table.parquet", ONNXW, "energy_mj")
    with pytest.raises(DataError, match="mean mflops"):
        load_block_table(tmp_path / "table.parquet", ONNXW, "mflop")


def test_table_of_a_run(tmp_path: Path) -> None:
    columns = {"stage": [0, 1], "block": [0, 1], "window": [1, 0], "resolution": [32, 48], "nsr_loss": [0.5, 0.25],
               "latency_ms": [1.0, 2.0], "macs": [10, 20], "num_params": [3, 4], "in_width": [8, 8],
               "blocks": ["3#8#0", "3#8#0"], "size_bytes": [5, 6]}  # fmt: skip
    path = write(columns, tmp_path / "table.parquet")
    table = load_block_table(path, load_hyperspace("micro"), "size_bytes")
    assert (table.stage.tolist(), table.resolution.tolist()) == ([0, 1], [32, 48])
    assert table.latency_ms.tolist() == [5.0, 6.0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("stage", 7, "inputs of size 80 in stage7"), ("stage", 0, "rows for stage0"), ("hw", 81, "inputs of size 81"),
     ("nsr_loss", "high", "does not hold numbers"), ("block", "x", "does not hold numbers")],
)  # fmt: skip
def test_bad_values(tmp_path: Path, column: str, value: object, message: str) -> None:
    columns = {name: values.astype(object) for name, values in released().items()}
    columns[column][0] = value
    if column == "stage" and value == 0:
        columns["hw"][0] = 80
    lists = {name: ([str(v) for v in values] if isinstance(value, str) and name == column else values.tolist())
             for name, values in columns.items()}  # fmt: skip
    with pytest.raises(DataError, match=message):
        load_block_table(write(lists, tmp_path / "table.parquet"), ONNXW)


def test_failed_cells_of_our_own_tables_stay_failed(tmp_path: Path) -> None:
    columns = released()
    columns["failed"] = (columns["stage"] == 3) & (columns["block"] == 2)
    assert load_block_table(write(columns, tmp_path / "table.parquet"), ONNXW).failed == {(2, 2)}


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("no")
    for path in (tmp_path / "no.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(DataError, match="cannot be read"):
            load_block_table(path, ONNXW)
    with pytest.raises(DataError, match=r"No file stageS_B_W\.csv"):
        load_block_table(tmp_path, ONNXW)
    for text in ("3#32#None,1x32x80,0.5,1,1,1\n", "3#32#None,1x32x80x80,0.5\n", "", "a,bxc,d\n"):
        (tmp_path / "stage1_0_0.csv").write_text(text)
        with pytest.raises(DataError, match="stage1_0_0"):
            load_block_table(tmp_path, ONNXW)


def made(stage_losses: dict[int, tuple[float, float, float]]) -> BlockTable:
    """One stage; per block type the lowest and the highest loss, and its size."""
    parts = [(block, np.linspace(low, high, 9), size) for block, (low, high, size) in stage_losses.items()]
    block = np.concatenate([np.full(9, number) for number, _, _ in parts])
    size = np.concatenate([np.full(9, size) for _, _, size in parts])
    zeros = np.zeros(len(block), dtype=int)
    loss = np.concatenate([losses for _, losses, _ in parts])
    return BlockTable(zeros, block, zeros, zeros + 32, loss, zeros + 1.0, size, size, zeros, zeros)


@pytest.mark.parametrize(
    ("blocks", "failed", "doubtful"),
    [
        ({0: (0.4, 0.6, 1.0), 1: (0.3, 0.5, 5.0)}, set(), set()),
        ({0: (0.4, 0.6, 1.0), 1: (0.94, 0.99, 0.5)}, {1}, set()),  # nothing learnt
        ({0: (0.4, 0.6, 1.0), 1: (0.61, 0.8, 5.0)}, {1}, set()),  # wholly above a much smaller one
        ({0: (0.4, 0.6, 4.0), 1: (0.61, 0.8, 5.0)}, set(), {1}),  # wholly above one that is a little smaller
        ({0: (0.4, 0.6, 1.0), 1: (0.55, 0.75, 5.0)}, set(), {1}),  # in the median
        ({0: (0.4, 0.6, 5.0), 1: (0.61, 0.8, 1.0)}, set(), set()),  # the smaller one may be worse
        ({0: (0.4, 0.6, 1.0), 1: (np.nan, np.nan, 5.0)}, {1}, set()),
    ],
)
def test_doubts(blocks: dict[int, tuple[float, float, float]], failed: set[int], doubtful: set[int]) -> None:
    table = made(blocks)
    found = doubts(table)
    assert {doubt.block for doubt in found if doubt.is_failed} == failed
    assert {doubt.block for doubt in found if not doubt.is_failed} == doubtful
    assert without_failed(table, found).failed == {(0, block) for block in failed}


@pytest.mark.parametrize("lacking", ["macs", "num_params"])
def test_where_a_size_is_not_told_no_block_type_is_smaller(lacking: str) -> None:
    table = made({0: (0.4, 0.6, 1.0), 1: (0.61, 0.8, 5.0), 2: (0.94, 0.99, 0.5)})
    told = doubts(table)
    found = doubts(replace(table, **{lacking: None}))
    assert {doubt.block for doubt in told} == {1, 2}
    assert [doubt.block for doubt in found] == [2]
    assert found == doubts(replace(table, **{lacking: np.zeros(27)})), "as in version 0.2.0, where 0 stood for it"


def test_columns_that_a_table_lacks_are_none(tmp_path: Path) -> None:
    columns = released()
    path = write({k: v for k, v in columns.items() if k not in ("mflops", "blocks", "cin")}, tmp_path / "t.parquet")
    table = load_block_table(path, ONNXW)
    assert (table.macs, table.blocks, table.in_width) == (None, None, None)
    assert table.num_params is not None
    assert table.num_params[0] == round(columns["mparams"][0] * 1e6)
    assert doubts(table) == doubts(replace(load_block_table(write(columns, path), ONNXW), macs=None))


def test_single_wrong_losses_are_no_failure() -> None:
    """They are an error of the table, not of a training."""
    table = made({0: (0.4, 0.6, 1.0)})
    loss = table.nsr_loss.copy()
    loss[0] = np.nan
    assert not any(doubt.is_failed for doubt in doubts(replace(table, nsr_loss=loss)))


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[Hyperspace, BlockTable]]:
    """The released tables."""
    if not REFERENCE.exists():
        pytest.skip("no reference data beside the repository")
    pairs = {name: load_hyperspace(name) for name in ("onnxw", "mobilew")}
    return {name: (own, load_block_table(REFERENCE / f"block_lut_{name}.parquet", own)) for name, own in pairs.items()}


def test_the_failed_cell_is_flagged_and_no_other(tables) -> None:  # type: ignore[no-untyped-def]
    failed = {name: {(d.stage, d.block) for d in doubts(t) if d.is_failed} for name, (_, t) in tables.items()}
    assert failed == {"onnxw": {(4, 1)}, "mobilew": set()}
    assert {(d.stage, d.block) for d in doubts(tables["onnxw"][1])} >= {(2, 2)}, "stage 3, block 2 is doubtful"


@pytest.mark.parametrize(
    ("name", "budgets", "encoding", "score", "error"),
    [
        ("onnxw", [10.0], "onnxw-151122-023231", 0.401, 0.001),
        ("onnxw", [15.0], "onnxw-121122-133333", 0.4378, 0.001),
        ("mobilew", [15.0, 20.0], "mobilew-122222-155400", 0.770, 0.002),
        ("mobilew", [15.0, 20.0], "mobilew-112220-154410", 0.775, 0.002),
    ],
)
def test_published_spaces(tables, name, budgets, encoding, score, error) -> None:  # type: ignore[no-untyped-def]
    hyperspace, table = tables[name]
    base = dict.fromkeys(hyperspace.resolutions, 0.0)
    finest = ExactEvaluator(table, hyperspace, budgets, base, num_loss_bins=1024, num_latency_bins=512)
    exact = finest.score(hyperspace.decode(encoding))
    assert exact == pytest.approx(score, abs=error)
    default = ExactEvaluator(table, hyperspace, budgets, base).score(hyperspace.decode(encoding))
    assert default == pytest.approx(exact, rel=1e-3)


def test_best_spaces(tables) -> None:  # type: ignore[no-untyped-def]
    """The best of all spaces, as the sweep of `benchmarks/space_search.py` proves, by the finest setting."""
    for name, budgets, encoding, least in (
        ("onnxw", [10.0], "onnxw-131121-022230", 0.4028),
        ("onnxw", [15.0], "onnxw-121122-123231", 0.4402),
        ("mobilew", [15.0, 20.0], "mobilew-112220-154201", 0.7775),
    ):
        hyperspace, table = tables[name]
        base = dict.fromkeys(hyperspace.resolutions, 0.0)
        finest = ExactEvaluator(table, hyperspace, budgets, base, num_loss_bins=1024, num_latency_bins=512)
        assert finest.score(hyperspace.decode(encoding)) >= least
