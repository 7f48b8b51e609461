"""Extracted networks on disk: the same numbers come back, and nothing else is taken for one."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file

from spaceevo.errors import ArtifactError, ExportError, NoSpaceError
from spaceevo.graph.graphs import IntegerWeights, QuantParams
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.nets.extracted import digest, load_extracted, save_extracted
from spaceevo.records import ExtractedNetwork
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import network_program


def extracted(preset="micro", seed=0, w_qmax=127):
    hyperspace = load_hyperspace(preset)
    rng = random.Random(seed)
    subnet = replace(hyperspace.space(hyperspace.sample(rng), 10).sample(rng), resolution=32)
    program = network_program(subnet)
    metadata = {"class_names": json.dumps([f"class {index}" for index in range(10)]), "spaceevo.w_qmax": str(w_qmax)}
    return ExtractedNetwork(random_integer_graph(program, seed, w_qmax), random_float_graph(program, seed), metadata)


def same(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


@settings(max_examples=12)
@given(preset=st.sampled_from(["micro", "mobilew", "onnxw", "mobilenetv4"]), seed=st.integers(0, 1000))
def test_round_trip(tmp_path_factory, preset, seed):
    network = extracted(preset, seed)
    path = tmp_path_factory.mktemp("extracted") / "net.safetensors"
    save_extracted(path, network)
    again = load_extracted(path)
    assert again.metadata == network.metadata
    assert again.integer.nodes == again.floating.nodes == network.integer.nodes
    assert again.integer.quant_params == network.integer.quant_params
    for name, own in network.integer.weights.items():
        other = again.integer.weights[name]
        assert all(same(getattr(own, what), getattr(other, what)) for what in ("codes", "scales", "bias"))
    for name, own in network.floating.weights.items():
        other = again.floating.weights[name]
        assert same(own.weight, other.weight)
        assert same(own.bias, other.bias)
    assert digest(again.integer) == digest(network.integer)
    first = path.read_bytes()
    save_extracted(path, again)
    assert path.read_bytes() == first


def changed(graph, what):
    name = graph.nodes[1].id
    own, params = graph.weights[name], graph.quant_params[name]
    quant_params, weights = dict(graph.quant_params), dict(graph.weights)
    match what:
        case "scale":
            quant_params[name] = QuantParams(float(np.nextafter(np.float32(params.scale), np.float32(9))), 0)
        case "zero_point":
            quant_params[name] = QuantParams(params.scale, params.zero_point + 1)
        case "code":
            codes = own.codes.copy()
            codes.flat[0] ^= 1
            weights[name] = IntegerWeights(codes, own.scales, own.bias)
        case "bias":
            weights[name] = IntegerWeights(own.codes, own.scales, own.bias + np.int32(1))
    return replace(graph, quant_params=quant_params, weights=weights)


@pytest.mark.parametrize("what", ["scale", "zero_point", "code", "bias"])
def test_the_digest_sees_every_number(what):
    graph = extracted().integer
    assert digest(changed(graph, what)) != digest(graph)
    assert digest(changed(graph, "nothing")) == digest(graph)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.safetensors"
    save_extracted(path, extracted())
    return path


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "text"])
def test_damaged_files(path, damage):
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("weights")
    with pytest.raises(ArtifactError, match="no extracted network that spaceevo wrote"):
        load_extracted(path)


def _notes(path):
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["spaceevo"])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda notes, tensors: notes.update(format="other"), "format is 'other'"),
        (lambda notes, tensors: notes["program"][0].update(kind="teleport"), "kind"),
        (lambda notes, tensors: notes["program"].pop(), "head/logits"),
        (lambda notes, tensors: tensors.pop("int8/stem/0/conv/bias"), "int8/stem/0/conv/bias"),
        (
            lambda notes, tensors: tensors.update({"int8/stem/0/conv/bias": np.zeros(3, np.int32)}),
            r"int8/stem/0/conv/bias is int32 \[3\]",
        ),
        (
            lambda notes, tensors: tensors.update({"int8/scales": tensors["int8/scales"][1:]}),
            "shorter|longer",
        ),
        (lambda notes, tensors: tensors["int8/scales"].__setitem__(0, 0.0), "int8/scales holds 0 to .*positive"),
        (lambda notes, tensors: tensors["int8/scales"].__setitem__(0, np.inf), "int8/scales holds .* to inf"),
        (lambda notes, tensors: tensors["int8/zero_points"].__setitem__(0, 300), "300; codes are 0 to 255"),
        (
            lambda notes, tensors: tensors["int8/stem/0/conv/scales"].__setitem__(2, np.nan),
            "conv/scales holds .*finite",
        ),
        (lambda notes, tensors: tensors["fp32/stem/0/conv/weight"].fill(np.nan), "conv/weight holds .*not finite"),
    ],
)
def test_foreign_content(path, change, found):
    notes, tensors = _notes(path), load_file(path)
    change(notes, tensors)
    save_file(tensors, path, metadata={"spaceevo": json.dumps(notes)})
    with pytest.raises(ArtifactError, match=found):
        load_extracted(path)


def test_files_of_an_earlier_version(path):
    notes, tensors = _notes(path), load_file(path)
    notes.update(format="spaceevo-extracted-1")
    save_file(tensors, path, metadata={"spaceevo": json.dumps(notes)})
    with pytest.raises(ArtifactError, match="of an earlier version of spaceevo") as caught:
        load_extracted(path)
    assert "spaceevo-extracted-1" in str(caught.value)
    assert "Export the run again with this version" in str(caught.value)


def test_files_that_break_the_contract(path):
    notes, tensors = _notes(path), load_file(path)
    tensors["int8/stem/0/conv/codes"].flat[0] = -128  # fits int8, but not the symmetric range
    save_file(tensors, path, metadata={"spaceevo": json.dumps(notes)})
    with pytest.raises(ArtifactError, match="stem/0/conv has weight codes from -128"):
        load_extracted(path)


def test_networks_that_break_the_contract(tmp_path):
    network, name = extracted(), "stem/0/conv"
    weights = dict(network.integer.weights)
    codes = weights[name].codes.copy()
    codes.flat[0] = -128
    weights[name] = replace(weights[name], codes=codes)
    broken = replace(network, integer=replace(network.integer, weights=weights))
    with pytest.raises(ExportError, match="stem/0/conv has weight codes from -128"):
        save_extracted(tmp_path / "net.safetensors", broken)
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpaceError):
        save_extracted(tmp_path / "file" / "net.safetensors", extracted())
