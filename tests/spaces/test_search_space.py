"""Search spaces as sets of subnets."""

import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.graph.nodes import HEAD
from spaceevo.graph.ops import Conv, Depthwise
from spaceevo.graph.trace import published
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head, Stage, Subnet, network_program, stage_outputs

MICRO = load_hyperspace("micro")
SEEDS = st.integers(0, 2**32)
SPACES = st.tuples(
    st.tuples(*(st.integers(0, len(stage.choices) - 1) for stage in MICRO.searched)),
    st.tuples(*(st.integers(0, stage.num_windows - 1) for stage in MICRO.searched)),
).map(lambda choice: MICRO.space(SpaceChoice(*choice), 10))
few = settings(max_examples=40)


def reduced_space(depths=(1, 2), resolutions=(16, 20)):
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2)
    mbv2 = ElasticStage("a", BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (1.0, 2.0)), (8, 16), depths, 1)
    dual = ElasticStage("b", BlockChoice(BlockType("mbv1-dual", "relu"), (3,)), (16, 24, 32), (1, 3), 2)
    return SearchSpace("reduced-01-00", (stem, mbv2, dual), Head(16, 24, "relu"), resolutions, 3)


def all_stages(elastic):
    choice = elastic.choice
    blocks = [Block(w, k, e) for w in elastic.widths for k in choice.kernel_sizes for e in choice.expand_ratios]
    return [
        Stage(elastic.name, choice.block_type, elastic.stride, chosen)
        for depth in elastic.depths
        for chosen in product(blocks, repeat=depth)
    ]


def all_subnets(space):
    stages = product(*(all_stages(elastic) for elastic in space.stages))
    return {Subnet(r, chosen, space.head, space.num_classes) for chosen in stages for r in space.resolutions}


def test_num_subnets_equals_enumeration():
    space = reduced_space()
    subnets = all_subnets(space)
    # 2 resolutions; 8 + 8^2 stages a; 3 + 3^3 stages b
    assert space.num_subnets == len(subnets) == 2 * 72 * 30
    assert all(space.contains(subnet) for subnet in subnets)
    assert {space.largest(), space.smallest()} <= subnets


def test_sampling_reaches_the_whole_space():
    space = reduced_space(depths=(1,), resolutions=(16,))
    space = replace(space, stages=(space.stages[0], space.stages[1], replace(space.stages[2], depths=(1,))))
    rng = random.Random(0)
    assert {space.sample(rng) for _ in range(400)} == all_subnets(space)


def test_largest_and_smallest():
    space = reduced_space()
    largest, smallest = space.largest(), space.smallest()
    assert [(s.name, s.blocks) for s in largest.stages[1:]] == [
        ("a", (Block(16, 5, 2.0),) * 2),
        ("b", (Block(32, 3, 0.0),) * 3),
    ]
    assert [s.blocks for s in smallest.stages[1:]] == [(Block(8, 3, 1.0),), (Block(16, 3, 0.0),)]
    assert (largest.resolution, smallest.resolution) == (20, 16)


@few
@given(SPACES, SEEDS)
def test_sampled_subnets_are_contained(space, seed):
    subnet = space.sample(random.Random(seed))
    assert space.contains(subnet)
    assert space.sample(random.Random(seed)) == subnet


@few
@given(SPACES, SEEDS)
def test_mutation_stays_inside_and_changes_something(space, seed):
    rng = random.Random(seed)
    subnet = space.sample(rng)
    for probability in (0.02, 0.3, 1.0):
        mutant = space.mutate(subnet, rng, probability, probability)
        assert space.contains(mutant)
        assert mutant != subnet


def test_mutation_reaches_every_choice():
    space = reduced_space()
    rng = random.Random(0)
    subnet = space.smallest()
    seen = set()
    for _ in range(300):
        subnet = space.mutate(subnet, rng)
        seen.add(("resolution", subnet.resolution))
        for stage in subnet.stages[1:]:
            seen.add((stage.name, "depth", len(stage.blocks)))
            seen |= {(stage.name, b.width, b.kernel_size, b.expand_ratio) for b in stage.blocks}
    assert len(seen) == 2 + (2 + 8) + (2 + 3)


