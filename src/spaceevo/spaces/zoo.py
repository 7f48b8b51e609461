"""Named networks of the literature, as block declarations (see `docs/spaces.md`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from spaceevo.errors import PluginError, nearest
from spaceevo.graph.trace import Activation
from spaceevo.spaces import encoding
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import BlockType, Head, Stage, Subnet

NUM_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A published network.

    Attributes:
        name: As published.
        build: Makes its declaration.
        published_macs: Millions, as the source counts them.
        published_params: Millions; None where the source prints none.
        source: Paper, and where the counts come from if elsewhere.
        note: Where sources differ, and in what.
    """

    name: str
    build: Callable[[], Subnet]
    published_macs: float
    published_params: float | None
    source: str
    note: str = ""

    @property
    def subnet(self) -> Subnet:
        """The network, for 1000 classes."""
        return self.build()


def zoo() -> dict[str, ZooNetwork]:
    """All networks by name."""
    return {network.name: network for network in _NETWORKS}


def load_network(name: str) -> ZooNetwork:
    """A network by its name.

    Raises:
        PluginError: There is none of that name; the nearest is told.

    >>> load_network("ResNet-18").subnet.num_params
    11689512
    """
    networks = zoo()
    if name not in networks:
        close = nearest(name, networks)
        raise PluginError(
            f"There is no network named {name!r} in the zoo",
            found=f"Available: {', '.join(networks)}",
            remedy=f"Did you mean {close!r}?" if close else "",
        )
    return networks[name]


#: (kind, activation, stride, [(width, kernel size, expand ratio), ...]) of consecutive blocks of one type.
_Rows = list[tuple[str, Activation, int, list[tuple[int, int | tuple[int, int], float]]]]


def _network(resolution: int, rows: _Rows, head: Head) -> Subnet:
    stages = tuple(
        Stage(
            f"stage{index}" if index else "stem", BlockType(kind, activation), stride, tuple(Block(*b) for b in blocks)
        )
        for index, (kind, activation, stride, blocks) in enumerate(rows)
    )
    return Subnet(resolution, stages, head, NUM_CLASSES)


def _mobilenet_v2() -> Subnet:
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    rows: _Rows = [("conv", "relu6", 2, [(32, 3, 0.0)])]
    rows += [
        ("mbv2-identity", "relu6", stride, [(width, 3, float(ratio))] * depth) for ratio, width, depth, stride in plan
    ]
    return _network(224, rows, Head(1280, 0, "relu6"))


#: Kernel size, hidden width, output width, SE, hard-swish, stride (ICCV 2019, Tables 1 and 2).
_V3_LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2), (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)  # fmt: skip
_V3_SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2), (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)  # fmt: skip


def _mobilenet_v3(blocks: tuple[tuple[int, ...], ...], final_expand: int, feature_mix: int) -> Subnet:
    rows: _Rows = [("conv", "hard_swish", 2, [(16, 3, 0.0)])]
    in_width = 16
    for kernel_size, hidden, width, se, hard_swish, stride in blocks:
        kind = "mbv3-identity" if se else "mbv2-identity"
        activation: Activation = "hard_swish" if hard_swish else "relu"
        rows.append((kind, activation, stride, [(width, kernel_size, hidden / in_width)]))
        in_width = width
    return _network(224, rows, Head(final_expand, feature_mix, "hard_swish", feature_mix_norm="bias"))


def _efficientnet(kind: str, activation: Activation) -> Subnet:
    plan = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
    rows: _Rows = [("conv", activation, 2, [(32, 3, 0.0)])]
    rows += [(kind, activation, stride, [(width, k, float(ratio))] * depth) for ratio, width, depth, stride, k in plan]
    return _network(224, rows, Head(1280, 0, activation))


def _resnet(kind: str, depths: tuple[int, ...], widths: tuple[int, ...]) -> Subnet:
    rows: _Rows = [("conv-pool", "relu", 4, [(64, 7, 0.0)])]
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        rows.append((kind, "relu", 1 if index == 0 else 2, [(width, 3, 0.25)] * depth))
    return _network(224, rows, Head(0, 0, "relu"))


