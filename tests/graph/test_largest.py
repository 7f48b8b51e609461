"""The largest node of each id over many programs."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from spaceevo.graph.largest import elementwise_maximum
from spaceevo.graph.nodes import INPUT, Node, Role
from spaceevo.graph.ops import Conv, Depthwise, Linear
from spaceevo.graph.tensors import Shape, Tensor, square
from spaceevo.graph.trace import Tracer


def node_of(node_id, op, in_shape, quantizer="free", inputs=(INPUT,), weights=None):
    out = Tensor(op.out_shape(in_shape), quantizer)
    return Node(node_id, op, inputs, in_shape, out, Role("", None, node_id), weights)


def test_by_hand():
    wide, other = node_of("a", Conv(8, 3, 2), square(4, 6)), node_of("a", Conv(2, 5, 2), square(16, 6))
    alone = node_of("b", Conv(8, 3, 2), square(4, 6), "relu")
    linear, larger = node_of("l", Linear(10), Shape(4), "none"), node_of("l", Linear(3), Shape(9), "none")
    assert elementwise_maximum([(wide, linear), (other, alone, larger)]) == {
        "a": node_of("a", Conv(8, 5, 2), square(16, 6)),
        "b": alone,
        "l": node_of("l", Linear(10), Shape(9), "none"),
    }


def test_depthwise_keeps_the_crop():
    small, large = (node_of("d", Depthwise(k, crop=1), square(4, 9)) for k in (3, 5))
    found = elementwise_maximum([(small,), (large,)])["d"]
    assert found.op == Depthwise(5, crop=1)
    assert found.in_shape == square(4, 9)


def test_weights_under_a_name_of_their_own_have_an_entry():
    """A stack of depth 1 or 2: its last convolution has other weights at each depth, and one norm."""

    def stack(depth, channels):
        net = Tracer(square(channels, 6))
        x = net.input
        for index in range(depth - 1):
            x = net.depthwise(f"depthwise{index}", x, kernel_size=3, norm="none")
        net.depthwise("depthwise", x, kernel_size=3, activation="relu", weights=f"depthwise{depth - 1}")
        return net.nodes

    for programs in ([stack(1, 16), stack(2, 8)], [stack(2, 8), stack(1, 16)]):
        largest = elementwise_maximum(programs)
        assert set(largest) == {"depthwise", "depthwise0", "depthwise1"}
        assert {largest[name].weight_shape for name in ("depthwise", "depthwise0")} == {(16, 1, 3, 3)}
        assert largest["depthwise1"].weight_shape == (8, 1, 3, 3)
        # What is also a node of some program is told as that, not as mere weights
        assert largest["depthwise0"].inputs == (INPUT,)
        assert (largest["depthwise1"].inputs, largest["depthwise1"].out.quantizer) == ((), "none")
        assert largest["depthwise1"].num_params == 9 * 8


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5, 7])), min_size=1, max_size=6)
)
def test_laws(sizes):
    programs = [(node_of("a", Conv(width, kernel), square(channels, 8)),) for channels, width, kernel in sizes]
    largest = elementwise_maximum(programs)
    (cover,) = largest.values()
    assert cover.weight_shape == tuple(map(max, zip(*(program[0].weight_shape for program in programs), strict=True)))
    assert elementwise_maximum(reversed(programs)) == largest
    assert elementwise_maximum([*programs, (cover,)]) == largest
    assert elementwise_maximum([(cover,)]) == largest


@pytest.mark.parametrize("repeats", [1, 3])
def test_of_equal_programs(every_operator, repeats):
    assert elementwise_maximum([every_operator] * repeats) == {node.id: node for node in every_operator}


def test_the_first_program_tells_the_rest(every_operator):
    """What is no size, such as what a node reads, is that of the first program."""
    renamed = tuple(replace(node, inputs=("elsewhere",)) for node in every_operator)
    assert elementwise_maximum([every_operator, renamed])["stem"].inputs == (INPUT,)
