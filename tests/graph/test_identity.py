"""Equal values have equal identities, in every process; different ones do not; programs come back from JSON."""

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.graph import identity as identities
from spaceevo.graph.identity import (
    canonical,
    canonical_json,
    identity,
    op_from_json,
    program_from_json,
    program_to_json,
)
from spaceevo.graph.nodes import Role
from spaceevo.graph.ops import Conv, Depthwise, Gate, MaxPool, Multiply, Pool, Relabel, Sigmoid
from spaceevo.graph.tensors import Shape, Tensor
from spaceevo.graph.trace import published
from spaceevo.spaces.hyperspace import PRESETS, load_hyperspace
from spaceevo.spaces.subnet import network_program
from spaceevo.spaces.zoo import load_network, zoo

MICRO = load_hyperspace("micro")
SUBNET = MICRO.space(MICRO.decode("micro-014-120"), 10).smallest()


@st.composite
def programs(draw):
    """The program of a random subnet of any preset, in either placement."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    hyperspace = load_hyperspace(draw(st.sampled_from(PRESETS.names())))
    program = network_program(hyperspace.space(hyperspace.sample(rng), 10).sample(rng))
    return published(program) if draw(st.booleans()) else program


def test_by_hand():
    node = network_program(SUBNET)[1]
    assert canonical_json(node) == (
        '{"format":1,"value":{'
        '"id":"stem/0/conv","in_shape":[3,32,32],"inputs":["input"],'
        '"op":{"kernel_size":3,"op":"Conv","stride":2,"width":16},'
        '"out":{"quantizer":"relu","shape":[16,16,16]},'
        '"role":{"block":0,"layer":"conv","stage":"stem"}}}'
    )
    assert identity(Shape(3)) == "ade85b57e9e1d04e208b25665d4b94eec93982e9b517312ce079f7aeb603d66a"  # by sha256sum


def test_the_format_is_part_of_it(monkeypatch):
    before = identity(SUBNET)
    monkeypatch.setattr(identities, "FORMAT", identities.FORMAT + 1)
    assert identity(SUBNET) != before


@pytest.mark.parametrize("seed", ["0", "1234"])
def test_another_process_finds_the_same(seed):
    code = (
        "from spaceevo.graph.identity import identity\n"
        "from spaceevo.spaces.named import named_space\n"
        "from spaceevo.spaces.subnet import network_program\n"
        "space = named_space('micro-014-120', 10)\n"
        "print(identity(space), identity(space.smallest()), identity(network_program(space.smallest())))"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    space = MICRO.space(MICRO.decode("micro-014-120"), 10)
    assert done.stdout.split() == [identity(value) for value in (space, SUBNET, network_program(SUBNET))]


def test_equal_numbers_are_equal():
    assert identity((3, 0.0)) == identity([3.0, -0.0])
    assert identity(SUBNET) == identity(replace(SUBNET, resolution=float(SUBNET.resolution)))
    assert identity(3) != identity(3.5)
    assert identity("3") != identity(3)
    assert canonical(0.1) == 0.1


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_a_mapping_does_not_matter(mapping):
    turned = dict(reversed(mapping.items()))
    assert identity(turned) == identity(mapping)


def test_fields_with_defaults_may_be_added_and_fields_may_be_moved():
    def before():
        @dataclass(frozen=True)
        class Kernel:
            name: str
            size: int = 3

        return Kernel("conv", 5)

    def after(**added: object):
        @dataclass(frozen=True)
        class Kernel:
            size: int
            name: str = "conv"
            groups: int = 1
            tags: Mapping[str, int] = field(default_factory=dict)
            parts: tuple[int, ...] = ()

        return Kernel(5, **added)

    assert identity(before()) != identity(after()), "the name is its default there, and left out"
    assert identity(replace(after(), name="pool")) == identity(replace(before(), name="pool"))
    for added in ({"groups": 2}, {"tags": {"a": 1}}, {"parts": (0,)}):
        assert identity(after(name="pool", **added)) != identity(after(name="pool"))


def test_fields_of_named_tuples_may_be_added_too():
    def before():
        class Axis(NamedTuple):
            name: str
            value: int

        return Axis("width", 3)

    def after(**added: object):
        class Axis(NamedTuple):
            value: int
            name: str
            unit: str = ""

        return Axis(3, "width", **added)

    assert identity(before()) == identity(after())
    assert identity(before()) != identity(after(unit="px"))


DIFFERENT = {
    "id": lambda n: replace(n, id="other"),
    "width": lambda n: replace(n, op=Conv(24, 3, 2)),
    "kernel size": lambda n: replace(n, op=Conv(16, 5, 2)),
    "stride": lambda n: replace(n, op=Conv(16, 3)),
    "crop": lambda n: replace(n, op=Conv(16, 3, 2, crop=1)),
    "norm": lambda n: replace(n, op=Conv(16, 3, 2, norm="bias")),
    "depthwise": lambda n: replace(n, op=Depthwise(3, 2)),
    "max pool": lambda n: replace(n, op=MaxPool(3, 2)),
    "pool": lambda n: replace(n, op=Pool()),
    "gate": lambda n: replace(n, op=Gate()),
    "sigmoid": lambda n: replace(n, op=Sigmoid()),
    "relabel": lambda n: replace(n, op=Relabel()),
    "multiply": lambda n: replace(n, op=Multiply()),
    "multiply per channel": lambda n: replace(n, op=Multiply(per_channel=True)),
    "inputs": lambda n: replace(n, inputs=("input", "input")),
    "in_shape": lambda n: replace(n, in_shape=Shape(3, 32, 31)),
    "turned in_shape": lambda n: replace(n, in_shape=Shape(3, 31, 32)),
    "out_shape": lambda n: replace(n, out=n.out._replace(shape=Shape(16, 16, 15))),
    "quantizer": lambda n: replace(n, out=n.out._replace(quantizer="free")),
    "float": lambda n: replace(n, out=n.out._replace(stays_float=True)),
    "stage": lambda n: replace(n, role=n.role._replace(stage="head")),
    "block": lambda n: replace(n, role=n.role._replace(block=1)),
    "no block": lambda n: replace(n, role=n.role._replace(block=None)),
    "layer": lambda n: replace(n, role=n.role._replace(layer="conv2")),
    "weights": lambda n: replace(n, weights="other"),
}


def test_every_difference_of_a_node_counts():
    node = network_program(SUBNET)[1]
    assert (node.op, node.role) == (Conv(16, 3, 2), Role("stem", 0, "conv"))
    found = {what: identity(change(node)) for what, change in {"none": lambda n: n, **DIFFERENT}.items()}
    assert len(set(found.values())) == len(found)


@settings(max_examples=20)
@given(programs(), programs())
def test_identities_are_equal_where_programs_are(first, second):
    assert (identity(first) == identity(second)) == (first == second)


@settings(max_examples=30)
@given(programs())
def test_a_program_comes_back(program):
    text = json.dumps(program_to_json(program), allow_nan=False)
    back = program_from_json(json.loads(text))
    assert back == program
    assert repr(back) == repr(program), "types, too"
    assert identity(back) == identity(program)


@pytest.mark.parametrize("name", zoo())
def test_networks_of_the_zoo_come_back(name):
    program = network_program(load_network(name).subnet)
    assert program_from_json(json.loads(json.dumps(program_to_json(program)))) == program


def test_every_operator_comes_back(every_operator):
    for node in every_operator:
        assert op_from_json(canonical(node.op)) == node.op
    assert op_from_json({"op": "Conv", "width": 8}) == Conv(8)


GOOD: list[dict[str, Any]] = program_to_json(network_program(SUBNET)[:2])
NOTHING = object()


def put(row: Any, path: tuple[Any, ...], value: object) -> Any:
    """A copy of a row with something else at a path; `NOTHING` takes it out."""
    if not path:
        return value
    first, *rest = path
    copy = list(row) if isinstance(row, list) else dict(row)
    inner = copy.get(first) if isinstance(copy, dict) else copy[first]
    changed = put(inner, tuple(rest), value)
    if changed is NOTHING:
        del copy[first]
    else:
        copy[first] = changed
    return copy


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ((), 3, "A program is a list of nodes, not int"),
        ((), "abc", "A program is a list of nodes, not str"),
        ((), {"nodes": []}, "A program is a list of nodes, not dict"),
        ((1,), None, "A node is an object with names, not NoneType"),
        ((1,), [1, 2], "A node is an object with names, not list"),
        ((1, "op"), NOTHING, "An operator is an object with names, not NoneType"),
        ((1, "op"), "Conv", "An operator is an object with names, not str"),
        ((1, "op", "op"), NOTHING, "There is no operator None; there are Quantize, Conv"),
        ((1, "op", "op"), "Concat", "There is no operator 'Concat'; there are Quantize, Conv"),
        ((1, "op", "op"), ["Conv"], "There is no operator"),
        ((1, "op", "groups"), 2, "Conv has no groups"),
        ((1, "op", "width"), NOTHING, "width"),
        ((1, "op", "kernel_size"), 3.5, "kernel_size"),
        ((1, "op", "kernel_size"), "three", "kernel_size"),
        ((1, "op", "norm"), "layer_norm", "norm"),
        ((1, "colour"), "red", "A node has no colour"),
        ((1, "id"), NOTHING, "id"),
        ((1, "id"), 3, "id"),
        ((1, "inputs"), "input", "inputs"),
        ((1, "inputs"), [3], "inputs"),
        ((1, "in_shape"), [3, 32, 32, 1], "in_shape"),
        ((1, "in_shape"), [3, "tall", 32], "in_shape"),
        ((1, "in_shape", 1), None, "in_shape"),
        ((1, "out"), NOTHING, "out"),
        ((1, "out", "quantizer"), "int4", "quantizer"),
        ((1, "out", "shape"), "16 x 16", "shape"),
        ((1, "role"), NOTHING, "role"),
        ((1, "role", "block"), "first", "block"),
        ((1, "weights"), 3, "weights"),
    ],
)
def test_damaged_programs_are_refused(path, value, told):
    assert program_from_json(GOOD) == network_program(SUBNET)[:2]
    with pytest.raises(ValueError, match=told):
        program_from_json(put(GOOD, path, value))


def paths(value: Any) -> list[tuple[Any, ...]]:
    """Where something lies in what JSON has."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *path) for key, inner in items for path in paths(inner))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.sampled_from(paths(GOOD)), json_values | st.just(NOTHING))
def test_any_damage_is_a_value_error_or_a_program(path, value):
    if path == () and value is NOTHING:
        return
    with contextlib.suppress(ValueError):
        program = program_from_json(put(GOOD, path, value))
        assert all(isinstance(node.out, Tensor) for node in program)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, Shape, lambda: 3])
def test_what_has_no_form_is_an_error(value):
    with pytest.raises(TypeError, match="has no canonical form"):
        identity((1, {"a": value}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error(value):
    with pytest.raises(ValueError):
        identity(value)
