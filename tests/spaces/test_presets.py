"""Every preset: its spaces hold what they sample, and strings come back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaceevo import plugins
from spaceevo.spaces import encoding
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.subnet import network_layers

NAMES = plugins.names(PRESETS)
HAND_MADE = ("mobilenetv3", "mobilenetv4", "proxyless", "resnet50")
seeds = st.integers(0, 2**32)


@pytest.mark.parametrize(
    ("name", "num_spaces"), [("mobilew", 1_185_901_920), ("onnxw", 95_551_488), *((name, 1) for name in HAND_MADE)]
)
def test_size(name, num_spaces):
    assert load_hyperspace(name).num_spaces == num_spaces


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
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
        layers = network_layers(subnet)
        assert subnet.macs == sum(layer.macs for layer in layers)
        assert subnet.num_params == sum(layer.num_params for layer in layers)
    assert space.crossover(first, first, rng) == first
    assert space.smallest().macs <= first.macs <= space.largest().macs


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
