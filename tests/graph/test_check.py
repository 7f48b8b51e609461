"""The contract as rules: each, broken once by hand, is found and told; every network of ours keeps them."""

import random
from dataclasses import replace

import numpy as np
import pytest

from spaceevo.errors import ExportError
from spaceevo.graph.check import check, faults, program_faults
from spaceevo.graph.graphs import IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.nodes import INPUT
from spaceevo.graph.ops import Conv, Depthwise, Gate, Linear, MaxPool, Multiply, Quantize
from spaceevo.graph.tensors import FIXED_QUANTIZERS, RELU6_MAX_SCALE, Shape, Tensor, square
from spaceevo.graph.trace import Tracer, published
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.subnet import network_program
from spaceevo.spaces.zoo import load_network, zoo

SCALE = float(np.float32(RELU6_MAX_SCALE))


def numbered(program, w_qmax=127):
    """A program with numbers that keep the contract."""
    rng = np.random.default_rng(0)
    params: dict[str, QuantParams] = {}
    weights = {}
    for node in program:
        match node.out.quantizer:
            case "gate" | "hard_sigmoid_input" as fixed:
                params[node.id] = QuantParams(*FIXED_QUANTIZERS[fixed])
            case "input":
                params[node.id] = params[node.inputs[0]]
            case "relu" | "relu6":
                params[node.id] = QuantParams(SCALE, 0)
            case "free":
                params[node.id] = QuantParams(0.25, 100)
        if node.has_weights:
            channels = node.out_shape.channels
            weights[node.id] = IntegerWeights(
                rng.integers(-w_qmax, w_qmax + 1, node.weight_shape).astype(np.int8),
                np.full(channels, 0.5, np.float32),
                np.zeros(channels, np.int32),
            )
    return IntegerGraph(program, params, weights)


def changed(program, node_id, **changes):
    """The program with fields of one node changed; of its output too."""
    out = {name: changes.pop(name) for name in ("shape", "quantizer", "stays_float") if name in changes}
    return tuple(
        replace(node, out=node.out._replace(**out), **changes) if node.id == node_id else node for node in program
    )


def moved(program, node_id, to):
    nodes = [node for node in program if node.id != node_id]
    nodes.insert(to, next(node for node in program if node.id == node_id))
    return tuple(nodes)


@pytest.fixture
def graph(every_operator):
    return numbered(every_operator)


def test_what_keeps_the_contract(graph):
    assert list(faults(graph)) == []
    check(graph)
    assert list(faults(numbered(graph.nodes, 63), 63)) == []


@pytest.mark.parametrize("name", PRESETS.names())
def test_every_preset_keeps_the_rules(name):
    rng = random.Random(name)
    hyperspace = load_hyperspace(name)
    choices = [hyperspace.sample(rng) for _ in range(10)]
    spaces = [hyperspace.space(choice, 10) for choice in choices]
    for space in spaces:
        for subnet in (space.smallest(), space.largest(), space.sample(rng), space.sample(rng)):
            assert program_faults(network_program(subnet)) == ()


@pytest.mark.parametrize("name", zoo())
def test_every_network_of_the_zoo_keeps_the_rules(name):
    program = network_program(load_network(name).subnet)
    assert program_faults(program) == ()
    assert isinstance(program[-1].op, Linear)


def test_the_published_placement_is_none_of_devices(every_operator):
    assert program_faults(published(every_operator))


