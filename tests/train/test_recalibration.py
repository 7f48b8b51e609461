"""Batch-norm statistics are the mean over batches."""

import pytest
import torch
from torch.nn import functional as F

from spaceevo.nets.network import Network, extract, program_of, single_network
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.train.batches import Images, to_input
from spaceevo.train.evaluation import calibrated_subnet, predict_logits, top1
from spaceevo.train.recalibration import recalibrate

pytestmark = pytest.mark.usefixtures("one_thread")


def space():
    stem = ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2)
    stage = ElasticStage("stage1", BlockChoice(BlockType("mbv3", "hard_swish"), (3,), (2.0,)), (8, 16), (1, 2), 2)
    return SearchSpace("small-0-0", (stem, stage), Head(16, 24, "relu"), (16,), 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(*sizes):
    draw = generator()
    return [(1 + index) * torch.randn(size, 3, 16, 16, generator=draw) + index for index, size in enumerate(sizes)]


@pytest.mark.parametrize("quantized", [False, True])
def test_running_statistics_are_the_mean_over_batches(quantized):
    program = program_of(space().largest())
    network = single_network(program, 127, generator())
    if quantized:
        network.start_quantization([(batches(4)[0], program)])
    for tensor in (t for n, t in network.state_dict().items() if "running" in n):
        tensor.fill_(55.0)  # what was there before must not count
    inputs = batches(6, 6, 6)
    recalibrate(network, program, inputs)
    assert not network.training
    assert network.batch_norm_momentum is None
    assert network.quantized == quantized

    stem = program[1]
    own = network.weights_of(stem)
    weight = own.weight
    if quantized:
        scale = own.weight_scale.view(-1, 1, 1, 1)
        weight = (weight / scale).clamp(-127, 127).round() * scale
        inputs = [network.quantizers["input"](x) for x in inputs]
    with torch.no_grad():
        outputs = [F.conv2d(x, weight, None, stem.op.stride, stem.op.padding) for x in inputs]
        mean = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
        var = torch.stack([y.var((0, 2, 3)) for y in outputs]).mean(0)
    torch.testing.assert_close(own.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.running_var, var, rtol=1e-4, atol=1e-5)


def test_one_batch_makes_evaluation_equal_training():
    program = program_of(space().largest())
    network = single_network(program, 127, generator())
    (x,) = batches(64)
    with torch.no_grad():
        expected = network(x, program)
        recalibrate(network, program, [x])
        # Training divides by n, statistics by n - 1
        torch.testing.assert_close(network(x, program), expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("num_images", [128, 129, 200])
def test_calibrated_subnet_leaves_the_supernet_alone(num_images):
    supernet = Network(space().largest_nodes(), 127, generator())
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    program = program_of(space().smallest())
    pixels = torch.randint(0, 256, (num_images, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    images = Images(pixels, torch.zeros(num_images))
    network = calibrated_subnet(supernet, program, images, num_batches=2)
    assert supernet.training
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name])

    by_hand = extract(supernet, program)
    middle = num_images // 2 + num_images % 2 if num_images > 128 else num_images
    parts = [part for part in (pixels[:middle], pixels[middle:]) if len(part)]
    recalibrate(by_hand, program, [to_input(part, 16) for part in parts])
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor)

    logits = predict_logits(network, program, pixels)
    assert logits.shape == (num_images, 4)
    with torch.no_grad():
        torch.testing.assert_close(logits[-1:], network(to_input(pixels[-1:], 16), program), rtol=1e-4, atol=1e-5)


def test_top1():
    logits = torch.tensor([[1.0, 2.0], [5.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    assert top1(logits, torch.tensor([1, 0, 0, 0])) == 0.75
