"""Graphs of architectures that are not trained: their latency stands for the trained ones'.

Scales are propagated without running the network, so that no tensor is all zero or all saturated: every
tensor is pictured by a vector of samples, and every convolution is normalised to unit variance, as batch norm
would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spaceevo.records import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.seeding import numpy_random
from spaceevo.spaces.operators import FIXED_QUANTIZERS, RELU6_MAX_SCALE, Operator

NUM_SAMPLES = 4096
TAIL = 0.001  # share of the samples beyond each end of the range


def random_integer_graph(program: Sequence[Operator], seed: int, w_qmax: int = 127) -> IntegerGraph:
    """A quantized network with random weights and plausible scales.

    Args:
        program: Operators of a whole network or of a part that begins with "quantize".
        seed: The same seed gives the same graph.
        w_qmax: Largest absolute weight code, 1 to 127.

    Returns:
        Its input is expected to have zero mean and unit variance per pixel.
    """
    rng = numpy_random(seed, "random graph")
    values: dict[str, np.ndarray] = {}  # float [NUM_SAMPLES]: what a tensor's elements look like
    quant_params: dict[str, QuantParams] = {}
    weights: dict[str, IntegerWeights] = {}
    for operator in program:
        if operator.has_weights:
            source = operator.inputs[0]
            weights[operator.name] = _weights(operator, values[source], quant_params[source], w_qmax, rng)
        y = _output(operator, [values.get(name, np.zeros(0)) for name in operator.inputs], rng)
        if operator.quantizer == "none":
            continue
        params = quant_params[operator.inputs[0]] if operator.quantizer == "input" else _quant_params(operator, y)
        low, high = (params.scale * (code - params.zero_point) for code in (0, 255))
        quant_params[operator.name] = params
        values[operator.name] = np.clip(y, low, high)
    return IntegerGraph(tuple(program), quant_params, weights)


def random_float_graph(program: Sequence[Operator], seed: int) -> FloatGraph:
    """The FP32 twin of `random_integer_graph(program, seed)`."""
    graph = random_integer_graph(program, seed)
    weights = {}
    for operator in program:
        if operator.has_weights:
            own = graph.weights[operator.name]
            scales = own.scales.reshape(-1, *[1] * (own.codes.ndim - 1))
            step = np.float32(graph.quant_params[operator.inputs[0]].scale) * own.scales
            weights[operator.name] = FloatWeights(own.codes * scales, own.bias.astype(np.float32) * step)
    return FloatGraph(tuple(program), weights)


def _weights(
    operator: Operator, x: np.ndarray, x_params: QuantParams, w_qmax: int, rng: np.random.Generator
) -> IntegerWeights:
    shape = operator.weight_shape
    rows = rng.standard_normal((shape[0], math.prod(shape[1:])), np.float32)  # integers this small are exact
    rows *= w_qmax / 3
    np.clip(np.rint(rows, out=rows), -w_qmax, w_qmax, out=rows)
    codes = rows.astype(np.int8).reshape(shape)
    # Unit variance per channel: x has independent elements, the bias takes its mean away.
    norm = np.sqrt(np.einsum("ij,ij->i", rows, rows)).clip(min=1.0)
    scales = (rng.uniform(0.7, 1.3, len(codes)) / (norm * max(x.std(), 1e-3))).astype(np.float32)
    step = np.float32(x_params.scale) * scales
    bias = (rng.normal(0, 0.1, len(codes)) - x.mean() * rows.sum(axis=1) * scales) / step
    return IntegerWeights(codes, scales, np.rint(bias).astype(np.int32))


def _output(operator: Operator, inputs: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    x = inputs[0]
    match operator.kind:
        case "quantize" | "conv" | "linear":
            return rng.normal(size=NUM_SAMPLES)
        case "gate" | "relabel":
            return np.asarray((x / 6 + 0.5).clip(0, 1))
        case "sigmoid":
            return np.asarray(1 / (1 + np.exp(-x)))
        case "multiply" if operator.inputs[1] == f"{operator.name}:gate":
            return np.asarray(x * inputs[1])  # the gate of these very elements
        case "multiply":
            return np.asarray(x * rng.permutation(inputs[1]))
        case "add":
            return np.asarray(x + rng.permutation(inputs[1]))
        case "pool":  # neighbouring elements are alike: only half of each side counts as independent
            return np.asarray(x.mean() + (x - x.mean()) * min(1.0, 2 / operator.in_size))
        case "max_pool":
            return np.asarray(np.maximum(x, rng.permutation(x)))


def _quant_params(operator: Operator, y: np.ndarray) -> QuantParams:
    if operator.quantizer in FIXED_QUANTIZERS:
        return QuantParams(*FIXED_QUANTIZERS[operator.quantizer])
    low, high = (float(np.quantile(y, share)) for share in (TAIL, 1 - TAIL))
    low = min(low, 0.0) if operator.quantizer == "free" else 0.0
    scale = (max(high, 0.0) - low) / 255
    if operator.quantizer == "relu6":
        scale = min(scale, RELU6_MAX_SCALE)
    scale = float(np.float32(scale))
    return QuantParams(scale, round(-low / scale))
