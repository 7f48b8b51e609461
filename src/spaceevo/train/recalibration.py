"""Batch-norm recalibration: a subnet's own statistics, since those of the supernet belong to no subnet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network


@torch.no_grad()
def recalibrate(network: Network, program: Program, batches: Sequence[Tensor]) -> None:
    """Replace the running statistics by the mean over some batches and leave the network in evaluation mode.

    Args:
        network: A static network, see `nets.network.extract`.
        program: Operators of the network.
        batches: Inputs [B, 3, H, W], not augmented.
    """
    network.train()
    for index, x_BCHW in enumerate(batches):
        network.batch_norm_momentum = 1 / (index + 1)
        network(x_BCHW, program)
    network.batch_norm_momentum = None
    network.eval()
