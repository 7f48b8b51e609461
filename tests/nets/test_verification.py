"""What `verify` sees: numbers worked out by hand, and faults put into ONNX files one constant or node at a time."""

import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from spaceevo.errors import ArtifactError
from spaceevo.graph.ops import Conv, Depthwise
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.nets.extracted import digest
from spaceevo.nets.verification import DIGEST, compare, first_difference, verify
from spaceevo.runtimes import onnxruntime as runtime
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program

pytestmark = pytest.mark.usefixtures("one_thread")


def test_agreement_by_hand():
    reference = torch.tensor([[0.0, 255.0], [100.0, 50.0]])  # steps of 1
    logits = torch.tensor([[0.0, 254.0], [49.0, 50.0]])
    found = compare(logits, reference)
    assert found.top1 == 0.5
    assert found.identical_codes == 0.5  # 0 and 50
    assert found.mean_steps == pytest.approx((1 + 51) / 4)
    assert found.max_steps == pytest.approx(51)


def test_half_a_step_is_another_code_only_across_a_border():
    reference = torch.tensor([[0.0, 255.0, 10.4, 10.4]])
    found = compare(torch.tensor([[0.0, 255.0, 10.0, 10.6]]), reference)
    assert found.identical_codes == 0.75


def test_constant_logits_and_nan():
    assert compare(torch.ones(2, 3), torch.ones(2, 3)).mean_steps == 0
    found = compare(torch.full((2, 3), torch.nan), torch.eye(3)[:2])
    assert not found.mean_steps <= 0.1  # so the bound is broken


def program():
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(SpaceChoice((4, 2, 1), (0, 0, 0)), 10)
    return network_program(replace(space.sample(random.Random(3)), resolution=32))


GRAPH = random_integer_graph(program(), 3, 63)
IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.onnx"
    runtime.export_int8(GRAPH, path, {DIGEST: digest(GRAPH)})
    return path


def verification(path):
    batches = [IMAGES[:10], IMAGES[10:]]
    return verify(path, "onnxruntime", GRAPH, batches, torch.arange(16) % 10, "x86-vnni", min_agreement=0.99)


def test_untouched(file):
    found = verification(file)
    assert found.problems == ()
    assert found.first_difference == ""
    assert found.integer.max_steps == 0


def edit(path, name, change):
    """Change one constant of a file."""
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    onnx.save(model, path)


def names(suffix):
    return [
        o.id
        for o in GRAPH.nodes
        if isinstance(o.op, Conv | Depthwise) and not isinstance(o.op, Depthwise) and o.in_shape.height > 1
    ][3] + suffix


@pytest.mark.parametrize(
    ("suffix", "change"),
    [
        ("|q_scale", lambda a: (a * 1.02).astype(np.float32)),
        ("|q_zero_point", lambda a: (a + 3).astype(np.uint8)),
        ("|x0_scale", lambda a: (a * 1.02).astype(np.float32)),  # of one reader only
        ("|x0_zero_point", lambda a: (a + 3).astype(np.uint8)),
        ("|w_codes", lambda a: np.roll(a, 1, axis=0)),
        ("|w_scales", lambda a: (a * 1.05).astype(np.float32)),
        ("|b_codes", lambda a: -a),
    ],
)
def test_every_constant_counts(file, suffix, change):
    edit(file, names(suffix), change)
    found = verification(file)
    assert found.changed_constants == (names(suffix),)
    assert "1 constants are not the network's" in found.problems[0]
    assert found.integer.max_steps > 0
    assert found.first_difference == names("")
    assert 0.01 < found.differing_codes <= 1


def test_one_bit_that_changes_no_class_is_still_told(file):
    edit(file, names("|w_scales"), lambda a: np.nextafter(a, np.float32(9)))
    found = verification(file)
    assert found.integer.top1 == 1
    assert found.changed_constants == (names("|w_scales"),)
    assert found.problems


def test_swapped_zero_points(file):
    free = [o.id for o in GRAPH.nodes if isinstance(o.op, Conv | Depthwise) and o.out.quantizer == "free"]
    a, b = free[1], next(n for n in free if GRAPH.quant_params[n].zero_point != GRAPH.quant_params[free[1]].zero_point)
    for ours, theirs in ((a, b), (b, a)):
        edit(file, f"{ours}|q_zero_point", lambda _, t=theirs: np.array(GRAPH.quant_params[t].zero_point, np.uint8))
    found = verification(file)
    assert set(found.changed_constants) == {f"{a}|q_zero_point", f"{b}|q_zero_point"}
    order = [o.id for o in GRAPH.nodes]
    assert found.first_difference == min(a, b, key=order.index)


def drop_quantizer(path, name):
    """Readers of a tensor take the floats before its quantizer."""
    model = onnx.load(path)
    nodes = model.graph.node
    (quantize,) = (node for node in nodes if node.output[0] == name)
    readers = {node.output[0] for node in nodes if name in node.input}
    for node in nodes:
        node.input[:] = [quantize.input[0] if value in readers else value for value in node.input]
    dropped = {name} | readers
    for node in [node for node in nodes if node.output[0] in dropped]:
        nodes.remove(node)
    used = {value for node in nodes for value in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    onnx.save(model, path)


def test_dropped_quantizer(file):
    drop_quantizer(file, names(""))
    found = verification(file)
    assert any(name.startswith(names("|q_")) for name in found.changed_constants)
    assert found.float_operators
    assert any("computed in float" in problem for problem in found.problems)
    assert found.first_difference == names("")
    assert found.differing_codes == 1


def test_logits_are_where_it_differs_when_nothing_before_does(file):
    edit(file, "head/logits|w_codes", lambda a: -a)
    found = verification(file)
    assert found.changed_constants == ("head/logits|w_codes",)
    assert found.integer.top1 < 0.9
    assert found.first_difference == "head/logits"


def test_another_network_in_the_same_form_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    runtime.export_int8(GRAPH, path, {})
    with pytest.raises(ArtifactError, match=r"exported from another network.*missing"):
        verification(path)


def test_bisection_reads_few_tensors(file, monkeypatch):
    edit(file, names("|q_scale"), lambda a: (a * 1.02).astype(np.float32))
    read = []
    session = runtime.Session

    def counting(path, threads=1, taps=()):
        read.extend(taps)
        return session(path, threads, taps)

    monkeypatch.setattr(runtime, "Session", counting)
    assert first_difference(file, runtime, GRAPH, IMAGES[:2])[0] == names("")
    assert len(read) <= 1 + int(np.log2(len(GRAPH.nodes)))
