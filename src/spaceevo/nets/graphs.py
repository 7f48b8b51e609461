"""Extraction: a trained, recalibrated network becomes the integer graph that every exporter writes out."""

from __future__ import annotations

import numpy as np
import torch

from spaceevo.errors import ExportError
from spaceevo.nets.network import Network, Program
from spaceevo.records import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams


def integer_graph(network: Network, program: Program) -> IntegerGraph:
    """The integer graph of a quantized network, with its trained scales, zero points and codes.

    Args:
        network: Quantized; its running statistics are those to fold.
        program: What to extract.

    Raises:
        ExportError: A scale or a weight is not a finite number.
    """
    for name, quantizer in network.quantizers.items():
        state = (*quantizer.parameters(), *quantizer.buffers())
        if not all(bool(torch.isfinite(tensor).all()) for tensor in state):
            raise ExportError(
                f"The quantizer of {name} has a scale or a zero point that is not a finite number",
                remedy="Train again with a lower learning rate",
            )
    quant_params = {o.name: QuantParams(*network.quant_params(o.name)) for o in program if o.quantizer != "none"}
    weights = {}
    for operator in program:
        if operator.has_weights:
            input_scale = quant_params[operator.inputs[0]].scale
            tensors = (*network.fold(operator, input_scale), network.weights_of(operator).sliced_weight(operator))
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                raise ExportError(
                    f"Operator {operator.name} has weights that are not finite numbers",
                    remedy="Train again with a lower learning rate",
                )
            codes, scales, bias = (tensor.detach().numpy() for tensor in tensors[:3])
            weights[operator.name] = IntegerWeights(codes.astype(np.int8), scales, bias.astype(np.int32))
    return IntegerGraph(program, quant_params, weights)


def float_graph(network: Network, program: Program) -> FloatGraph:
    """The FP32 graph of a network, batch norm folded."""
    weights = {}
    for operator in program:
        if operator.has_weights:
            weight, bias = network.fold_float(operator)
            weights[operator.name] = FloatWeights(weight.detach().numpy().copy(), bias.detach().numpy().copy())
    return FloatGraph(program, weights)