def _fbnet_v3_a() -> Subnet:
    rows: _Rows = [
        ("conv", "hard_swish", 2, [(16, 3, 0.0)]),
        ("mbv2-identity", "hard_swish", 1, [(16, 3, 1.0)] * 2),
        ("mbv2-identity", "hard_swish", 2, [(24, 5, 4.0), *[(24, 5, 2.0)] * 3]),
        ("fbnet-se", "hard_swish", 2, [(40, 5, 5.0), *[(40, 5, 3.0)] * 4]),
        ("fbnet-cropped", "hard_swish", 2, [(72, 5, 5.0)]),
        ("mbv2-identity", "hard_swish", 1, [(72, 3, 3.0)] * 4),
        ("fbnet-se", "hard_swish", 1, [(120, 3, 5.0), *[(120, 5, 3.0)] * 5]),
        ("fbnet-se-cropped", "hard_swish", 2, [(184, 3, 6.0)]),
        ("fbnet-se", "hard_swish", 1, [*[(184, 5, 4.0)] * 5, (224, 5, 6.0)]),
    ]
    return _network(224, rows, Head(6 * 224, 1984, "hard_swish", feature_mix_norm="bias"))


#: Kernel sizes of universal inverted bottlenecks, as the source names them (ECCV 2024, Figure 4).
_EXTRA_DW, _IB, _CONV_NEXT, _FFN = (3, 5), (0, 3), (3, 0), (0, 0)


def _mobilenet_v4_small() -> Subnet:
    rows: _Rows = [
        ("conv", "relu", 2, [(32, 3, 0.0)]),
        ("conv", "relu", 2, [(32, 3, 0.0), (32, 1, 0.0)]),
        ("conv", "relu", 2, [(96, 3, 0.0), (64, 1, 0.0)]),
        ("uib", "relu", 2, [(96, (5, 5), 3.0), *[(96, _IB, 2.0)] * 4, (96, _CONV_NEXT, 4.0)]),
        ("uib", "relu", 2, [(128, (3, 3), 6.0), (128, (5, 5), 4.0), (128, (0, 5), 4.0), (128, (0, 5), 3.0),
                            *[(128, _IB, 4.0)] * 2]),
    ]  # fmt: skip
    return _network(224, rows, Head(960, 1280, "relu"))


def _mobilenet_v4_medium() -> Subnet:
    rows: _Rows = [
        ("conv", "relu", 2, [(32, 3, 0.0)]),
        ("fused-ib", "relu", 2, [(48, 3, 4.0)]),
        ("uib", "relu", 2, [(80, _EXTRA_DW, 4.0), (80, (3, 3), 2.0)]),
        ("uib", "relu", 2, [(160, _EXTRA_DW, 6.0), *[(160, (3, 3), 4.0)] * 2, (160, _EXTRA_DW, 4.0),
                            (160, (3, 3), 4.0), (160, _CONV_NEXT, 4.0), (160, _FFN, 2.0), (160, _CONV_NEXT, 4.0)]),
        ("uib", "relu", 2, [(256, (5, 5), 6.0), (256, (5, 5), 4.0), *[(256, _EXTRA_DW, 4.0)] * 2, (256, _FFN, 4.0),
                            (256, _CONV_NEXT, 4.0), (256, _EXTRA_DW, 2.0), (256, (5, 5), 4.0),
                            *[(256, _FFN, 4.0)] * 2, (256, (5, 0), 2.0)]),
    ]  # fmt: skip
    return _network(256, rows, Head(960, 1280, "relu"))