#: What is done to the program of `every_operator`, and what is told of it.
BROKEN = {
    "empty": (lambda p: (), "The first node does not quantize the input"),
    "no input": (lambda p: p[1:], "The first node does not quantize the input"),
    "another input": (lambda p: changed(p, INPUT, inputs=("image",)), "The first node does not quantize the input"),
    "twice": (lambda p: (*p[:2], p[1], *p[2:]), "stem is there twice"),
    "unknown input": (
        lambda p: changed(p, "smaller", inputs=("root",)),
        "smaller reads root, which no node before it puts out",
    ),
    "order": (
        lambda p: moved(p, "stem", 3),
        "smaller reads stem, which no node before it puts out",
    ),
    "one term": (lambda p: changed(p, "add", inputs=("se/scale",)), "add reads 1 tensors"),
    "two inputs": (lambda p: changed(p, "pool", inputs=("mix", "mix")), "pool reads 2 tensors"),
    "shape read": (
        lambda p: changed(p, "smaller", in_shape=Shape(8, 10, 6)),
        "smaller reads 8 x 6 x 10, not 8 x 10 x 6",
    ),
    "shape put out": (lambda p: changed(p, "stem", shape=Shape(8, 6, 6)), "stem does not put out 8 x 6 x 6"),
    "nothing put out": (
        lambda p: (*p[:2], replace(p[2], op=Conv(0), out=Tensor(Shape(0, 6, 10), "free"))),
        "smaller does not put out 0 x 6 x 10",
    ),
    "in float": (lambda p: changed(p, "stem", stays_float=True), "stem leaves its output in float"),
    "quantized again": (
        lambda p: changed(p, "smaller", op=Quantize(), shape=Shape(8, 6, 10), quantizer="free"),
        "smaller quantizes what is quantized already",
    ),
    "logits in the middle": (
        lambda p: changed(p, "mix:linear", op=Linear(16), quantizer="none", shape=Shape(16)),
        "mix:linear puts out logits, and is not the last node",
    ),
    "logits of a feature map": (
        lambda p: changed(
            tuple(node for node in p if node.id != "pool"), "logits", inputs=("mix",), in_shape=Shape(16, 3, 5)
        ),
        "logits reads a feature that is not pooled",
    ),
    "relabel of other codes": (
        lambda p: changed(p, "se/expand:linear", quantizer="free"),
        "se/expand relabels codes of se/expand:linear, whose quantizer is not hard_sigmoid_input",
    ),
    "terms that differ": (
        lambda p: changed(p, "add", inputs=("se/scale", "se/pool")),
        "add reads 8 x 1 x 1 second, not 8 x 3 x 5",
    ),
    "factors that differ": (
        lambda p: changed(p, "se/scale", op=Multiply()),
        "se/scale reads 8 x 1 x 1 second, not 8 x 3 x 5",
    ),
    "factors that are equal": (
        lambda p: changed(p, "mix", op=Multiply(per_channel=True)),
        "mix reads 16 x 3 x 5 second, not 16 x 1 x 1",
    ),
    "even kernel": (
        lambda p: changed(p, "depthwise:linear", op=Depthwise(4)),
        "depthwise:linear has the kernel size 4, which is not odd",
    ),
    "negative kernel": (
        lambda p: changed(p, "stem", op=Conv(8, -1)),
        "stem has the kernel size -1, which is not odd",
    ),
    "no stride": (lambda p: changed(p, "smaller", op=MaxPool(3, 0)), "smaller has the stride 0"),
    "padded too much": (
        lambda p: changed(p, "stem", op=Conv(8, 3, 2, crop=-1)),
        "stem has the padding 2 around a kernel of 3",
    ),
    "cropped too much": (
        lambda p: changed(p, "stem", op=Conv(8, 3, 2, crop=2)),
        "stem has the padding -1 around a kernel of 3",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_program(what, every_operator):
    damage, told = BROKEN[what]
    damaged = damage(every_operator)
    assert program_faults(every_operator) == ()
    assert told in program_faults(damaged)


@pytest.mark.parametrize(
    ("node_id", "quantizer"),
    [
        ("input", "relu"),
        ("input", "offset"),
        ("stem", "gate"),
        ("stem", "offset"),
        ("stem", "none"),
        ("stem", "input"),
        ("smaller", "free"),
        ("depthwise:linear", "none"),
        ("depthwise:gate", "free"),
        ("depthwise", "gate"),
        ("depthwise", "relu"),
        ("se/pool", "relu"),
        ("se/expand", "hard_sigmoid_input"),
        ("mix:gate", "free"),
        ("add", "hard_sigmoid_input"),
        ("add", "none"),
        ("logits", "free"),
    ],
)
def test_a_quantizer_that_an_operator_may_not_have(node_id, quantizer, every_operator):
    kind = {node.id: type(node.op).__name__ for node in every_operator}[node_id]
    told = f"{node_id} is a {kind} with the quantizer {quantizer!r}"
    assert told in program_faults(changed(every_operator, node_id, quantizer=quantizer))


def with_params(graph, node_id, params):
    return replace(graph, quant_params={**graph.quant_params, node_id: params})


@pytest.mark.parametrize(
    ("node_id", "params", "told"),
    [
        ("input", QuantParams(0.0, 0), "input has the scale 0.0, which is no positive float32 number"),
        ("input", QuantParams(-1.0, 0), "input has the scale -1.0"),
        ("input", QuantParams(float("nan"), 0), "input has the scale nan"),
        ("input", QuantParams(float("inf"), 0), "input has the scale inf"),
        ("input", QuantParams(0.1, 0), "input has the scale 0.1, which is no positive float32 number"),
        ("input", QuantParams(0.25, 256), "input has the zero point 256, outside of 0 to 255"),
        ("depthwise", QuantParams(0.25, -1), "depthwise has the zero point -1, outside of 0 to 255"),
        ("add", QuantParams(0.25, 3), "add has the zero point 3, where the clamp at 0 is the activation"),
        ("stem", QuantParams(SCALE / 2, 1), "stem has the zero point 1, where the clamp at 0 is the activation"),
        ("stem", QuantParams(0.0625, 0), "stem has the scale 0.0625: its codes go beyond 6"),
        ("depthwise:gate", QuantParams(1 / 128, 0), "where the contract has (0.00390625, 0)"),
        ("se/expand", QuantParams(1 / 256, 1), "where the contract has (0.00390625, 0)"),
        ("se/expand:linear", QuantParams(6 / 256, 127), "where the contract has (0.0234375, 128)"),
        ("smaller", QuantParams(0.25, 0), "other than its input stem"),
    ],
)
def test_a_broken_scale_or_zero_point(node_id, params, told, graph):
    (fault,) = faults(with_params(graph, node_id, params)) if node_id != "stem" else _of_stem(graph, params)
    assert told in fault
    assert fault.startswith(f"{node_id} has ")


def _of_stem(graph, params):
    """Its max pool has the same, which is then no fault of its own."""
    return faults(with_params(with_params(graph, "stem", params), "smaller", params))


def test_the_largest_scale_of_relu6_is_allowed(graph):
    larger = float(np.nextafter(np.float32(RELU6_MAX_SCALE), np.float32(1)))
    assert list(_of_stem(graph, QuantParams(SCALE, 0))) == []
    (fault,) = _of_stem(graph, QuantParams(larger, 0))
    assert "beyond 6" in fault


def with_weights(graph, node_id, **changes):
    return replace(graph, weights={**graph.weights, node_id: replace(graph.weights[node_id], **changes)})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda w: {"codes": w.codes.astype(np.int16)}, "codes of int16 [8, 3, 3, 3], not int8 [8, 3, 3, 3]"),
        (lambda w: {"codes": w.codes[:, :2]}, "codes of int8 [8, 2, 3, 3], not int8 [8, 3, 3, 3]"),
        (lambda w: {"codes": np.full_like(w.codes, -128)}, "weight codes from -128 to -128, beyond 127"),
        (lambda w: {"scales": w.scales.astype(np.float64)}, "scales of float64 [8], not float32 [8]"),
        (lambda w: {"scales": w.scales[:1]}, "scales of float32 [1], not float32 [8]"),
        (lambda w: {"scales": 0 * w.scales}, "weight scales that are not positive and finite"),
        (lambda w: {"scales": -w.scales}, "weight scales that are not positive and finite"),
        (lambda w: {"scales": np.nan * w.scales}, "weight scales that are not positive and finite"),
        (lambda w: {"scales": np.inf * w.scales}, "weight scales that are not positive and finite"),
        (lambda w: {"bias": w.bias.astype(np.int64)}, "biases of int64 [8], not int32 [8]"),
        (lambda w: {"bias": w.bias[None]}, "biases of int32 [1, 8], not int32 [8]"),
    ],
)
def test_broken_weights(changes, told, graph):
    (fault,) = faults(with_weights(graph, "stem", **changes(graph.weights["stem"])))
    assert fault == f"stem has {told}"


