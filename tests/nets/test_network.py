"""Elastic networks against the static ones they stand for, and batch norm folding."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from made_models import made_node
from spaceevo.errors import ExportError
from spaceevo.graph.ops import Conv, Depthwise, Linear, Multiply, Quantize
from spaceevo.graph.tensors import Shape, square
from spaceevo.nets.executors import run_integer
from spaceevo.nets.fake_quant import ActivationQuantizer
from spaceevo.nets.network import BATCH_NORM_EPS, Network, extract, program_of, single_network
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head

pytestmark = pytest.mark.usefixtures("one_thread")

MICRO = load_hyperspace("micro")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def small_space(block_type=None, expand_ratios=(1.0, 2.0)):
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2)
    choice = BlockChoice(block_type or BlockType("mbv3", "hard_swish"), (3, 5), expand_ratios)
    stage = ElasticStage("stage1", choice, (8, 16), (1, 2), 1)
    return SearchSpace("small-0-0", (stem, stage), Head(16, 24, "relu"), (16, 20), 5)


def shaken(network, seed=0):
    """Batch norm as after some training: every parameter moved, some gammas negative."""
    draw = generator(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            name = key.rsplit(".", 1)[-1]
            if name == "gamma":
                tensor.copy_(torch.randn(tensor.shape, generator=draw))
            elif name in ("bias", "running_mean"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draw))
            elif name == "running_var":
                tensor.copy_(0.3 + torch.rand(tensor.shape, generator=draw))
    return network


def state_copy(network):
    return {key: tensor.clone() for key, tensor in network.state_dict().items()}


def assert_same_state(network, state):
    now = network.state_dict()
    assert now.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(now[key], tensor), key


@pytest.mark.parametrize("seed", range(16))
def test_elastic_equals_extracted_bit_for_bit(seed):
    rng = random.Random(seed)
    choice = MICRO.sample(rng)
    blocks = (seed % 5, (seed // 5 + seed) % 5, choice.blocks[2])  # all block types come up
    space = MICRO.space(type(choice)(blocks, choice.windows), 10)
    assert_elastic_equals_extracted(space, seed)


def space_of_block(kind, activation="swish"):
    kernel_sizes = ((0, 3), (3, 5), (5, 5)) if kind == "uib" else (3, 5, 7)
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8, 16), (1,), 2)
    choice = BlockChoice(BlockType(kind, activation), kernel_sizes, (1.0, 2.0))
    stage = ElasticStage("stage1", choice, (8, 16), (1, 2), 2)
    return SearchSpace("small-0-0", (stem, stage), Head(16, 24, "relu"), (32, 40), 5)


@pytest.mark.parametrize("placement", ["device", "published"])
@pytest.mark.parametrize("kind", BLOCKS.names())
def test_every_block_type_is_elastic(kind, placement):
    for seed in range(3):
        assert_elastic_equals_extracted(space_of_block(kind), seed, placement)


@pytest.mark.parametrize("seed", range(4))
def test_elastic_with_one_scale_per_weight(seed):
    assert_elastic_equals_extracted(small_space(), seed, per_channel=False)


def assert_elastic_equals_extracted(space, seed, placement="device", per_channel=True):
    supernet = shaken(Network(space.largest_nodes(placement), 63, generator(seed), per_channel), seed)
    subnet = space.sample(random.Random(seed))
    program = program_of(subnet, placement)
    x = randn(3, 3, subnet.resolution, subnet.resolution, seed=seed)
    with torch.no_grad():
        for phase in ("fp32", "fake-quantized"):
            if phase == "fake-quantized":
                supernet.train()
                supernet.start_quantization([(x, program)])
            for training in (True, False):
                static = extract(supernet.train(training), program)
                assert (static.training, static.quantized) == (training, supernet.quantized)
                expected = supernet(x, program)
                assert torch.isfinite(expected).all()
                assert torch.equal(static(x, program), expected), (phase, training)
    names = {name for o in program if o.has_weights for name in (o.id, o.weights_id)}
    assert names == set(static.weighted)
    for node in program:
        if node.has_weights:
            own = static.weights_of(node)
            assert own.weight.shape == node.weight_shape
            assert own.weight_scale.shape == (node.out_shape.channels if per_channel else 1,)


def trained_like(space, seed=0, per_channel=True):
    """A quantized network with negative gammas, and running statistics of no batch; its program and images."""
    program = program_of(space.largest())
    network = single_network(program, 63, generator(seed), per_channel)
    x = randn(32, 3, program[0].in_shape.height, program[0].in_shape.height, seed=seed)
    network.start_quantization([(x, program)])
    shaken(network, seed)
    with torch.no_grad():
        for quantizer in network.quantizers.values():
            if quantizer.quantizer == "free":
                quantizer.beta.add_(0.1 * torch.randn((), generator=generator(seed)))
    return network, program, x


@pytest.mark.parametrize("activation", ["relu", "hard_swish", "swish"])
@pytest.mark.parametrize("kind", BLOCKS.names())
def test_evaluation_is_the_integer_executor_bit_for_bit(kind, activation):
    network, program, x = trained_like(space_of_block(kind, activation))
    network.eval()
    graph, codes = network.integer_graph(program), {}
    expected = run_integer(graph, x, codes.__setitem__)
    logits, values = network.run_with_taps(x, program, list(codes))
    assert torch.equal(logits, expected)
    assert expected.std(dim=0).min() > 0
    for (name, of_executor), value in zip(codes.items(), values, strict=True):
        scale, zero_point = network.quant_params(name)
        assert torch.equal(value, (of_executor - zero_point) * torch.tensor(scale)), name


@pytest.mark.parametrize("seed", range(3))
def test_evaluation_of_the_micro_spaces_is_the_integer_executor(seed):
    choice = MICRO.sample(random.Random(seed))
    network, program, x = trained_like(MICRO.space(choice, 10), seed, per_channel=seed != 0)
    network.eval()
    assert torch.equal(network(x, program), run_integer(network.integer_graph(program), x))


def test_evaluation_beyond_what_float32_counts():
    program = (
        made_node("input", Quantize(), ("input",), Shape(8192)),
        made_node("logits", Linear(16), ("input",), Shape(8192), "none"),
    )
    network = single_network(program, 127, generator())
    x = 1 + randn(4, 8192, 1, 1).sigmoid()
    with torch.no_grad():
        network.weights_of(program[1]).weight.mul_(100).sigmoid_().add_(1)
    network.start_quantization([(x, program)])
    network.eval()
    assert torch.equal(network(x, program), run_integer(network.integer_graph(program), x))


def composed(monkeypatch):
    """Quantizers that take what the operator computes as a tensor of its own."""
    compositions = {
        "of_normalized": lambda self, x, gamma, bias, eps: self(
            F.batch_norm(x, None, None, gamma, bias, True, 0.0, eps)
        ),
        "of_gate": lambda self, x: self(x * (1 / 6) + 0.5),
        "of_product": lambda self, a, b: self(a * b),
        "of_sum": lambda self, a, b: self(a + b),
    }
    for name, function in compositions.items():
        monkeypatch.setattr(ActivationQuantizer, name, function)


@pytest.mark.parametrize("kind", BLOCKS.names())
def test_training_is_that_of_the_composed_operations(kind, monkeypatch):
    results = []
    for fused in (True, False):
        if not fused:
            composed(monkeypatch)
        network, program, x = trained_like(space_of_block(kind, "hard_swish"))
        network.train()
        logits = network(x[:8], program)
        logits.square().mean().backward()
        results.append((logits.detach(), {name: p.grad for name, p in network.named_parameters()}))
    (logits, gradients), (expected, composed_gradients) = results
    assert torch.equal(logits, expected)
    for name, gradient in composed_gradients.items():
        if gradient is None:
            assert gradients[name] is None
            continue
        # Sums of gradients that all but cancel, hence compared with the largest of a kind
        kind_of = name.rsplit(".", 1)[-1]
        others = [g for key, g in composed_gradients.items() if g is not None and key.endswith(f".{kind_of}")]
        size = max(float(other.abs().max()) for other in others)
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize(("kind", "activation"), [("mbv3", "hard_swish"), ("mbv2", "relu6")])
def test_quantized_training_keeps_hardly_more_than_fp32(kind, activation):
    space = space_of_block(kind, activation)
    program = program_of(space.largest())
    network = single_network(program, 127, generator())
    x = randn(32, 3, 40, 40)
    sizes = []
    for quantized in (False, True):
        if quantized:
            network.start_quantization([(x, program)])
        kept = {}
        keep = lambda tensor, kept=kept: kept.update({tensor.data_ptr(): tensor}) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(x, program)
        sizes.append(sum(tensor.numel() for tensor in kept.values()))
    assert sizes[1] <= 1.15 * sizes[0], sizes


def test_extraction_copies():
    space = small_space()
    supernet = Network(space.largest_nodes(), 127, generator())
    program = program_of(space.smallest())
    before = state_copy(supernet)
    static = extract(supernet, program)
    with torch.no_grad():
        for tensor in static.state_dict().values():
            tensor.add_(1)
    assert_same_state(supernet, before)


def test_shortcuts_within_a_stage_start_as_an_identity():
    """Where a block changes the width: kept channels pass as they are, further ones are zero."""
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(hyperspace.decode("micro-230-122"), 10)
    network = Network(space.largest_nodes(), 63, torch.Generator().manual_seed(0))
    found = {name: weighted.weight for name, weighted in network.weighted.items() if name.endswith("/shortcut")}
    inner = {name for name in found if "/0/" not in name}
    assert inner
    assert inner < found.keys()
    for name, weight in found.items():
        identity = torch.eye(*weight.shape[:2])[:, :, None, None]
        assert torch.equal(weight, identity) == (name in inner)


def test_the_branch_gain_is_that_of_the_last_norms_before_additions():
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(hyperspace.decode("micro-230-122"), 10)
    ends = {"stage1": "project", "stage2": "expand", "stage3": "pointwise2"}
    network = Network(space.largest_nodes(), 63, generator())
    before = state_copy(network)
    network.set_branch_gain(3.0)
    expected = {
        f"weighted.{stage.name}/{index}/{ends[stage.name]}.gamma"
        for stage in space.stages
        if stage.name in ends
        for index in range(stage.depths[-1])
    }
    for name, value in network.state_dict().items():
        assert torch.equal(value, torch.full_like(value, 3.0) if name in expected else before[name]), name


def test_the_branch_gain_of_a_branch_that_ends_with_an_activation():
    """The addition reads a product there, not the norm."""
    space = small_space(BlockType("mbv1-dual", "swish"), (0.0,))
    assert any(isinstance(o.op, Multiply) for o in program_of(space.largest()))
    network = Network(space.largest_nodes(), 127, generator())
    network.set_branch_gain(3.0)
    changed = {name for name, value in network.state_dict().items() if name.endswith("gamma") and (value == 3).all()}
    assert changed == {f"weighted.stage1/{index}/pointwise2:linear.gamma" for index in (0, 1)}


def test_slices_are_the_leading_channels_and_the_centre():
    space = small_space()
    supernet = Network(space.largest_nodes(), 127, generator())
    program = program_of(space.smallest())
    depthwise = next(o for o in program if isinstance(o.op, Depthwise))
    stored = supernet.weights_of(depthwise).weight
    assert stored.shape == (16, 1, 5, 5)
    assert torch.equal(supernet.weights_of(depthwise).sliced_weight(depthwise), stored[:8, :, 1:4, 1:4])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("quantized", [False, True])
def test_forward_changes_no_state(training, quantized):
    space = small_space()
    supernet = shaken(Network(space.largest_nodes(), 127, generator()))
    x = randn(4, 3, 20, 20)
    if quantized:
        supernet.start_quantization([(x, program_of(space.largest()))])
    supernet.train(training)
    before = state_copy(supernet)
    expected = supernet(x, program_of(space.largest()))
    supernet(randn(4, 3, 16, 16), program_of(space.smallest()))
    assert_same_state(supernet, before)
    assert torch.equal(supernet(x, program_of(space.largest())), expected)


def test_training_normalizes_by_the_batch_alone():
    space = small_space()
    supernet = Network(space.largest_nodes(), 127, generator())
    x, program = randn(4, 3, 16, 16), program_of(space.smallest())
    first = supernet(x, program)
    shaken_statistics = dict(supernet.state_dict())
    for key, tensor in shaken_statistics.items():
        if key.endswith(("running_mean", "running_var")):
            tensor.fill_(7.0)
    assert torch.equal(supernet(x, program), first)


def test_only_what_a_program_uses_learns():
    space = small_space()
    supernet = Network(space.largest_nodes(), 127, generator())
    program = program_of(space.smallest())
    supernet(randn(4, 3, 16, 16), program).square().sum().backward()
    used = {o.id for o in program if o.has_weights}
    for name, weighted in supernet.weighted.items():
        assert (weighted.weight.grad is not None) == (name in used)
    project = next(o for o in program if o.id == "stage1/0/project")
    gradient = supernet.weights_of(project).weight.grad
    assert gradient[:8, :8].abs().sum() > 0
    assert gradient[8:].abs().sum() == gradient[:, 8:].abs().sum() == 0


def test_gradients_of_several_programs_add_up():
    space = small_space()
    supernet = Network(space.largest_nodes(), 127, generator())
    x, largest, smallest = randn(4, 3, 20, 20), program_of(space.largest()), program_of(space.smallest())
    supernet.start_quantization([(x, largest), (x, smallest)])

    def gradients(*programs):
        supernet.zero_grad()
        for program in programs:
            supernet(x, program).square().sum().backward()
        return {name: parameter.grad for name, parameter in supernet.named_parameters()}

    for programs in ((smallest, largest, smallest), (largest, smallest, smallest)):
        together = gradients(*programs)
        alone = [gradients(program) for program in programs]
        for name, gradient in together.items():
            terms = [own[name] for own in alone if own[name] is not None]
            assert gradient is None if not terms else torch.equal(gradient, sum(terms[1:], terms[0])), name


def test_taps():
    space = small_space()
    network = Network(space.largest_nodes(), 127, generator())
    program = program_of(space.largest())
    x = randn(2, 3, 20, 20)
    output, (stem, add) = network.run_with_taps(x, program, ["stem/0/conv", "stage1/1/add"])
    assert torch.equal(output, network(x, program))
    assert (stem.shape, add.shape) == ((2, 8, 10, 10), (2, 16, 10, 10))
    cut = program[: [o.id for o in program].index("stem/0/conv") + 1]
    assert torch.equal(stem, network(x, cut))


def test_activations_in_fp32():
    x = randn(2, 3, 9, 9)
    for activation, function in {
        "relu": F.relu,
        "relu6": F.relu6,
        "swish": F.silu,
        "hard_swish": F.hardswish,
    }.items():
        subnet = small_space(BlockType("conv", activation)).smallest()
        program = program_of(subnet)
        program = tuple(o for o in program if o.id.startswith(("input", "stage1/0")))
        program = (program[0], *(o if o.inputs != ("stem/0/conv",) else with_input(o) for o in program[1:]))
        network = single_network(program, 127, generator()).eval()
        with torch.no_grad():
            for weighted in network.weighted.values():
                weighted.weight.mul_(9)  # far into every bend
            conv = next(o for o in program if o.has_weights)
            own = network.weights_of(conv)
            expected = function(F.conv2d(x, own.weight, padding=1) / (1 + BATCH_NORM_EPS) ** 0.5)
            torch.testing.assert_close(network(x, program), expected)


def with_input(node):
    return replace(node, inputs=("input",), in_shape=square(3, 9))


def test_start_quantization_sets_ranges():
    space = small_space(BlockType("mbv2", "relu6"))
    network = Network(space.largest_nodes(), 63, generator())
    program = program_of(space.largest())
    learned = [o for o in program if o.out.is_learned]
    low, high = randn(4, 3, 20, 20).clamp(-1, 2), 3 * randn(4, 3, 20, 20, seed=1).clamp(-1, 1)
    taps = [o.id for o in learned]
    with torch.no_grad():
        values = [network.run_with_taps(x, program, taps)[1] for x in (low, high)]
    state = state_copy(network)
    network.start_quantization([(low, program), (high, program)])
    assert network.quantized
    # The input: from the mean of -1 and -3 to the mean of 2 and 3
    assert network.quant_params("input") == (pytest.approx(4.5 / 255), round(2.0 / 4.5 * 255))
    for node, *runs in zip(learned, *values, strict=True):
        scale, zero_point = network.quant_params(node.id)
        lowest = sum(min(run.min().item(), 0) for run in runs) / 2
        highest = sum(run.max().item() for run in runs) / 2
        assert 0.5 * (highest - lowest) <= 255 * scale <= 1.001 * (highest - lowest), node.id
        assert scale * zero_point <= -lowest + scale
        if node.out.quantizer != "free":
            assert zero_point == 0
        if node.out.quantizer == "relu6":
            assert 255 * scale <= 6.00001
    for name, weighted in network.weighted.items():
        highest = weighted.weight.flatten(1).abs().amax(1)
        torch.testing.assert_close(weighted.weight_scale * 63, highest)
        for key in ("weight", "bias"):
            assert torch.equal(getattr(weighted, key), state[f"weighted.{name}.{key}"])


def test_one_scale_per_weight():
    space = small_space()
    program = program_of(space.largest())
    x = randn(4, 3, 20, 20)
    network = single_network(program, 63, generator(), per_channel=False)
    network.start_quantization([(x, program)])
    for weighted in network.weighted.values():
        torch.testing.assert_close(weighted.weight_scale * 63, weighted.weight.abs().max()[None])
    network(x, program).square().sum().backward()
    assert all(w.weight_scale.grad.shape == (1,) and w.weight_scale.grad != 0 for w in network.weighted.values())
    # Per channel after folding, as gamma is; without a norm the one scale for all
    graph = shaken(network).eval().integer_graph(program)
    for node in program:
        if node.has_weights:
            own, gain = graph.weights[node.id], network.norm_of(node).gain_and_bias(node)[0]
            assert own.scales.shape == (node.out_shape.channels,)
            expected = network.weights_of(node).weight_scale * (1.0 if gain is None else gain.abs())
            torch.testing.assert_close(torch.from_numpy(own.scales), expected.detach().expand(node.out_shape.channels))
    # Stored and read as such
    again = single_network(program, 63, generator(1), per_channel=False)
    again.load_state_dict(network.state_dict())
    assert_same_state(again, network.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        single_network(program, 63, generator(), per_channel=True).load_state_dict(network.state_dict())


def test_dead_tensors():
    """Gammas of 0 and weights of 0: a channel, a whole convolution."""
    network, program, x = trained_like(small_space(), seed=1)
    convs = [o for o in program if o.has_batch_norm]
    with torch.no_grad():
        network.norm_of(convs[0]).gamma[0] = 0
        network.weights_of(convs[1]).weight[0] = 0
        network.weights_of(convs[2]).weight.zero_()
        network.norm_of(convs[2]).bias.zero_()
        network.quantized = False
        network.start_quantization([(x, program)])  # some ranges and scales are zero
    network.train()
    logits = network(x, program)
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    graph = network.eval().integer_graph(program)
    assert all((own.scales > 0).all() for own in graph.weights.values())
    assert torch.equal(network(x, program), run_integer(graph, x))


@pytest.mark.parametrize("value", [0.0, -0.1])
def test_loaded_scales_that_are_not_positive(value):
    """They count as the smallest allowed ones, in training, evaluation and export alike."""
    network, program, x = trained_like(small_space())
    state = network.state_dict()
    state["quantizers.stem/0/conv.scale"] = torch.tensor(value)
    state["weighted.stage1/0/project.weight_scale"] = torch.full_like(
        state["weighted.stage1/0/project.weight_scale"], value
    )
    network.load_state_dict(state)
    for training in (True, False):
        assert torch.isfinite(network.train(training)(x, program)).all()
    graph = network.integer_graph(program)
    assert all(params.scale > 0 for params in graph.quant_params.values())
    assert all((own.scales > 0).all() for own in graph.weights.values())
    assert torch.equal(network(x, program), run_integer(graph, x))


@pytest.mark.parametrize("key", [
    "quantizers.stem/0/conv.scale", "quantizers.stem/0/conv.beta", "quantizers.stem/0/conv.start_scale",
    "weighted.stage1/0/project.weight_scale", "weighted.stage1/0/project.gamma", "weighted.head/logits.bias",
])  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loaded_numbers_that_are_not_finite_are_not_exported(key, value):
    network, program, x = trained_like(small_space())
    state = network.state_dict()
    state[key] = torch.full_like(state[key], value)
    network.load_state_dict(state)
    with pytest.raises(ExportError, match="finite"):
        network.eval().integer_graph(program)
    if math.isnan(value) and not key.endswith(("beta", "start_scale")):
        assert not torch.isfinite(network(x, program)).all(), "evaluation shows it"


def test_quantized_training_stays_close_to_fp32():
    space = small_space()
    network = Network(space.largest_nodes(), 127, generator())
    program = program_of(space.largest())
    x = randn(16, 3, 20, 20)
    with torch.no_grad():
        expected = network(x, program)
        network.start_quantization([(x, program)])
        actual = network(x, program)
    assert not torch.equal(actual, expected)
    assert (actual - expected).abs().mean() < 0.1 * expected.std()


CONV = made_node("conv", Conv(6, 3), ("input",), square(4, 5))
INPUT = made_node("input", Quantize(), ("input",), square(4, 5))


@pytest.fixture
def conv_network():
    """A quantized convolution with gammas 1.5, -0.7, 0, 1e-30, -1e-12, 1 and a mean and a bias."""
    network = single_network((INPUT, CONV), 63, generator())
    own = network.weights_of(CONV)
    network.start_quantization([(randn(8, 4, 5, 5), (INPUT, CONV))])
    with torch.no_grad():
        own.gamma.copy_(torch.tensor([1.5, -0.7, 0.0, 1e-30, -1e-12, 1.0]))
        own.bias.copy_(torch.tensor([0.1, -0.2, 0.75, -0.5, 0.25, 0.0]))
        own.running_mean.copy_(torch.linspace(-0.5, 0.5, 6))
        own.running_var.copy_(torch.linspace(0.5, 2.0, 6))
    return network.eval()


def test_fold_against_batch_norm(conv_network):
    own, input_scale = conv_network.weights_of(CONV), conv_network.quant_params("input")[0]
    codes, scales, bias = conv_network.fold(CONV, input_scale)
    assert torch.equal(codes, codes.round())
    assert torch.equal(bias, bias.round())
    assert (scales > 0).all()
    assert codes.abs().max() == 63
    assert bias.abs().max() < 2**31
    # Codes are those of training; a negative gamma flips them, a dead channel has none
    plain = (own.weight / own.weight_scale.view(-1, 1, 1, 1)).clamp(-63, 63).round()
    assert torch.equal(codes[0], plain[0])
    assert torch.equal(codes[1], -plain[1])
    assert torch.equal(codes[5], plain[5])
    assert codes[2:5].abs().max() == 0
    # A convolution and batch norm on the weights that training sees
    with torch.no_grad():
        x = randn(3, 4, 5, 5, seed=5)
        weight = plain * own.weight_scale.view(-1, 1, 1, 1)
        y = F.conv2d(x, weight, None, 1, 1)
        expected = F.batch_norm(y, own.running_mean, own.running_var, own.gamma, own.bias, False, 0.0, BATCH_NORM_EPS)
        folded = F.conv2d(x, codes * scales.view(-1, 1, 1, 1), bias * (input_scale * scales), 1, 1)
        step = (input_scale * scales).view(-1, 1, 1)
        assert ((folded - expected).abs() <= 0.51 * step + 1e-5).all()
        # Dead channels put out their bias
        for channel in (2, 3, 4):
            torch.testing.assert_close(folded[:, channel], expected[:, channel], rtol=1e-5, atol=1e-6)


def test_quantized_evaluation_is_the_folded_convolution(conv_network):
    input_scale, zero_point = conv_network.quant_params("input")
    codes, scales, bias = conv_network.fold(CONV, input_scale)
    x = randn(3, 4, 5, 5, seed=6)
    x_codes = ((x / input_scale).round() + zero_point).clamp(0, 255)
    accumulators = F.conv2d((x_codes - zero_point).double(), codes.double(), bias.double(), 1, 1)
    y_scale, y_zero_point = conv_network.quant_params("conv")
    y = accumulators * (input_scale * scales.double()).view(-1, 1, 1)
    expected = ((y / y_scale).round() + y_zero_point).clamp(0, 255)
    with torch.no_grad():
        actual = conv_network(x, (INPUT, CONV)) / y_scale + y_zero_point
    assert ((actual - expected).abs() > 0.01).float().mean() < 0.01, "but for rounding ties"
    assert (actual - expected).abs().max() < 1.01


def test_weight_scale_that_crossed_zero_is_used_as_in_training(conv_network):
    own = conv_network.weights_of(CONV)
    expected = conv_network.fold(CONV, 0.01)
    with torch.no_grad():
        own.weight_scale[::2].neg_()
    for one, other in zip(conv_network.fold(CONV, 0.01), expected, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        own.weight_scale[0] = 0
    codes, scales, bias = conv_network.fold(CONV, 0.01)
    assert codes.abs().max() <= 63
    assert (scales > 0).all()
    assert all(torch.isfinite(tensor).all() for tensor in (codes, scales, bias))


def test_fold_float(conv_network):
    own = conv_network.weights_of(CONV)
    x = randn(3, 4, 5, 5)
    weight, bias = conv_network.fold_float(CONV)
    with torch.no_grad():
        y = F.conv2d(x, own.weight, None, 1, 1)
        expected = F.batch_norm(y, own.running_mean, own.running_var, own.gamma, own.bias, False, 0.0, BATCH_NORM_EPS)
        torch.testing.assert_close(F.conv2d(x, weight, bias, 1, 1), expected, rtol=1e-4, atol=1e-5)


def test_same_generator_same_weights():
    space = small_space()
    first, second, other = (Network(space.largest_nodes(), 127, generator(seed)) for seed in (3, 3, 4))
    assert_same_state(second, state_copy(first))
    assert not torch.equal(first.weighted["stem/0/conv"].weight, other.weighted["stem/0/conv"].weight)
