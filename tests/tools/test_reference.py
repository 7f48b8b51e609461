"""The check against published data: on the reference itself where it is there, and on made-up folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from spaceevo.errors import DataError
from spaceevo.nets.network import program_of
from spaceevo.nets.published import import_supernet
from spaceevo.spaces import encoding
from spaceevo.tools import reference

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the published reference data lie beside the project, and are not there"
)

#: onnxw stage 6, MBv1-dual, window 0: depthwise 3x3 of 192 channels, 1x1 to 304, depthwise 3x3, 1x1; 1x1 shortcut.
#: At size 5: 25 (9 * 192 + 192 * 304 + 9 * 304 + 304 * 304 + 192 * 304) MACs.
MACS = 25 * (9 * 192 + 192 * 304 + 9 * 304 + 304 * 304 + 192 * 304)
PARAMS = MACS // 25 + 2 * (192 + 304 + 304 + 304 + 304) + 3 * 5
ROW = {"stage": 6, "block": 0, "window": 0, "blocks": "3#304#None", "cin": 192, "hw": 5,
       "mflops": round(MACS / 1e6, 4), "mparams": round(PARAMS / 1e6, 4)}  # fmt: skip
SUPERNET = "onnxw-000000-000000"


def write_table(folder, **changes):
    row = ROW | changes
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), folder / "block_lut_onnxw.parquet")


def findings(folder):
    return {finding.name: finding for finding in reference.check(folder)}


def test_a_row_counted_by_hand(tmp_path):
    write_table(tmp_path)
    finding = findings(tmp_path)["block_lut_onnxw.parquet"]
    assert finding.passed
    assert finding.text == "1 of 1 rows have our MACs and parameters"


@pytest.mark.parametrize(
    "changes",
    [
        {"mflops": ROW["mflops"] + 0.0001},
        {"mparams": ROW["mparams"] - 0.0001},
        {"cin": 200},  # no width of stage 5
        {"hw": 6, "mflops": ROW["mflops"]},
        {"hw": 8},  # of no resolution of the tables
        {"window": 4},
        {"window": 3},  # 304 is not in it
        {"block": 6},
        {"stage": 0},
        {"blocks": "7#304#None"},
        {"blocks": "3#304#4"},
        {"blocks": "3#304"},
        {"blocks": "_".join(["3#304#None"] * 3)},
    ],
)
def test_a_row_that_differs_is_told(tmp_path, changes):
    write_table(tmp_path, **changes)
    finding = findings(tmp_path)["block_lut_onnxw.parquet"]
    assert finding.passed is False
    assert "row 0: " in finding.text
    assert len(finding.details["differ"]) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more"])
def test_a_damaged_table(tmp_path, content):
    (tmp_path / "block_lut_onnxw.parquet").write_bytes(content)
    with pytest.raises(DataError, match="block_lut_onnxw"):
        findings(tmp_path)


def test_a_table_that_lacks_a_column(tmp_path):
    pq.write_table(pa.table({"stage": [6]}), tmp_path / "block_lut_onnxw.parquet")
    with pytest.raises(DataError):
        findings(tmp_path)


def test_nothing_known(tmp_path):
    with pytest.raises(DataError, match="no reference data"):
        findings(tmp_path)
    with pytest.raises(DataError, match="No such folder"):
        findings(tmp_path / "missing")


@pytest.mark.parametrize("name", ["published.json", "parity_cases.json"])
def test_damaged_json(tmp_path, name):
    (tmp_path / name).write_text('{"spaces":')
    with pytest.raises(DataError, match=name):
        findings(tmp_path)


def test_encodings(tmp_path):
    published = {"spaces": {"good": SUPERNET, "bad": "onnxw-900000-000000"}, "models": {}}
    (tmp_path / "published.json").write_text(json.dumps(published))
    finding = findings(tmp_path)["published.json"]
    assert finding.passed is False
    assert "1 of 2 encodings" in finding.text
    assert "bad: " in finding.text


def test_rebuilt_tensors_are_a_function_of_key_and_shape():
    shapes = {"a.conv.weight": [2, 1, 3, 3], "a.conv.sw": [1], "a.conv.sa": [1], "a.conv.beta": [1],
              "a.norm.weight": [2], "a.norm.bias": [2], "a.norm.running_mean": [2], "a.norm.running_var": [2],
              "a.norm.num_batches_tracked": []}  # fmt: skip
    state = reference.reference_weights(shapes)
    again = reference.reference_weights(dict(reversed(shapes.items())))
    for key, value in state.items():
        assert list(value.shape) == shapes[key]
        assert np.array_equal(again[key], value)
    assert state["a.conv.beta"][0] / state["a.conv.sa"][0] == -112
    assert state["a.conv.sw"][0] == np.float32(2 * np.abs(state["a.conv.weight"]).max() / 255)
    with pytest.raises(DataError, match="surprise"):
        reference.reference_weights({"a.surprise": [1]})


def shapes_of(space):
    """Keys and shapes of a published checkpoint, by importing what is there until nothing is missing."""
    from spaceevo.nets import published
    from spaceevo.nets.network import Network

    network = Network(space.largest_nodes("published"), 127, torch.Generator())
    kinds = {stage.name: stage.choice.block_type.kind for stage in space.stages}
    shapes = {}
    for weighted in network.weighted_operators():
        module, norm = published._modules(weighted.node.role, kinds)
        shapes[f"{module}.weight"] = list(weighted.weight.shape)
        shapes |= {f"{module}.{leaf}": [1] for leaf in ("sw", "sa", "beta")}
        if weighted.gamma is not None:
            channels = list(weighted.gamma.shape)
            shapes |= {f"{norm}.{leaf}": channels for leaf in ("weight", "bias", "running_mean", "running_var")}
        else:
            shapes[f"{module}.bias"] = list(weighted.bias.shape)
    return shapes


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    """A folder with one supernet and its smallest subnet, the logits our own."""
    folder = tmp_path_factory.mktemp("parity")
    space = reference._space(SUPERNET)
    shapes = shapes_of(space)
    state = {name: torch.from_numpy(value) for name, value in reference.reference_weights(shapes).items()}
    subnet = space.smallest()
    x = torch.from_numpy(reference.reference_images(subnet.resolution))
    cases, logits = [], []
    macs, params = reference.exact_counts(reference.network_program(subnet))
    for mode in ("fp32", "int8"):
        network = import_supernet(state, space, mode == "int8").network
        with torch.no_grad():
            logits.append(network(x, program_of(subnet, "published")).numpy())
        cases.append({"supernet": SUPERNET, "name": "smallest", "subnet": encoding.encode(subnet), "mode": mode,
                      "mflops": macs, "mparams": params})  # fmt: skip
    (folder / "parity_cases.json").write_text(json.dumps(cases))
    (folder / "parity_state_dict_shapes.json").write_text(json.dumps({SUPERNET: shapes}))
    np.savez(folder / "parity_logits.npz", logits=np.stack(logits))
    return folder


def test_parity(parity):
    found = findings(parity)
    assert [finding.passed for finding in found.values()] == [True] * 4
    assert found[f"{SUPERNET} smallest fp32"].details == {"supernet": 0.0, "extracted": 0.0}
    assert "on average" in list(found)[-1]


def test_other_logits_and_counts_fall_short(parity, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(parity, folder)
    logits = np.load(folder / "parity_logits.npz")["logits"]
    np.savez(folder / "parity_logits.npz", logits=logits * np.array([1 + 2e-5, 1.2])[:, None, None])
    cases = json.loads((folder / "parity_cases.json").read_text())
    cases[1]["mflops"] += 0.0001
    (folder / "parity_cases.json").write_text(json.dumps(cases))
    assert [finding.passed for finding in findings(folder).values()] == [False] * 4


def test_parity_without_its_companions_is_skipped(parity, tmp_path):
    shutil.copy(parity / "parity_cases.json", tmp_path)
    found = findings(tmp_path)
    assert found["parity_cases.json"].passed
    assert found["parity"].passed is None
    assert "parity_logits.npz" in found["parity"].text


def test_nothing_in_the_logits_is_executed(parity, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(parity, folder)
    np.savez(folder / "parity_logits.npz", logits=np.array([print], dtype=object))
    with pytest.raises(DataError, match="parity_logits"):
        findings(folder)


@needs_reference
def test_the_published_reference_holds():
    """Everything but the parity of supernets, of which one is enough here: the verb checks all."""
    found = {}
    for finding in reference.check(REFERENCE):
        found[finding.name] = finding
        if finding.name.endswith("int8"):
            break
    assert all(finding.passed for finding in found.values()), found
    rows = [found[f"block_lut_{name}.parquet"].details["num_rows"] for name in ("mobilew", "onnxw")]
    assert rows == [210_000, 132_000]
