"""A block type with an axis of its own, as a package of a third party brings it: through all that chooses blocks."""

import random
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given, strategies as st

from spaceevo import plugins
from spaceevo.errors import EncodingError
from spaceevo.graph.check import program_faults
from spaceevo.graph.identity import identity
from spaceevo.graph.ops import Conv
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.choices import Axis, Block
from spaceevo.spaces.encoding import decode, encode, is_encoding
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head, network_program
from spaceevo.testing import BlockForm, BlockSuite

#: A convolution that is repeated, then two depthwise ones, each of which may be left out.
MODULE = '''
"""A block with two axes of its own."""

def declare(spec, x, net):
    added = dict(spec.added)
    for index in range(added["repeats"]):
        stride = 1 if index else spec.stride
        x = net.conv(f"conv{index}", x, spec.out_width, kernel_size=spec.kernel_size, stride=stride,
                     activation=spec.activation)
    for name, kernel_size in zip(("row", "column"), added["kernel_sizes_after"]):
        if kernel_size:
            x = net.depthwise(name, x, kernel_size=kernel_size)
    return x
'''
REPEATS = Axis("repeats", (1, 2, 4))
AFTER = Axis("kernel_sizes_after", ((0, 3), (3, 0), (3, 5)))
SEEDS = st.integers(0, 2**32)
TEXT = "d1#2#1_k3#3#5#3_w8#16#24#16_e0#0#0#2.0_repeats0#1#4#0_kernel-sizes-after0#0+3#3+5#0_r16"


@pytest.fixture(scope="module", autouse=True)
def _plugin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "repeated_convolution.py").write_text(MODULE)
    entry = EntryPoint("repeated-convolution", "repeated_convolution", BLOCKS.package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(plugins, "entry_points", lambda group: [entry] if group == BLOCKS.package else [])
        plugins._locations.cache_clear()
        yield
    sys.modules.pop("repeated_convolution", None)
    plugins._locations.cache_clear()


def space_with_axes():
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2)
    choice = BlockChoice(BlockType("repeated-convolution", "relu"), (3, 5), added=(REPEATS, AFTER))
    known = BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (1.0, 2.0))
    stages = (stem, ElasticStage("a", choice, (16, 24), (1, 2), 2), ElasticStage("b", known, (16, 24), (1, 2), 2))
    return SearchSpace("axes-01-00", stages, Head(16, 24, "relu"), (16, 20), 3)


SPACE = space_with_axes()
ELASTIC = SPACE.stages[1]


def block_of(width=16, kernel_size=3, repeats=1, after=(0, 3)):
    return Block(width, kernel_size, 0.0, (("repeats", repeats), ("kernel_sizes_after", after)))


def test_axes_and_blocks():
    assert [axis.name for axis in ELASTIC.axes] == [
        "width",
        "kernel_size",
        "expand_ratio",
        "repeats",
        "kernel_sizes_after",
    ]
    blocks = ELASTIC.blocks()
    assert len(blocks) == len(set(blocks)) == 2 * 2 * 1 * 3 * 3
    assert list(blocks) == sorted(blocks, key=lambda block: block.choices)
    assert blocks[0] == block_of()
    assert blocks[-1] == block_of(24, 5, 4, (3, 5))
    assert ELASTIC.num_substages == 36 + 36**2
    assert (ELASTIC.smallest().blocks, ELASTIC.largest().blocks) == ((blocks[0],), (blocks[-1],) * 2)


@given(SEEDS)
def test_sampling_mutation_and_crossover_stay_inside(seed):
    rng = random.Random(seed)
    first, second = SPACE.sample(rng), SPACE.sample(rng)
    mutant, child = SPACE.mutate(first, rng), SPACE.crossover(first, second, rng)
    assert mutant != first
    for subnet in (first, second, mutant, child):
        assert SPACE.contains(subnet)
        assert program_faults(network_program(subnet)) == ()
    assert set(child.stages[1].blocks) <= {*first.stages[1].blocks, *second.stages[1].blocks}


def test_sampling_and_mutation_reach_every_choice():
    rng = random.Random(0)
    stem, a, b = SPACE.stages
    space = replace(SPACE, stages=(stem, replace(a, depths=(1,)), b))  # no block is new, which would be sampled
    subnet = space.smallest()
    sampled, mutated = set(), set()
    for _ in range(1000):
        sampled |= set(space.sample(rng).stages[1].blocks)
        subnet = space.mutate(subnet, rng)
        mutated |= set(subnet.stages[1].blocks)
    assert sampled == mutated == set(ELASTIC.blocks())
    assert {ELASTIC.sample_block(rng) for _ in range(1000)} == set(ELASTIC.blocks())