@pytest.mark.parametrize("code", [64, -64])
def test_a_code_beyond_what_the_target_computes(code, every_operator):
    graph = numbered(every_operator, 63)
    codes = graph.weights["logits"].codes.copy()
    codes[3, 5] = code
    damaged = with_weights(graph, "logits", codes=codes)
    assert list(faults(damaged)) == []
    (fault,) = faults(damaged, 63)
    assert fault == f"logits has weight codes from {codes.min()} to {codes.max()}, beyond 63"


@pytest.mark.parametrize("what", ["quant_params", "weights"])
@pytest.mark.parametrize("change", ["missing", "too many"])
def test_numbers_for_what_is_not_there(what, change, graph):
    numbers = dict(getattr(graph, what))
    numbers["other"] = numbers.pop("stem") if change == "missing" else numbers["stem"]
    (fault,) = faults(replace(graph, **{what: numbers}))
    assert fault.startswith("Numbers are missing, or there are too many, for other")
    assert ("stem" in fault) == (change == "missing")


def test_logits_have_no_scale(graph):
    (fault,) = faults(with_params(graph, "logits", QuantParams(0.25, 0)))
    assert fault.endswith("for logits")


def test_a_fault_is_refused_with_its_node(graph):
    with pytest.raises(ExportError) as error:
        check(with_params(graph, "add", QuantParams(0.25, 3)))
    assert "add has the zero point 3" in str(error.value)
    assert "quantization contract" in str(error.value)


def test_the_check_of_a_file_is_that_of_its_program(graph):
    damaged = changed(graph.nodes, "stem", quantizer="gate")
    assert set(program_faults(damaged)) <= set(faults(replace(graph, nodes=damaged)))


def test_a_feature_that_shrinks_to_nothing():
    net = Tracer(square(3, 2))
    net.depthwise("cropped", net.input, kernel_size=5, crop=2)
    assert program_faults(net.program) == ("cropped does not put out 3 x -2 x -2",)


def test_a_gate_reads_one_tensor(every_operator):
    damaged = changed(every_operator, "se/scale", op=Gate(), quantizer="gate")
    assert program_faults(damaged)[-1] == "se/scale reads 2 tensors"
