"""Graphs of architectures that are not trained: their latency stands for the trained ones'.

Scales are propagated without running the network, so that no tensor is all zero or all saturated: every
tensor is pictured by a vector of samples, and every convolution is normalised to unit variance, as batch norm
would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spaceevo.graph.graphs import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node
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
from spaceevo.graph.tensors import FIXED_QUANTIZERS, RELU6_MAX_SCALE, Tensor
from spaceevo.seeding import numpy_random

NUM_SAMPLES = 4096
TAIL = 0.001  # share of the samples beyond each end of the range


def random_integer_graph(program: Sequence[Node], seed: int, w_qmax: int = 127) -> IntegerGraph:
    """A quantized network with random weights and plausible scales.

    Args:
        program: A whole network, or a part that begins with the quantization of its input.
        seed: The same seed gives the same graph.
        w_qmax: Largest absolute weight code, 1 to 127.

    Returns:
        Its input is expected to have zero mean and unit variance per pixel.
    """
    rng = numpy_random(seed, "random graph")
    samples = _Samples(rng)
    values: dict[str, np.ndarray] = {}  # float [NUM_SAMPLES]: what a tensor's elements look like
    quant_params: dict[str, QuantParams] = {}
    weights: dict[str, IntegerWeights] = {}
    for node in program:
        if node.has_weights:
            source = node.inputs[0]
            weights[node.id] = _weights(node, values[source], quant_params[source], w_qmax, rng)
        y = samples.apply(node, [values.get(name, np.zeros(0)) for name in node.inputs])
        if node.out.quantizer == "none":
            continue
        params = quant_params[node.inputs[0]] if node.out.quantizer == "input" else _quant_params(node.out, y)
        low, high = (params.scale * (code - params.zero_point) for code in (0, 255))
        quant_params[node.id] = params
        values[node.id] = np.clip(y, low, high)
    return IntegerGraph(tuple(program), quant_params, weights)


def random_float_graph(program: Sequence[Node], seed: int) -> FloatGraph:
    """The FP32 twin of `random_integer_graph(program, seed)`."""
    graph = random_integer_graph(program, seed)
    weights = {}
    for node in program:
        if node.has_weights:
            integer = graph.weights[node.id]
            scales = integer.scales.reshape(-1, *[1] * (integer.codes.ndim - 1))
            step = np.float32(graph.quant_params[node.inputs[0]].scale) * integer.scales
            weights[node.id] = FloatWeights(integer.codes * scales, integer.bias.astype(np.float32) * step)
    return FloatGraph(tuple(program), weights)


def _weights(node: Node, x: np.ndarray, x_params: QuantParams, w_qmax: int, rng: np.random.Generator) -> IntegerWeights:
    shape = node.weight_shape
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


class _Samples(Interpreter[np.ndarray]):
    """What the elements of a tensor look like, float [NUM_SAMPLES]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def _normal(self) -> np.ndarray:
        return self.rng.normal(size=NUM_SAMPLES)

    def quantize(self, node: Node, op: Quantize, x: np.ndarray) -> np.ndarray:
        return self._normal()

    def conv(self, node: Node, op: Conv, x: np.ndarray) -> np.ndarray:
        return self._normal()

    def depthwise(self, node: Node, op: Depthwise, x: np.ndarray) -> np.ndarray:
        return self._normal()

    def linear(self, node: Node, op: Linear, x: np.ndarray) -> np.ndarray:
        return self._normal()

    def gate(self, node: Node, op: Gate, x: np.ndarray) -> np.ndarray:
        return np.asarray((x / 6 + 0.5).clip(0, 1))

    def relabel(self, node: Node, op: Relabel, x: np.ndarray) -> np.ndarray:
        return np.asarray((x / 6 + 0.5).clip(0, 1))

    def sigmoid(self, node: Node, op: Sigmoid, x: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-x)))

    def multiply(self, node: Node, op: Multiply, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # An activation's gate is that of these very elements
        return np.asarray(a * (self.rng.permutation(b) if op.per_channel else b))

    def add(self, node: Node, op: Add, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(a + self.rng.permutation(b))

    def pool(self, node: Node, op: Pool, x: np.ndarray) -> np.ndarray:
        # Neighbouring elements are alike: only half of each side counts as independent
        share = min(1.0, 2 / math.sqrt(node.in_shape.num_positions))
        return np.asarray(x.mean() + (x - x.mean()) * share)

    def max_pool(self, node: Node, op: MaxPool, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(x, self.rng.permutation(x)))


def _quant_params(tensor: Tensor, y: np.ndarray) -> QuantParams:
    if tensor.quantizer in FIXED_QUANTIZERS:
        return QuantParams(*FIXED_QUANTIZERS[tensor.quantizer])
    low, high = (float(np.quantile(y, share)) for share in (TAIL, 1 - TAIL))
    low = min(low, 0.0) if tensor.quantizer == "free" else 0.0
    scale = (max(high, 0.0) - low) / 255
    if tensor.quantizer == "relu6":
        scale = min(scale, RELU6_MAX_SCALE)
    scale = float(np.float32(scale))
    return QuantParams(scale, round(-low / scale))
