"""Named networks: their counts are those of the literature, to the last parameter where a library counts them."""

import pytest

from spaceevo.errors import PluginError
from spaceevo.graph.nodes import layers, peak_activation_bytes
from spaceevo.graph.tensors import square
from spaceevo.spaces.subnet import network_program
from spaceevo.spaces.zoo import load_network, zoo

#: Parameters as torchvision and timm count them.
LIBRARY_PARAMS = {
    "MobileNetV2": 3_504_872,
    "MobileNetV3-Small": 2_542_856,
    "MobileNetV3-Large": 5_483_032,
    "MobileNetV4-Conv-Small": 3_774_024,
    "MobileNetV4-Conv-Medium": 9_715_512,
    "EfficientNet-B0": 5_288_548,
    "EfficientNet-Lite0": 4_652_008,
    "ResNet-18": 11_689_512,
    "ResNet-50": 25_557_032,
}
#: A source that counts more than we find, and one that prints a single digit; both told in the network's note.
OTHERWISE = {"EfficientNet-Lite0": 0.06, "MobileNetV4-Conv-Small": 0.08}


@pytest.mark.parametrize("name", LIBRARY_PARAMS)
def test_parameters_are_the_librarys(name):
    assert load_network(name).subnet.num_params == LIBRARY_PARAMS[name]


@pytest.mark.parametrize("name", zoo())
def test_counts_are_within_two_per_cent_of_the_published(name):
    network = load_network(name)
    subnet = network.subnet
    assert subnet.macs / 1e6 == pytest.approx(network.published_macs, rel=OTHERWISE.get(name, 0.02))
    assert subnet.num_params / 1e6 == pytest.approx(network.published_params, rel=0.02)
    assert network.source
    assert network.note or name not in OTHERWISE


def test_fbnet_v3_crops_as_released():
    shapes = {node.id: node.out_shape for node in network_program(load_network("FBNetV3-A").subnet)}
    names = ("stage3/4/add", "stage4/0/project", "stage7/0/project")
    assert [shapes[name][1:] for name in names] == [(28, 28), (13, 13), (6, 6)]


def test_every_published_seqnet_is_there():
    names = [name for name in zoo() if name.startswith("SEQnet")]
    assert names == [f"SEQnet@{target}-A{index}" for target in ("vnni", "cpu", "pixel4") for index in range(5)]
    for index in range(5):
        assert load_network(f"SEQnet@cpu-A{index}").subnet == load_network(f"SEQnet@vnni-A{index}").subnet


def test_resnet_18_by_hand():
    program = network_program(load_network("ResNet-18").subnet)
    nodes = {node.id: node for node in program}
    assert (nodes["stem/0/conv"].out_shape, nodes["stem/0/pool"].out_shape) == (square(64, 112), square(64, 56))
    assert nodes["stem/0/conv"].macs == 49 * 3 * 64 * 112**2
    assert "stage1/0/shortcut" not in nodes
    assert nodes["stage2/0/shortcut"].macs == 64 * 128 * 28**2
    assert nodes["stage4/1/conv2"].macs == 9 * 512**2 * 7**2
    assert len(list(layers(program))) == len(program), "relu is no operator"
    # While the pool runs, the stem's output and its own are alive.
    assert peak_activation_bytes(program) == 64 * 112**2 + 64 * 56**2


def test_an_unknown_name_tells_the_nearest():
    with pytest.raises(PluginError, match="ResNet-18"):
        load_network("Resnet-18")
