"""The files of OpenVINO: QDQ models as `_qdq` writes them, but for the forms that OpenVINO needs otherwise.

What OpenVINO (2026.4, its graph of execution read on every preset and zoo network) needs otherwise:

- INT8: a 1x1 convolution of stride 2 whose input has other readers runs in float: OpenVINO takes the stride out of it,
  into a float pool that parts the codes from their scale. Here the file takes it out, as a slice of the codes, and the
  convolution stays in integers (a max pool would do as well; it takes five times as long).
- FP32: a HardSigmoid node has no fast kernel. hard-swish is written as HardSwish, a hard sigmoid as a clip: both
  become part of the convolution before (hard-swish networks: 1.5 to 5 times faster).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spaceevo.graph.graphs import FloatGraph, IntegerGraph
from spaceevo.graph.nodes import Node, hard_swish_gates
from spaceevo.graph.ops import Conv, Convolution, Depthwise, Gate, Multiply
from spaceevo.runtimes import _qdq, check_placement
from spaceevo.runtimes._qdq import MARK, Fp32Writer, Int8Writer, write_model
from spaceevo.runtimes.openvino.installed import version


def export_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a quantized network as QDQ ONNX, with exactly the graph's parameters.

    Args:
        graph: A whole network, or a part: without logits, the output is the last tensor, dequantized.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: The graph is no valid ONNX, or not quantized as devices compute.
        NoSpaceError: The file cannot be written.
        TargetError: OpenVINO is not installed.
    """
    check_placement(graph.nodes)
    write_model(_Int8Writer(graph).model(), path, metadata, f"openvino {version()}")


def export_fp32(graph: FloatGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the FP32 twin of a quantized network, in the form that OpenVINO runs fastest.

    Args:
        graph: A whole network, or a part.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: The graph is no valid ONNX.
        NoSpaceError: The file cannot be written.
        TargetError: OpenVINO is not installed.
    """
    write_model(_Fp32Writer(graph).model(), path, metadata, f"openvino {version()}")


class _Int8Writer(Int8Writer):
    """Takes the stride out of 1x1 convolutions."""

    def conv(self, node: Node, op: Conv, x: str) -> str:
        return super().conv(node, op, x) if op.kernel_size > 1 or op.stride == 1 else self._picked(node, op, x, 1)

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        if op.kernel_size > 1 or op.stride == 1:
            return super().depthwise(node, op, x)
        return self._picked(node, op, x, node.in_shape.channels)

    def _picked(self, node: Node, op: Convolution, x: str, groups: int) -> str:
        name = f"{node.id}{MARK}picked"
        ends = [node.in_shape.height, node.in_shape.width]
        bounds = {"starts": [0, 0], "ends": ends, "axes": [2, 3], "steps": [op.stride] * 2}
        inputs = [x, *(self.constant(f"{name}_{key}", np.array(value, np.int64)) for key, value in bounds.items())]
        picked = self.node("Slice", inputs, name, name)
        return self.convolve(node, picked, group=groups, **_qdq.window(op, stride=1))


class _Fp32Writer(Fp32Writer):
    """Writes hard-swish as one node, and a hard sigmoid as a clip."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__(graph)
        self.hard_swish_gates = hard_swish_gates(graph.nodes)

    def gate(self, node: Node, op: Gate, x: str) -> str:
        # Of a hard-swish there is no tensor: its product reads what the gate would
        return x if node.id in self.hard_swish_gates else super().gate(node, op, x)

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        if node.inputs[1] in self.hard_swish_gates:
            return self.node("HardSwish", [a], node.id, node.id + MARK)
        return super().multiply(node, op, a, b)

    def hard_sigmoid(self, node: Node, x: str) -> str:
        """A clip, then a sixth of it."""
        mark = node.id + MARK
        three, zero, six, sixth = (
            self.constant(f"{mark}{what}", np.array(value, np.float32))
            for what, value in (("three", 3), ("zero", 0), ("six", 6), ("sixth", 1 / 6))
        )
        shifted = self.node("Add", [x, three], f"{mark}shifted", f"{mark}shift")
        clipped = self.node("Clip", [shifted, zero, six], f"{mark}clipped", f"{mark}clip")
        return self.node("Mul", [clipped, sixth], node.id, mark)
