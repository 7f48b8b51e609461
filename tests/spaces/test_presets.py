"""Every preset: its spaces hold what they sample, and strings come back."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.graph.nodes import HEAD
from spaceevo.graph.trace import published
from spaceevo.spaces import encoding
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.subnet import network_program

NAMES = PRESETS.names()
HAND_MADE = ("mobilenetv3", "mobilenetv3micro", "mobilenetv4", "proxyless", "proxylessmicro", "resnet50", "resnetmicro")
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("name", "num_spaces"), [("mobilew", 1_185_901_920), ("onnxw", 95_551_488), *((name, 1) for name in HAND_MADE)]
)
def test_size(name, num_spaces):
    assert load_hyperspace(name).num_spaces == num_spaces


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(seed=seeds)
def test_laws_of_a_random_space(name, seed):
    rng = random.Random(seed)
    hyperspace = load_hyperspace(name)
    assert hyperspace.name == name
    choice = hyperspace.sample(rng)
    assert hyperspace.decode(hyperspace.encode(choice)) == choice
    space = hyperspace.space(choice, 1000)
    first, second = space.sample(rng), space.sample(rng)
    mutant = space.mutate(first, rng)
    assert mutant != first
    for subnet in (first, second, mutant, space.crossover(first, second, rng), space.smallest(), space.largest()):
        assert space.contains(subnet)
        assert encoding.decode(encoding.encode(subnet), space) == subnet
        program = network_program(subnet)
        assert subnet.macs == sum(node.macs for node in program)
        assert subnet.num_params == sum(node.num_params for node in program)
        assert subnet.cost.num_weighted == sum(node.has_weights for node in program)
        assert subnet.cost.out_shape == program[-1].out_shape == (1000, 1, 1)
    assert space.crossover(first, first, rng) == first
    assert space.smallest().macs <= first.macs <= space.largest().macs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one_thread")
def test_counts_are_those_of_the_built_network(name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from spaceevo.nets.network import single_network

    rng = random.Random(name)
    hyperspace = load_hyperspace(name)
    subnet = hyperspace.space(hyperspace.sample(rng), 10).sample(rng)
    program = network_program(subnet)
    network = single_network(program, 127, torch.Generator()).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *subnet.in_shape), program)
    assert 2 * subnet.macs == counter.get_total_flops()
    trained = [p.numel() for key, p in network.weighted.named_parameters() if not key.endswith("weight_scale")]
    assert subnet.num_params == sum(trained)


@pytest.mark.parametrize("name", NAMES)
def test_largest_nodes_cover_every_subnet(name):
    rng = random.Random(name)
    hyperspace = load_hyperspace(name)
    space = hyperspace.space(hyperspace.sample(rng), 10)
    for placement in ("device", "published"):
        largest = space.largest_nodes(placement)
        heads = set()
        for subnet in (space.largest(), space.smallest(), *(space.sample(rng) for _ in range(20))):
            program = network_program(subnet)
            for node in published(program) if placement == "published" else program:
                assert covers(largest[node.id], node)
                if node.has_weights:
                    assert node.weights_id in largest
                if node.role.stage == HEAD:
                    heads.add(node.id)
        assert heads == {node.id for node in largest.values() if node.role.stage == HEAD}


def covers(cover, node):
    """Whether one node has the weights of another, and the same quantizer.

    The last convolution of a stack of elastic depth has another stride at every depth, and its input's quantizer
    (of the published placement) another layer.
    """
    return (
        (type(cover.op), cover.out.quantizer, cover.role[:2], cover.has_batch_norm)
        == (type(node.op), node.out.quantizer, node.role[:2], node.has_batch_norm)
        and cover.in_shape.channels >= node.in_shape.channels
        and cover.out_shape.channels >= node.out_shape.channels
        and all(large >= small for large, small in zip(cover.weight_shape, node.weight_shape, strict=True))
    )


def test_a_published_string_comes_back():
    hyperspace = load_hyperspace("onnxw")
    space = hyperspace.space(hyperspace.decode("onnxw-151122-023231"), 1000)
    text = (
        "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#112#112#144#144#240#240#320"
        "_e0#0.5#4.0#4.0#1.0#1.0#4.0#4.0#4.0#4.0#4.0#4.0#4.0_r160"
    )
    subnet = encoding.decode(text, space)
    assert encoding.encode(subnet) == text
    assert subnet.macs == 161_559_488 + 1920 * 1000
    assert space.encoding == "onnxw-151122-023231"


def test_the_largest_once_for_all_mobilenet_v3():
    hyperspace = load_hyperspace("mobilenetv3")
    space = hyperspace.space(hyperspace.sample(random.Random(0)), 1000)
    depths, kernels, ratios, resolutions = 3, 3, 3, 25
    per_stage = sum((kernels * ratios) ** depth for depth in range(2, 2 + depths))
    assert space.num_subnets == resolutions * per_stage**5
