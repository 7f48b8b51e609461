"""From a briefly trained network to its graphs."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spaceevo.errors import ExportError
from spaceevo.graph.ops import Conv, Depthwise
from spaceevo.nets.executors import run_fake_quantized, run_integer
from spaceevo.nets.network import program_of, single_network
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.testing.float_evaluation import evaluate
from spaceevo.train.recalibration import recalibrate

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_CLASSES = 4
SIZE = 16


def space():
    """Every kind of operator in one network: swish, SE, hard-swish, relu6, both shortcuts."""
    stages = [ElasticStage("stem", BlockChoice(BlockType("conv", "swish"), (3,)), (8,), (1,), 1)]
    for index, block_type in enumerate([BlockType("mbv3", "hard_swish"), BlockType("mbv2", "relu6")]):
        stages.append(ElasticStage(f"stage{index + 1}", BlockChoice(block_type, (3,), (2.0,)), (16,), (2,), 2))
    return SearchSpace("small-0-0", tuple(stages), Head(24, 32, "relu"), (SIZE,), NUM_CLASSES)


def clear_images(count, seed):
    """One coarse pattern per class, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(NUM_CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(99))
    patterns = F.interpolate(patterns, size=(SIZE, SIZE), mode="bilinear")
    labels = torch.arange(count) % NUM_CLASSES
    return patterns[labels] + 0.2 * torch.randn(count, 3, SIZE, SIZE, generator=generator), labels