def test_mutation_of_the_only_subnet():
    space = reduced_space()
    single = replace(space, stages=space.stages[:1], resolutions=(16,))
    assert single.num_subnets == 1
    assert single.mutate(single.largest(), random.Random(0)) == single.largest()


@few
@given(SPACES, SEEDS)
def test_crossover_stays_inside_and_takes_from_the_parents(space, seed):
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    child = space.crossover(first, second, rng)
    assert space.contains(child)
    assert child.resolution in (first.resolution, second.resolution)
    for a, b, own in zip(first.stages, second.stages, child.stages, strict=True):
        assert len(own.blocks) in (len(a.blocks), len(b.blocks))
        assert set(own.blocks) <= set(a.blocks) | set(b.blocks)


def test_crossover_mixes():
    space = reduced_space()
    first, second, rng = space.largest(), space.smallest(), random.Random(0)
    assert space.crossover(first, first, rng) == first
    children = {space.crossover(first, second, rng) for _ in range(200)}
    assert {child.resolution for child in children} == {16, 20}
    assert {tuple(len(s.blocks) for s in child.stages[1:]) for child in children} == {(1, 1), (1, 3), (2, 1), (2, 3)}
    firsts = {child.stages[1].blocks[0] for child in children}
    assert firsts == {first.stages[1].blocks[0], second.stages[1].blocks[0]}


@few
@given(SPACES, SEEDS)
def test_what_two_subnets_have_in_common_is_part_of_both(space, seed):
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    common = space.common(first, second)
    assert space.contains(common)
    assert common.resolution == first.resolution
    for shared, *stages in zip(common.stages, first.stages, second.stages, strict=True):
        assert len(shared.blocks) == min(len(stage.blocks) for stage in stages)
        for block, *others in zip(shared.blocks, *(stage.blocks for stage in stages), strict=False):
            assert block.choices == tuple(map(min, *(other.choices for other in others)))
    assert common == replace(space.common(second, first), resolution=first.resolution)
    assert common == space.common(common, first) == space.common(common, second)
    assert first == space.common(first, space.largest())


def test_common_choices():
    space = reduced_space()
    wide, deep = Block(16, 3, 1.0), (Block(8, 5, 2.0), Block(16, 5, 1.0))
    (stem, a, b) = space.largest().stages
    first = space.subnet(20, (stem, replace(a, blocks=(wide,)), b))
    second = space.subnet(16, (stem, replace(a, blocks=deep), b))
    assert space.common(first, second) == space.subnet(20, (stem, replace(a, blocks=(Block(8, 3, 1.0),)), b))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ((3, 5), (5, 0), (3, 0)),
        ((5, 3), (3, 5), (3, 3)),
        ((5, 5), (3, 3), (3, 3)),
        ((3, 0), (0, 3), (0, 0)),
        ((0, 5), (5, 0), (0, 0)),
        ((3, 3), (0, 5), (0, 3)),
        ((5, 0), (0, 3), (0, 0)),
        ((0, 3), (0, 5), (0, 3)),
        ((3, 5), (3, 5), (3, 5)),
    ],
)
def test_two_kernel_sizes(one, other, shared):
    """Of `uib`: the shared network has, by id, of every layer the smaller one, and none that one of them lacks."""
    pairs = ((0, 3), (0, 5), (3, 0), (3, 3), (3, 5), (5, 0), (5, 3), (5, 5))
    uib = BlockChoice(BlockType("uib", "relu"), pairs, (2.0,))
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (16,), (1,), 2)
    stage = ElasticStage("a", uib, (16,), (1,), 2)
    space = SearchSpace("uib-0-0", (stem, stage), Head(32, 32, "relu"), (16,), 3)
    first, second = (
        space.subnet(16, (stem.largest(), stage.stage((Block(16, kernel_size, 2.0),)))) for kernel_size in (one, other)
    )
    common = space.common(first, second)
    assert common == space.common(second, first)
    assert common.stages[1].blocks[0].kernel_size == shared
    kernels = [
        {node.id: node.op.kernel_size for node in network_program(subnet) if isinstance(node.op, Conv | Depthwise)}
        for subnet in (first, second, common)
    ]
    assert kernels[2] == {name: min(kernels[0][name], kernels[1][name]) for name in kernels[0].keys() & kernels[1]}
    assert ("a/0/start" in kernels[2]) == bool(shared[0])
    assert ("a/0/depthwise" in kernels[2]) == bool(shared[1])


