"""The examples of CONTRIBUTING.md for this room: they are typed off as they stand."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from spaceevo.graph.check import program_faults
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Tracer
from spaceevo.spaces.blocks import BlockSpec
from spaceevo.spaces.hyperspace import SpaceChoice
from spaceevo.spaces.subnet import network_program

PAGES = Path(__file__).parents[2]


def example(page, path):
    """The module that an example is, named by its first line."""
    sources = re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), flags=re.DOTALL)
    (source,) = [source for source in sources if path in source.splitlines()[0]]
    module = ModuleType("example")
    exec(compile(source, path, "exec"), vars(module))
    return module


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_type(stride):
    net = Tracer(Shape(8, 9, 13))
    declare = example("CONTRIBUTING.md", "# spaces/blocks/depthwise_mlp.py").declare
    output = declare(BlockSpec(8, 16, (3,), 2.0, stride, "relu"), net.input, net)
    assert program_faults(net.program) == ()
    assert output.shape == (Shape(16, 9, 13) if stride == 1 else Shape(16, 5, 7))
    assert [node.id for node in net.nodes] == ["depthwise", "expand", "project", "shortcut", "add"]


def test_the_hyperspace():
    hyperspace = example("CONTRIBUTING.md", "# spaces/presets/nano.py").HYPERSPACE
    assert (hyperspace.name, hyperspace.num_spaces) == ("nano", (2 * 2) ** 2)
    space = hyperspace.space(SpaceChoice((0, 1), (1, 0)), 10)
    assert space.encoding == "nano-01-10"
    for subnet in (space.smallest(), space.largest()):
        assert program_faults(network_program(subnet)) == ()


def test_the_program_of_a_network(capsys):
    example("docs/spaces.md", "from spaceevo.spaces.subnet import network_program")
    first, stem, *_ = capsys.readouterr().out.splitlines()
    assert first == f" input Quantize() {square(3, 224)} 0"
    assert stem.startswith("stem conv Conv(width=32, kernel_size=3, stride=2, crop=0, norm='batch_norm')")
    assert stem.endswith(f" {27 * 32 * 112**2}")
