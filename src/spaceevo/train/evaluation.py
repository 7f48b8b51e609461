"""Logits and top-1 of a network on stored images."""

from __future__ import annotations

import torch
from torch import Tensor

from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network, extract
from spaceevo.train.batches import Images, equal_parts, to_input
from spaceevo.train.recalibration import recalibrate

BATCH_SIZE = 128
#: Of training images, on which the batch norm of a network that is handed out is recalibrated.
RECALIBRATION_BATCHES = 16


@torch.no_grad()
def predict_logits(network: Network, program: Program, pixels: Tensor) -> Tensor:
    """Logits [N, num_classes] of uint8 images [N, 3, size, size]."""
    resolution, evaluate = program[0].in_shape.height, network.evaluator(program)
    return torch.cat([evaluate(to_input(batch, resolution)) for batch in pixels.split(BATCH_SIZE)])


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()


def calibrated_top1(supernet: Network, program: Program, images: Images, num_batches: int, judged: Images) -> float:
    """Top-1 on some images of a program's static network, its batch norm recalibrated on others.

    Args:
        supernet: See `calibrated_subnet`, as what follows.
        program: Operators of the subnet.
        images: Training images.
        num_batches: Of them, batches of 128.
        judged: The images that are classified.
    """
    calibrated = calibrated_subnet(supernet, program, images, num_batches)
    return top1(predict_logits(calibrated, program, judged.pixels), judged.labels)


def calibrated_subnet(supernet: Network, program: Program, images: Images, num_batches: int) -> Network:
    """The static network of a program with batch norm recalibrated on the first batches of some images.

    Args:
        supernet: Its parameters are copied, not changed.
        program: Operators of the subnet.
        images: Training images.
        num_batches: Batches of 128.
    """
    network = extract(supernet, program)
    resolution = program[0].in_shape.height
    batches = equal_parts(images.take(slice(num_batches * BATCH_SIZE)).pixels, BATCH_SIZE)
    recalibrate(network, program, [to_input(batch, resolution) for batch in batches])
    return network
