"""A float network whose batch norm is folded, as a module: what is left to train of an exported network.

Shape suffixes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaceevo.graph.graphs import FloatGraph
from spaceevo.graph.nodes import Node
from spaceevo.graph.ops import Convolution, Depthwise
from spaceevo.nets.passes import FloatPass


class FoldedNetwork(nn.Module):
    """The network of a float graph; its weights and biases are parameters.

    Args:
        graph: Of an extracted network.
    """

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__()
        self.graph = graph
        # Names of parameters may hold no dot
        self._names = {node_id: str(number) for number, node_id in enumerate(graph.weights)}
        self.weights = nn.ParameterDict(
            {self._names[node_id]: torch.from_numpy(folded.weight.copy()) for node_id, folded in graph.weights.items()}
        )
        self.biases = nn.ParameterDict(
            {self._names[node_id]: torch.from_numpy(folded.bias.copy()) for node_id, folded in graph.weights.items()}
        )

    @property
    def resolution(self) -> int:
        """Height = width of the input."""
        return self.graph.nodes[0].in_shape.height

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, classes] of preprocessed images, float32 [B, 3, resolution, resolution]."""
        values: dict[str, Tensor] = {}
        compute, value = FloatPass(self), images_BCHW
        for node in self.graph.nodes:
            inputs = [values.get(name, images_BCHW) for name in node.inputs]
            value = values[node.id] = compute.apply(node, inputs)
        return value

    def convolve(self, node: Node, op: Convolution, x_BCHW: Tensor) -> Tensor:
        """A convolution with its folded norm."""
        weight, bias = self._of(node)
        groups = len(weight) if isinstance(op, Depthwise) else 1
        return F.conv2d(x_BCHW, weight, bias, op.stride, op.padding, 1, groups)

    def classify(self, node: Node, x_BCHW: Tensor) -> Tensor:
        """The linear layer."""
        weight, bias = self._of(node)
        return F.linear(x_BCHW.flatten(1), weight, bias)

    def normalize(self, node: Node, y_BCHW: Tensor) -> Tensor:
        """Folded already."""
        return y_BCHW

    def observe(self, node: Node, value: Tensor) -> None:
        """Nothing is observed."""

    def _of(self, node: Node) -> tuple[Tensor, Tensor]:
        name = self._names[node.id]
        return self.weights[name], self.biases[name]
