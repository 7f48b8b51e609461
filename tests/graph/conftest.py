"""Small programs, written out."""

import pytest

from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Tracer


def _small(shape: Shape) -> Program:
    net = Tracer(shape)
    x = net.conv("stem", net.input, 8, kernel_size=3, stride=2, activation="relu")
    with net.scope("block"):
        source = x
        x = net.depthwise("depthwise", x, kernel_size=5, activation="hard_swish")
        x = net.squeeze_excite("se", x, 4)
        x = net.shortcut(x, source, stride=1)
    x = net.pool("pool", x)
    net.linear("logits", x, 10)
    return net.program


@pytest.fixture(scope="session")
def small_network() -> Program:
    """A stem, a depthwise layer with SE, an addition, and a head, on 3 x 9 x 9."""
    return _small(square(3, 9))


@pytest.fixture(scope="session")
def small_rectangle() -> Program:
    """The same on 3 x 9 x 13."""
    return _small(Shape(3, 9, 13))


@pytest.fixture(scope="session")
def every_operator() -> Program:
    """Every operator at least once, in the placement of devices, on 3 x 12 x 20."""
    net = Tracer(Shape(3, 12, 20))
    x = net.conv("stem", net.input, 8, kernel_size=3, stride=2, activation="relu6")
    x = net.max_pool("smaller", x)
    source = x
    x = net.depthwise("depthwise", x, kernel_size=5, activation="hard_swish")
    x = net.squeeze_excite("se", x, 4)
    x = net.shortcut(x, source, stride=1, activation="relu")
    x = net.conv("mix", x, 16, activation="swish")
    x = net.pool("pool", x)
    net.linear("logits", x, 10)
    return net.program
