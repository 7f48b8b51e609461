"""What every block type keeps (`spaceevo.spaces.blocks`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

import pytest

from spaceevo.graph.check import program_faults
from spaceevo.graph.largest import elementwise_maximum
from spaceevo.graph.nodes import INPUT, SHORTCUT, Node, Program, layers
from spaceevo.graph.ops import Add, Conv, Depthwise, Gate, Multiply, Sigmoid
from spaceevo.graph.tensors import Shape, square
from spaceevo.graph.trace import Activation, Counter, Feature, Tracer
from spaceevo.spaces.blocks import BLOCKS, BlockSpec
from spaceevo.spaces.choices import Value
from spaceevo.testing._threads import OneThread

ACTIVATIONS = ("relu", "relu6", "hard_swish", "swish")
WIDTHS = tuple(product((8, 16), (8, 24), (1, 2)))  # in_width, out_width, stride
SHAPES = (square(8, 7), Shape(8, 7, 10))
#: For a block type with two kernel sizes: for each kernel size of the tests the same in the middle, and none first.
KERNELS = {k: (0, k) for k in (3, 5)}


@dataclass(frozen=True)
class BlockForm:
    """What block types may differ in.

    Attributes:
        num_kernels: Kernel sizes that a spec has, 1 or 2.
        shortcut: Where the input is added: "always", by a convolution where shapes differ; only where it is the
            "identity"; or "never".
        crop: By how many pixels the output is smaller than its input and the stride say.
        expands: Whether there is a hidden width.
        added: A value by name on every axis of its own.
    """

    num_kernels: Literal[1, 2] = 1
    shortcut: Literal["always", "identity", "never"] = "always"
    crop: int = 0
    expands: bool = True
    added: tuple[tuple[str, Value], ...] = ()


def spec_of(
    form: BlockForm,
    in_width: int = 8,
    out_width: int = 24,
    stride: int = 1,
    kernel_size: int = 3,
    expand_ratio: float = 2.0,
    activation: Activation = "relu",
) -> BlockSpec:
    """A spec for a block type of a form."""
    kernel_sizes = KERNELS[kernel_size] if form.num_kernels == 2 else (kernel_size,)
    return BlockSpec(in_width, out_width, kernel_sizes, expand_ratio, stride, activation, form.added)


def declared(name: str, spec: BlockSpec, shape: Shape = SHAPES[0]) -> tuple[Feature, Program]:
    """What a block type puts out, and its program."""
    net = Tracer(shape._replace(channels=spec.in_width))
    output = BLOCKS.load(name).declare(spec, net.input, net)
    return output, net.program


def convolutions(program: Program) -> list[Node]:
    """The convolutions of a program, in order."""
    return [node for node in program if isinstance(node.op, Conv | Depthwise)]


def _counts(name: str, spec: BlockSpec, shape: Shape) -> tuple[Shape, int, int, int]:
    """Output, MACs, parameters, and how many nodes have weights, without making the nodes."""
    net = Counter(shape._replace(channels=spec.in_width))
    output = BLOCKS.load(name).declare(spec, net.input, net)
    return output.shape, net.macs, net.num_params, net.num_weighted


def _activation_of(layer: Sequence[Node]) -> str | None:
    """The activation that the nodes of a layer stand for."""
    first, *after = layer
    match [type(node.op) for node in after]:
        case []:
            return first.out.quantizer if first.out.quantizer in ("relu", "relu6") else None
        case [kind, product] if product is Multiply:
            return "hard_swish" if kind is Gate else "swish" if kind is Sigmoid else str(kind)
    raise AssertionError(layer)


def _specs(form: BlockForm) -> Iterator[BlockSpec]:
    for values in product((8, 16), (8, 16, 24), (1, 2), (3, 5), (0.5, 1.0, 2.0)):
        yield spec_of(form, *values)


class BlockSuite(OneThread):
    """Laws of a block type.

    Attributes:
        NAME: Of the plug-in.
        FORM: What it does otherwise than most.
    """

    NAME: ClassVar[str]
    FORM: ClassVar[BlockForm] = BlockForm()

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    @pytest.fixture
    def form(self, name: str) -> BlockForm:
        return self.FORM

    @pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_output(self, name: str, form: BlockForm, in_width: int, out_width: int, stride: int, shape: Shape) -> None:
        output, program = declared(name, spec_of(form, in_width, out_width, stride), shape)
        height, width = (side - form.crop for side in shape[1:])
        assert output == (program[-1].id, Shape(out_width, (height - 1) // stride + 1, (width - 1) // stride + 1))
        known = {node.id for node in program}
        assert len(known) == len(program)
        unread = known - {source for node in program[1:] for source in node.inputs}
        assert unread == {output.id}, "every tensor but the output is read"

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_contract_is_kept(self, name: str, form: BlockForm, activation: Activation, shape: Shape) -> None:
        for in_width, out_width, stride in WIDTHS:
            _, program = declared(name, spec_of(form, in_width, out_width, stride, activation=activation), shape)
            assert program_faults(program) == ()

    @pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
    def test_shortcut_is_the_identity_exactly_where_shapes_agree(
        self, name: str, form: BlockForm, in_width: int, out_width: int, stride: int
    ) -> None:
        _, program = declared(name, spec_of(form, in_width, out_width, stride))
        additions = [node for node in program if isinstance(node.op, Add)]
        is_same = (stride, in_width) == (1, out_width)
        if form.shortcut == "never" or (form.shortcut == "identity" and not is_same):
            assert not additions
            return
        (addition,) = additions
        found = [node for node in program if node.role.layer == SHORTCUT]
        if stride == 1 and in_width == out_width:
            assert addition.inputs[1] == INPUT
            assert not found
        else:
            assert addition.inputs[1] == SHORTCUT
            (convolution,) = found
            assert (convolution.inputs, convolution.op) == ((INPUT,), Conv(out_width, 1, stride))
            assert convolution.out.quantizer == "free", "no activation"

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_activation_is_the_one_asked_for(self, name: str, form: BlockForm, activation: Activation) -> None:
        _, program = declared(name, spec_of(form, activation=activation))
        outer = [layer for layer in layers(program) if "/" not in layer[0].role.layer]
        assert {_activation_of(layer) for layer in outer} - {None} == {activation}

    def test_one_elastic_node_per_id_covers_every_spec(self, name: str, form: BlockForm) -> None:
        programs = [declared(name, spec)[1] for spec in _specs(form)]
        largest = elementwise_maximum(programs)
        for node in (node for program in programs for node in program):
            cover = largest[node.id]
            assert cover.in_shape.channels >= node.in_shape.channels
            assert cover.out_shape.channels >= node.out_shape.channels
            assert (type(cover.op), cover.out.quantizer) == (type(node.op), node.out.quantizer)
            # The slice that a network takes: leading channels and the centre of the kernel
            assert all(a <= b for a, b in zip(node.weight_shape, cover.weight_shape, strict=True))
            if isinstance(node.op, Conv | Depthwise) and isinstance(cover.op, Conv | Depthwise):
                assert (cover.op.kernel_size - node.op.kernel_size) % 2 == 0

    @pytest.mark.parametrize("shape", SHAPES)
    def test_costs_are_those_of_the_nodes(self, name: str, form: BlockForm, shape: Shape) -> None:
        for spec in _specs(form):
            output, program = declared(name, spec, shape)
            macs, num_params = sum(node.macs for node in program), sum(node.num_params for node in program)
            num_weighted = sum(node.has_weights for node in program)
            assert _counts(name, spec, shape) == (output.shape, macs, num_params, num_weighted)

    @pytest.mark.parametrize(("in_width", "out_width", "stride"), WIDTHS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_costs_are_those_of_the_module(
        self, name: str, form: BlockForm, in_width: int, out_width: int, stride: int, shape: Shape
    ) -> None:
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from spaceevo.nets.network import single_network

        spec = spec_of(form, in_width, out_width, stride, kernel_size=5, activation="hard_swish")
        _, program = declared(name, spec, shape)
        network = single_network(program, 127, torch.Generator().manual_seed(0)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = network(torch.randn(1, *program[0].in_shape), program)
        assert output.shape[1:] == program[-1].out_shape
        assert 2 * sum(node.macs for node in program) == counter.get_total_flops()
        trained = [p.numel() for key, p in network.weighted.named_parameters() if not key.endswith("weight_scale")]
        assert sum(node.num_params for node in program) == sum(trained)

    def test_expand_ratio_matters(self, name: str, form: BlockForm) -> None:
        if not form.expands:
            pytest.skip("it has no hidden width")
        narrow, wide = (
            sum(node.macs for node in declared(name, spec_of(form, expand_ratio=ratio))[1]) for ratio in (1.0, 3.0)
        )
        assert wide > narrow

    def test_kernel_size_matters(self, name: str, form: BlockForm) -> None:
        three, five = (sum(node.macs for node in declared(name, spec_of(form, kernel_size=k))[1]) for k in (3, 5))
        assert five > three
