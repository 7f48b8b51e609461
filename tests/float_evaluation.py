"""A float graph, read by its documentation: what every FP32 file is compared with."""

import torch
from torch.nn import functional as F


def evaluate(graph, images):
    """The last tensor that a float graph computes from images [B, C, H, W]; the logits of a whole network."""
    values = {}
    for op in graph.operators:
        x, *rest = [values.get(name, images) for name in op.inputs]
        own = graph.weights.get(op.name)
        if own is not None:
            weight, bias = torch.from_numpy(own.weight), torch.from_numpy(own.bias)
        match op.kind:
            case "quantize":
                pass
            case "conv":
                x = F.conv2d(x, weight, bias, op.stride, op.padding, groups=op.groups)
            case "gate" | "relabel":
                x = F.hardsigmoid(x)
            case "sigmoid":
                x = torch.sigmoid(x)
            case "multiply":
                x = x * rest[0]
            case "add":
                x = x + rest[0]
            case "pool":
                x = F.adaptive_avg_pool2d(x, 1)
            case "max_pool":
                x = F.max_pool2d(x, op.kernel_size, op.stride, op.padding)
            case "linear":
                x = F.linear(x.flatten(1), weight, bias)
            case _:
                raise AssertionError(op.kind)
        values[op.name] = {"relu": F.relu, "relu6": F.relu6}.get(op.quantizer, lambda value: value)(x)
    return values[op.name]
