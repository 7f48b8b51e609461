"""A float graph, read by its documentation: what every FP32 file is compared with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from spaceevo.graph.graphs import FloatGraph
from spaceevo.graph.ops import (
    Add,
    Conv,
    Depthwise,
    Gate,
    Linear,
    MaxPool,
    Multiply,
    Pool,
    Quantize,
    Relabel,
    Sigmoid,
)


def evaluate(graph: FloatGraph, images: Tensor) -> Tensor:
    """The last tensor that a float graph computes from images [B, C, H, W]; the logits of a whole network."""
    values: dict[str, Tensor] = {}
    for node in graph.nodes:
        op, (x, *rest) = node.op, [values.get(name, images) for name in node.inputs]
        weights = graph.weights.get(node.id)
        if weights is not None:
            weight, bias = torch.from_numpy(weights.weight), torch.from_numpy(weights.bias)
        match op:
            case Quantize():
                pass
            case Conv():
                x = F.conv2d(x, weight, bias, op.stride, op.padding)
            case Depthwise():
                x = F.conv2d(x, weight, bias, op.stride, op.padding, groups=x.shape[1])
            case Gate() | Relabel():
                x = F.hardsigmoid(x)
            case Sigmoid():
                x = torch.sigmoid(x)
            case Multiply():
                x = x * rest[0]
            case Add():
                x = x + rest[0]
            case Pool():
                x = F.adaptive_avg_pool2d(x, 1)
            case MaxPool():
                x = F.max_pool2d(x, op.kernel_size, op.stride, op.padding)
            case Linear():
                x = F.linear(x.flatten(1), weight, bias)
            case _:
                raise AssertionError(op)
        values[node.id] = {"relu": F.relu, "relu6": F.relu6}.get(node.out.quantizer, lambda value: value)(x)
    return values[node.id]