def change(subnet, index, **changes):
    stages = list(subnet.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(subnet, stages=tuple(stages))


@pytest.mark.parametrize(
    "foreign",
    [
        lambda s: replace(s, resolution=18),
        lambda s: replace(s, num_classes=4),
        lambda s: replace(s, head=Head(16, 16, "relu")),
        lambda s: replace(s, stages=s.stages[:2]),
        lambda s: change(s, 1, stride=2),
        lambda s: change(s, 1, name="c"),
        lambda s: change(s, 1, block_type=BlockType("mbv2", "relu")),
        lambda s: change(s, 1, blocks=(Block(24, 3, 1.0),)),
        lambda s: change(s, 1, blocks=(Block(8, 7, 1.0),)),
        lambda s: change(s, 1, blocks=(Block(8, 3, 1.5),)),
        lambda s: change(s, 2, blocks=(Block(16, 3, 0.0),) * 2),
        lambda s: change(s, 2, blocks=()),
    ],
)
def test_contains_rejects(foreign):
    space = reduced_space()
    assert not space.contains(foreign(space.smallest()))


def extent(node):
    """What a supernet must hold of a node."""
    return (node.in_shape.channels, node.out_shape.channels, *node.weight_shape)


@few
@given(SPACES, SEEDS, st.booleans())
def test_largest_nodes_cover_every_subnet(space, seed, is_published):
    program = network_program(space.sample(random.Random(seed)))
    largest = space.largest_nodes("published" if is_published else "device")
    for node in published(program) if is_published else program:
        cover = largest[node.id]
        assert (type(cover.op), cover.out.quantizer, cover.role) == (type(node.op), node.out.quantizer, node.role)
        assert all(large >= small for large, small in zip(extent(cover), extent(node), strict=True))


def test_largest_nodes_are_no_larger_than_needed():
    space = reduced_space()
    needed = {}
    for node in (node for subnet in all_subnets(space) for node in network_program(subnet)):
        needed[node.id] = tuple(map(max, extent(node), needed.get(node.id, extent(node))))
    # The head reads every width of the last stage
    assert {node_id: extent(node) for node_id, node in space.largest_nodes().items()} == needed


def test_nodes_of_a_subnet_fit_together():
    subnet = reduced_space().largest()
    program = network_program(subnet)
    nodes = {node.id: node for node in program}
    for node in program[1:]:
        assert node.in_shape == nodes[node.inputs[0]].out_shape
    # 20 pixels: stem to 10, stage b to 5
    assert nodes["head/final_expand"].in_shape == (32, 5, 5)
    assert stage_outputs(subnet) == {"stem": "stem/0/conv", "a": "a/1/add", "b": "b/2/add"}
    strides = [node.op.stride for node in program if node.role.stage == "b" and node.role.layer == "depthwise1"]
    assert strides == [2, 1, 1]
    assert [node.id for node in program if node.role.stage == HEAD] == [
        "head/final_expand",
        "head/pool",
        "head/feature_mix",
        "head/logits",
    ]
    assert program[-1].out_shape.channels == 3
    assert subnet.macs == sum(node.macs for node in program)
    assert subnet.num_params == sum(node.num_params for node in program)