@pytest.mark.parametrize(
    "foreign",
    [
        block_of(repeats=3),
        block_of(after=(0, 0)),
        Block(16, 3),
        Block(16, 3, 0.0, (("repeats", 1),)),
        Block(16, 3, 0.0, (("kernel_sizes_after", (0, 3)), ("repeats", 1))),
    ],
)
def test_contains_rejects(foreign):
    smallest = SPACE.smallest()
    stem, a, b = smallest.stages
    assert SPACE.contains(smallest)
    assert not SPACE.contains(replace(smallest, stages=(stem, replace(a, blocks=(foreign,)), b)))


def test_what_two_blocks_share():
    shared = block_of(24, 3, 2, (3, 0)).common(block_of(16, 5, 4, (0, 3)))
    assert shared == block_of(16, 3, 2, (0, 0))


@given(SEEDS)
def test_what_two_subnets_share(seed):
    rng = random.Random(seed)
    first, second = SPACE.sample(rng), SPACE.sample(rng)
    common = SPACE.common(first, second)
    assert common == replace(SPACE.common(second, first), resolution=first.resolution)
    assert SPACE.common(first, SPACE.largest()) == first
    assert program_faults(network_program(common)) == ()
    weights = {node.id: node.weight_shape for node in network_program(common) if node.role.stage == "a"}
    for subnet in (first, second):
        whole = {node.id: node.weight_shape for node in network_program(subnet)}
        assert weights.keys() <= whole.keys(), "no layer that one of them lacks"


def test_the_declaration_reads_the_axes():
    stem, a, b = SPACE.smallest().stages
    subnet = SPACE.subnet(16, (stem, replace(a, blocks=(block_of(24, 5, 2, (3, 5)),)), b))
    nodes = [node for node in network_program(subnet) if node.role.stage == "a"]
    assert [node.role.layer for node in nodes] == ["conv0", "conv1", "row", "column"]
    assert nodes[0].op == Conv(24, 5, 2)
    assert identity(subnet) != identity(SPACE.subnet(16, (stem, replace(a, blocks=(block_of(24, 5, 2),)), b)))


def test_the_supernet_holds_all_of_it():
    largest = SPACE.largest_nodes()
    assert {node.role.layer for node in largest.values() if node.role[:2] == ("a", 1)} == {
        "conv0",
        "conv1",
        "conv2",
        "conv3",
        "row",
        "column",
    }
    assert largest["a/1/conv0"].weight_shape == (24, 24, 5, 5)
    assert (largest["a/0/row"].weight_shape, largest["a/0/column"].weight_shape) == ((24, 1, 3, 3), (24, 1, 5, 5))


@given(SEEDS)
def test_encodings_come_back(seed):
    subnet = SPACE.sample(random.Random(seed))
    text = encode(subnet)
    assert is_encoding(text)
    back = decode(text, SPACE)
    assert back == subnet
    assert repr(back) == repr(subnet)


def test_encoding_by_hand():
    subnet = decode(TEXT, SPACE)
    assert subnet.stages[1].blocks == (block_of(), block_of(24, 5, 4, (3, 5)))
    assert subnet.stages[2].blocks == (Block(16, 3, 2.0),)
    assert encode(subnet) == TEXT


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_repeats0#1#4#0", "_repeats0#3#4#0", ["repeats 3 in block 0 of a", "Allowed there: 1, 2, 4"]),
        ("_repeats0#1#4#0", "_repeats0#1#4#1", ["repeats 1 in block 0 of b", "Allowed there: 0"]),
        ("_repeats0#1#4#0", "_repeats0#1#4", ["3 values after 'repeats'", "4 blocks"]),
        ("_repeats0#1#4#0", "_repeats0#1#x#0", ["'0#1#x#0' after 'repeats'"]),
        ("_repeats0#1#4#0", "", ["d..._k..._w..._e..._repeats..._kernel-sizes-after..._r..."]),
        ("after0#0+3", "after0#0+5", ["kernel sizes after 0+5 in block 0 of a", "0+3, 3+0, 3+5"]),
        ("after0#0+3", "after0#3", ["kernel sizes after 3 in block 0 of a", "0+3, 3+0, 3+5"]),
    ],
)
def test_malformed_encodings(old, new, told):
    assert old in TEXT
    with pytest.raises(EncodingError) as error:
        decode(TEXT.replace(old, new), SPACE)
    for part in told:
        assert part in str(error.value)


def test_a_space_without_the_axes_has_the_published_form():
    space = replace(SPACE, stages=(SPACE.stages[0], SPACE.stages[2]))
    subnet = space.smallest()
    assert encode(subnet) == "d1#1_k3#3_w8#16_e0#1.0_r16"
    with pytest.raises(EncodingError, match=r"dD#\.\.\._kK"):
        decode("d1#1_k3#3_w8#16_e0#1.0_repeats0#0_r16", space)


class TestRepeatedConvolution(BlockSuite):
    NAME = "repeated-convolution"
    FORM = BlockForm(shortcut="never", expands=False, added=(("repeats", 2), ("kernel_sizes_after", (3, 0))))
