"""What every block type must keep; runs over each file of the folder."""

from dataclasses import replace

import pytest

from spaceevo.graph.ops import Conv, Depthwise
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.testing.blocks import BlockForm, BlockSuite, convolutions, declared, spec_of

NAMES = BLOCKS.names()
IDENTITY_ONLY = ("mbv2-identity", "mbv3-identity", "mbconv", "fused-ib", "fbnet-se")
FORMS = {
    "uib": BlockForm(num_kernels=2, shortcut="identity"),
    "basic": BlockForm(expands=False),
    "conv": BlockForm(shortcut="never", expands=False),
    "conv-pool": BlockForm(shortcut="never", expands=False),
    "mbv1-dual": BlockForm(expands=False),
    "fbnet-cropped": BlockForm(shortcut="never", crop=2),
    "fbnet-se-cropped": BlockForm(shortcut="never", crop=2),
    **dict.fromkeys(IDENTITY_ONLY, BlockForm(shortcut="identity")),
}


def form_of(name):
    return FORMS.get(name, BlockForm())


class TestEveryBlock(BlockSuite):
    @pytest.fixture(params=NAMES)
    def name(self, request):
        return request.param

    @pytest.fixture
    def form(self, name):
        return form_of(name)


def test_all_block_types_are_here():
    assert {"conv", "mbv1-dual", "mbv2", "mbv3", "bottleneck", "fused-mbconv"} <= set(NAMES)


def test_published_forms():
    """Layer names, kernel sizes and hidden widths as the papers have them, for 8 -> 24 channels, ratio 2, stride 2."""
    forms = {}
    for name in NAMES:
        _, program = declared(name, spec_of(form_of(name), stride=2))
        forms[name] = [(node.role.layer, node.op) for node in convolutions(program)]
    shortcut = ("shortcut", Conv(24, 1, 2))
    mbv2 = [("expand", Conv(16)), ("depthwise", Depthwise(3, 2)), ("project", Conv(24)), shortcut]
    se = [("se/reduce", Conv(8, norm="bias")), ("se/expand", Conv(16, norm="bias"))]
    expected = {
        "conv": [("conv", Conv(24, 3, 2))],
        "mbv1-dual": [
            ("depthwise1", Depthwise(3, 2)),
            ("pointwise1", Conv(24)),
            ("depthwise2", Depthwise(3)),
            ("pointwise2", Conv(24)),
            shortcut,
        ],
        "mbv2": mbv2,
        "mbv3": [*mbv2[:2], *se, *mbv2[2:]],
        "bottleneck": [("reduce", Conv(48)), ("conv", Conv(48, 3, 2)), ("expand", Conv(24)), shortcut],
        "fused-mbconv": [("conv", Conv(16, 3, 2)), ("project", Conv(24)), shortcut],
    }
    assert {name: forms[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["mbv2", "mbv3"])
def test_inverted_residual_without_expansion(name):
    _, program = declared(name, spec_of(form_of(name), expand_ratio=1.0))
    assert program[1].id == "depthwise"


@pytest.mark.parametrize(
    ("kernel_sizes", "form"),
    [
        (
            (3, 5),
            [("start", Depthwise(3)), ("expand", Conv(16)), ("depthwise", Depthwise(5, 2)), ("project", Conv(24))],
        ),
        ((5, 0), [("start", Depthwise(5, 2)), ("expand", Conv(16)), ("project", Conv(24))]),
        ((0, 3), [("expand", Conv(16)), ("depthwise", Depthwise(3, 2)), ("project", Conv(24))]),
        ((0, 0), [("expand", Conv(16, 1, 2)), ("project", Conv(24))]),
    ],
)
def test_forms_of_the_universal_inverted_bottleneck(kernel_sizes, form):
    spec = replace(spec_of(FORMS["uib"], stride=2), kernel_sizes=kernel_sizes)
    _, program = declared("uib", spec)
    assert [(node.role.layer, node.op) for node in convolutions(program)] == form


def test_a_block_type_with_one_kernel_size_is_not_given_two():
    with pytest.raises(ValueError, match="too many values"):
        declared("mbv2", replace(spec_of(form_of("mbv2")), kernel_sizes=(3, 5)))