#: The published encodings, by target (SpaceEvo, ICCV 2023, Table 1 and the released models): space, subnets A0 to A4.
_SEQNETS = {
    "vnni": ("onnxw-151122-023231", (
        "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#112#112#144#144#240#240#320"
        "_e0#0.5#4.0#4.0#1.0#1.0#4.0#4.0#4.0#4.0#4.0#4.0#4.0_r160",
        "d1#1#2#2#3#2#3#1_k3#3#3#3#3#3#3#5#3#3#3#3#3#3#5"
        "_w16#16#32#32#64#80#128#112#112#144#176#304#304#256#368"
        "_e0#0.5#4.0#4.0#2.0#1.0#4.0#6.0#4.0#4.0#4.0#4.0#6.0#4.0#4.0_r192",
        "d1#1#2#2#4#4#4#1_k3#3#3#3#3#3#3#3#5#5#3#5#5#3#3#3#3#3#5"
        "_w16#16#32#32#64#64#112#112#112#128#144#144#160#160#288#272#288#256#320"
        "_e0#0.5#4.0#6.0#3.0#2.0#4.0#4.0#6.0#8.0#8.0#4.0#4.0#4.0#4.0#6.0#6.0#4.0#4.0_r208",
        "d1#1#2#2#3#4#4#1_k3#3#3#3#3#3#5#5#5#3#3#5#3#3#5#3#3#3"
        "_w16#32#32#48#80#80#144#128#112#144#176#144#144#272#288#272#240#320"
        "_e0#0.5#4.0#8.0#4.0#2.0#6.0#6.0#6.0#6.0#8.0#4.0#4.0#8.0#6.0#4.0#6.0#6.0_r224",
        "d1#1#3#3#4#5#4#2_k3#3#3#5#3#3#3#3#5#5#5#5#5#3#3#3#5#3#5#5#3#3#3"
        "_w16#32#32#48#32#64#80#80#128#128#144#128#160#144#144#144#176#256#272#272#272#336#320"
        "_e0#0.5#4.0#8.0#6.0#4.0#2.0#2.0#6.0#8.0#6.0#6.0#8.0#8.0#6.0#4.0#6.0#8.0#8.0#6.0#4.0#8.0#6.0"
        "_r224",
    )),
    "pixel4": ("mobilew-122222-155400", (
        "d1#1#2#2#2#2#2#1_k3#3#3#3#3#3#3#3#3#3#3#3#3_w16#16#32#32#64#64#96#96#144#144#192#192#216"
        "_e0#1.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0_r160",
        "d1#1#2#2#2#2#4#1_k3#3#3#3#3#3#7#3#3#3#3#3#5#3#3"
        "_w16#16#32#32#64#64#96#96#144#144#224#192#208#192#232"
        "_e0#1.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#3.0#6.0#6.0#6.0#3.0#3.0_r208",
        "d1#1#2#2#2#3#4#1_k3#3#3#3#3#3#3#3#5#3#3#7#5#7#5#5"
        "_w16#16#40#32#64#72#96#96#152#160#152#200#224#200#200#248"
        "_e0#1.0#3.0#3.0#3.0#3.0#3.0#6.0#3.0#6.0#3.0#6.0#3.0#3.0#6.0#3.0_r224",
        "d1#1#2#3#3#4#4#1_k3#3#3#3#3#3#5#7#3#3#3#3#3#5#3#3#3#5#3"
        "_w16#16#32#32#64#72#64#112#96#104#152#144#152#152#200#192#208#192#280"
        "_e0#1.0#8.0#3.0#3.0#6.0#3.0#8.0#3.0#6.0#6.0#6.0#3.0#3.0#6.0#8.0#6.0#6.0#6.0_r224",
        "d1#2#2#3#4#4#5#1_k3#3#3#3#3#3#3#5#3#5#5#3#3#3#3#5#7#5#3#5#3#3"
        "_w24#16#24#32#32#72#64#64#112#96#104#104#152#144#144#152#224#216#208#224#208#296"
        "_e0#1.0#1.0#6.0#8.0#6.0#3.0#3.0#6.0#6.0#3.0#3.0#8.0#8.0#6.0#3.0#8.0#6.0#6.0#3.0#3.0#6.0_r224",
    )),
}  # fmt: skip


@cache
def _seqnet(target: str, index: int) -> Subnet:
    space, subnets = _SEQNETS[target]
    hyperspace = load_hyperspace(space.split("-")[0])
    return encoding.decode(subnets[index], hyperspace.space(hyperspace.decode(space), NUM_CLASSES))