def trained(w_qmax):
    program = program_of(space().largest())
    network = single_network(program, w_qmax, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for index, weighted in enumerate(network.weighted.values()):
            if weighted.gamma is not None:
                weighted.gamma[index % 3 :: 3] *= -1
                weighted.gamma[-1] = 0
    x, labels = clear_images(32, 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for step in range(24):
        if step == 16:
            network.start_quantization([(x, program)])
            optimizer = torch.optim.SGD(network.parameters(), lr=0.002, momentum=0.9)
        optimizer.zero_grad()
        F.cross_entropy(network(x, program), labels).backward()
        torch.nn.utils.clip_grad_value_(network.parameters(), 1.0)
        optimizer.step()
    recalibrate(network, program, x.split(16))
    return network, program


@pytest.fixture(scope="module")
def networks():
    torch.set_num_threads(1)
    return {w_qmax: trained(w_qmax) for w_qmax in (63, 127)}


@pytest.fixture
def network_and_program(networks):
    network, program = networks[63]
    return copy.deepcopy(network), program


@pytest.mark.parametrize("w_qmax", [63, 127])
def test_integer_graph_is_the_network(networks, w_qmax):
    network, program = networks[w_qmax]
    assert any((w.gamma < 0).any() for w in network.weighted.values() if w.gamma is not None)
    graph = network.integer_graph(program)
    x, labels = clear_images(64, 1)
    with torch.no_grad():
        expected = network(x, program)
    assert (expected.argmax(1) == labels).float().mean() > 0.9, "the network has learned something"
    fake = run_fake_quantized(graph, x)
    spread = expected.std(dim=0).mean()
    assert (fake - expected).abs().mean() < 0.05 * spread
    sure = expected.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 0.5 * spread
    assert sure.float().mean() > 0.8
    assert torch.equal(fake.argmax(1)[sure], expected.argmax(1)[sure])
    assert torch.equal(run_integer(graph, x).argmax(1)[sure], expected.argmax(1)[sure])


@pytest.mark.parametrize("w_qmax", [63, 127])
def test_integer_graph_is_complete(networks, w_qmax):
    network, program = networks[w_qmax]
    graph = network.integer_graph(program)
    assert graph.nodes == program
    assert set(graph.quant_params) == {o.id for o in program} - {"head/logits"}
    assert set(graph.weights) == {o.id for o in program if o.has_weights}
    for node in program:
        if node.has_weights:
            own = graph.weights[node.id]
            assert (own.codes.dtype, own.scales.dtype, own.bias.dtype) == (np.int8, np.float32, np.int32)
            assert own.codes.shape == node.weight_shape
            assert own.scales.shape == own.bias.shape == (node.out_shape.channels,)
            assert np.abs(own.codes.astype(int)).max() <= w_qmax
            assert (own.scales > 0).all()
        if node.out.quantizer != "none":
            params = graph.quant_params[node.id]
            assert params.scale > 0
            assert 0 <= params.zero_point <= 255
            if node.out.quantizer in ("relu", "relu6"):
                assert params.zero_point == 0
    highest = max(np.abs(own.codes.astype(int)).max() for own in graph.weights.values())
    assert highest == w_qmax


def test_biases_are_on_the_int32_grid(networks):
    network, program = networks[127]
    graph = network.integer_graph(program)
    for node in program:
        if isinstance(node.op, Conv | Depthwise):
            own, weighted = graph.weights[node.id], network.weights_of(node)
            exact = weighted.bias
            if node.has_batch_norm:
                exact = exact - weighted.running_mean * weighted.gamma / torch.sqrt(weighted.running_var + 1e-5)
            exact = exact.detach().double().numpy()
            step = graph.quant_params[node.inputs[0]].scale * own.scales.astype(float)
            assert (np.abs(own.bias * step - exact) <= 0.51 * step + 1e-6 * np.abs(exact)).all()


def test_extraction_never_casts_what_does_not_fit(network_and_program):
    network, program = network_and_program
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weighted in network.weighted.values():
            weighted.weight_scale.mul_(torch.randn(weighted.weight_scale.shape, generator=draw).sign())
            weighted.weight_scale[0] = 0
            weighted.weight_scale[1] = 1e-12
            if weighted.gamma is not None:
                weighted.gamma[2:5] = torch.tensor([0.0, -1e-30, 1e-12])
                weighted.bias[2:5] = torch.tensor([3.0, -100.0, 1e4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = network.integer_graph(program)
    for own in graph.weights.values():
        assert np.abs(own.codes.astype(int)).max() <= 63
        assert (own.scales > 0).all()
        assert np.abs(own.bias.astype(np.int64)).max() < 2**31 - 1
    x, _ = clear_images(8, 2)
    with torch.no_grad():
        expected = network(x, program)
    torch.testing.assert_close(
        run_fake_quantized(graph, x), expected, rtol=0.05, atol=0.05 * float(expected.abs().max())
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("weighted.stem/0/conv:linear.weight", float("nan")),
        ("weighted.stem/0/conv:linear.gamma", float("nan")),
        ("weighted.stem/0/conv:linear.gamma", float("inf")),
        ("weighted.head/logits.bias", float("inf")),
        ("weighted.head/logits.weight_scale", float("nan")),
        ("quantizers.head/pool.scale", float("nan")),
        ("quantizers.head/pool.scale", float("inf")),
        ("quantizers.input.beta", float("nan")),
    ],
)
def test_not_a_finite_number(network_and_program, parameter, value):
    network, program = network_and_program
    with torch.no_grad():
        network.state_dict()[parameter].view(-1)[0] = value
    with pytest.raises(ExportError, match=parameter.split(".")[1]):
        network.integer_graph(program)


def test_float_graph_is_the_network(network_and_program):
    network, program = network_and_program
    network.quantized = False
    x, _ = clear_images(32, 3)
    recalibrate(network, program, x.split(16))
    graph = network.float_graph(program)
    with torch.no_grad():
        expected = network(x, program)
    assert expected.std() > 0.1
    torch.testing.assert_close(evaluate(graph, x), expected, rtol=1e-4, atol=1e-4)


def test_graphs_do_not_share_memory_with_the_network(network_and_program):
    network, program = network_and_program
    graphs = network.integer_graph(program), network.float_graph(program)
    before = copy.deepcopy([graph.weights for graph in graphs])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    for graph, weights in zip(graphs, before, strict=True):
        for name, own in weights.items():
            for key in own.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(graph.weights[name], key), getattr(own, key))