#: Millions of MACs and of parameters as the reference implementation counts the released encodings.
_SEQNET_COUNTS = {
    "vnni": ((161.5595, 7.7954), (356.2518, 11.9648), (636.4183, 14.516), (979.6183, 15.9303), (1381.2036, 23.3689)),
    "pixel4": ((111.0013, 6.3768), (272.0593, 9.7059), (397.0183, 10.0085), (589.2883, 13.8761), (736.2172, 15.3042)),
}
_PAPER_MACS = {"vnni": {0: 163, 1: 358, 4: 1267}, "pixel4": {0: 107, 1: 274}}


def _seqnets() -> Iterator[ZooNetwork]:
    source = "SpaceEvo, ICCV 2023; released encoding, counted by the reference implementation"
    for alias, target in {"vnni": "vnni", "cpu": "vnni", "pixel4": "pixel4"}.items():
        for index, (macs, params) in enumerate(_SEQNET_COUNTS[target]):
            note = "The reference leaves the logits' 1.92 M MACs out, and counts quantizers as parameters."
            if index in _PAPER_MACS[target]:
                printed = _PAPER_MACS[target][index]
                note += f" The paper prints {printed} M MACs ({macs / printed - 1:+.1%} in the released encoding)."
            yield ZooNetwork(f"SEQnet@{alias}-A{index}", partial(_seqnet, target, index), macs, params, source, note)


_NETWORKS = (
    *_seqnets(),
    ZooNetwork("MobileNetV2", _mobilenet_v2, 300, 3.505, "CVPR 2018, Table 4; parameters: torchvision",
               "The paper prints 3.4 M parameters."),
    ZooNetwork("MobileNetV3-Small", partial(_mobilenet_v3, _V3_SMALL, 576, 1024), 56, 2.543,
               "ICCV 2019, Table 3; parameters: torchvision", "The paper prints 2.5 M parameters."),
    ZooNetwork("MobileNetV3-Large", partial(_mobilenet_v3, _V3_LARGE, 960, 1280), 219, 5.483,
               "ICCV 2019, Table 3; parameters: torchvision", "The paper prints 5.4 M parameters."),
    ZooNetwork("MobileNetV4-Conv-Small", _mobilenet_v4_small, 200, 3.774,
               "ECCV 2024, Table 5; parameters: timm", "The paper prints 0.2 G MACs, one digit, and 3.8 M parameters."),
    ZooNetwork("MobileNetV4-Conv-Medium", _mobilenet_v4_medium, 1100, 9.716,
               "ECCV 2024, Table 5; counts: timm, at 256 pixels",
               "timm prints 1.1 G MACs; the paper 1.0 G and 9.2 M parameters, less than timm's port of its weights."),
    ZooNetwork("EfficientNet-B0", partial(_efficientnet, "mbconv", "swish"), 390, 5.289,
               "ICML 2019, Table 2; parameters: torchvision", "The paper prints 5.3 M parameters."),
    ZooNetwork("EfficientNet-Lite0", partial(_efficientnet, "mbv2-identity", "relu6"), 407, 4.652,
               "TensorFlow's EfficientNet-Lite page; parameters: timm",
               "5 % fewer MACs than that page prints (407 M), although the parameters agree to the last one (4.7 M"
               " printed); what else is counted there is not known."),
    ZooNetwork("FBNetV3-A", _fbnet_v3_a, 357, 8.6, "CVPR 2021, Table 3; released model definition",
               "Two strided convolutions pad a pixel less, as released: maps of 13 and 6 pixels instead of 14 and 7."),
    ZooNetwork("ResNet-18", partial(_resnet, "basic", (2, 2, 2, 2), (64, 128, 256, 512)), 1814, 11.690,
               "CVPR 2016, Table 1; counts: torchvision", "The paper prints 1.8 G MACs."),
    ZooNetwork("ResNet-50", partial(_resnet, "bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048)), 4089, 25.557,
               "CVPR 2016, Table 1; counts: torchvision",
               "Stride on the 3x3 convolution, as torchvision has it; the paper, on the first 1x1, prints 3.8 G MACs."),
)  # fmt: skip
