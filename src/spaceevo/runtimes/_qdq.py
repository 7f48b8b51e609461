"""QDQ ONNX models written directly, for the runtimes that read them (the file is no runtime).

Batch 1, input "image" float32 [1, 3, H, W], output "logits" float32 [1, C]. Tensors are named after the ids of the
program's nodes; the file's nodes too, followed by `MARK`, which ONNX Runtime keeps when it fuses nodes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError, ExportError
from spaceevo.graph.graphs import FloatGraph, IntegerGraph, QuantParams
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import (
    Add,
    Conv,
    Convolution,
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
from spaceevo.graph.tensors import FIXED_QUANTIZERS, NUM_CODES

OPSET = 21
IR_VERSION = 10
IMAGE = "image"
LOGITS = "logits"
MARK = "|"  # ends a node's id within the name of a node of the file
LARGEST_CODE = "largest_weight_code"  # key of the metadata


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a model, versions included.

    Raises:
        ArtifactError: The file is no ONNX model.
    """
    return {entry.key: entry.value for entry in read_model(path, weights=False).metadata_props}


def constants(path: Path) -> dict[str, np.ndarray]:
    """Every constant of a model by name: codes, scales, zero points and biases.

    Raises:
        ArtifactError: The file is no ONNX model.
    """
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in read_model(path).graph.initializer}


def write_model(model: Any, path: Path, metadata: Mapping[str, str], runtime: str) -> None:
    """Write a model atomically.

    Args:
        model: Of a writer.
        path: Where to.
        metadata: Put into the file, beside the versions.
        runtime: "name version" of the runtime that it is for.

    Raises:
        ExportError: The model is no valid ONNX.
        NoSpaceError: The file cannot be written.
    """
    import onnx
    from onnx import helper

    versions = {"opset": str(OPSET), "runtime": runtime, "onnx": onnx.__version__}
    helper.set_model_props(model, {**metadata, **versions})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError("The network cannot be written as ONNX", found=str(error)) from error
    write_atomically(path, model.SerializeToString(deterministic=True))


def read_model(path: Path, *, weights: bool = True) -> Any:
    """Read a model.

    Args:
        path: The file.
        weights: Read those that lie in other files, too.

    Raises:
        ArtifactError: Missing, or no ONNX model.
    """
    import onnx

    if not path.is_file():
        raise ArtifactError(f"There is no model at {path}", remedy="Check the path, or export it again")
    try:
        model = onnx.load(path, load_external_data=weights)
    except Exception as error:  # protobuf's own errors have no base that onnx promises
        raise ArtifactError(f"{path} is no ONNX model", found=str(error), remedy="Export it again") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model", found="It has no operators", remedy="Export it again")
    return model


def largest_code(graph: IntegerGraph) -> int:
    """Largest absolute weight code."""
    return max((int(np.abs(weights.codes.astype(np.int16)).max()) for weights in graph.weights.values()), default=0)


class Writer(Interpreter[str]):
    """Collects nodes and constants of an ONNX graph.

    The value of a node is the name of the tensor that holds what it puts out.

    Args:
        program: What is written.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> Any:
        """The ONNX model."""
        from onnx import TensorProto, helper

        first, last = self.program[0], self.program[-1]
        values = {first.inputs[0]: IMAGE}
        for node in self.program:
            values[node.id] = self.apply(node, [values[name] for name in node.inputs])
        is_whole = isinstance(last.op, Linear)
        if not is_whole:
            self.put_out(last, values[last.id])
        shape = [1, *(last.out_shape[:1] if is_whole else last.out_shape)]
        graph = helper.make_graph(
            self.nodes,
            "spaceevo",
            [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, *first.in_shape])],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="spaceevo")

    @abstractmethod
    def put_out(self, last: Node, value: str) -> None:
        """Make the output of the tensor of the last node, which are not logits."""

    def node(self, op_type: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> str:
        """Add a node; returns the tensor that it puts out."""
        from onnx import helper

        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name


def window(op: Convolution | MaxPool, stride: int | None = None) -> dict[str, list[int]]:
    """Attributes of a window; with another stride than the operator's, if given."""
    return {
        "kernel_shape": [op.kernel_size] * 2,
        "strides": [op.stride if stride is None else stride] * 2,
        "pads": [op.padding] * 4,
    }


class Int8Writer(Writer):
    """Every tensor is named after its node and holds codes."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        """The image's codes."""
        return self.to_codes(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        """No node: its readers take the same codes at another scale."""
        return x

    def conv(self, node: Node, op: Conv, x: str) -> str:
        """Between codes."""
        return self.convolve(node, x, group=1, **window(op))

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        """Between codes."""
        return self.convolve(node, x, group=node.in_shape.channels, **window(op))

    def gate(self, node: Node, op: Gate, x: str) -> str:
        """The same codes at a sixth of the scale, plus a half."""
        params = self.params_of(node, 0)
        sixth = self.to_values(node, 0, x, QuantParams(params.scale / 6, params.zero_point))
        return self.compute("Add", [sixth, self.constant_values(node, "half", 0.5)], node)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        """Between codes."""
        return self.compute("Sigmoid", [self.to_values(node, 0, x)], node)

    def pool(self, node: Node, op: Pool, x: str) -> str:
        """Between codes."""
        return self.compute("GlobalAveragePool", [self.to_values(node, 0, x)], node)

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        """Only picks codes."""
        return self.node("MaxPool", [x], node.id, node.id + MARK, **window(op))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        """Between codes."""
        return self.compute("Mul", [self.to_values(node, 0, a), self.to_values(node, 1, b)], node)

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        """Between codes."""
        return self.compute("Add", [self.to_values(node, 0, a), self.to_values(node, 1, b)], node)

    def linear(self, node: Node, op: Linear, x: str) -> str:
        """From codes to logits."""
        mark = node.id + MARK
        flat = self.node("Flatten", [x], mark + "flat", mark + "flatten")
        return self.node("Gemm", [self.to_values(node, 0, flat), *self.weights(node)], LOGITS, mark, transB=1)

    def put_out(self, last: Node, value: str) -> None:
        """Dequantized."""
        params = self.params(f"{last.id}{MARK}out", self.graph.quant_params[last.id])
        self.node("DequantizeLinear", [value, *params], LOGITS, "output")

    def convolve(self, node: Node, x: str, **attributes: Any) -> str:
        """A convolution between codes."""
        return self.compute("Conv", [self.to_values(node, 0, x), *self.weights(node)], node, **attributes)

    def compute(self, op_type: str, inputs: Sequence[str], node: Node, **attributes: Any) -> str:
        """Add a node that computes on values; returns the codes of what it puts out."""
        value = self.node(op_type, inputs, node.id + MARK + "y", node.id + MARK, **attributes)
        return self.to_codes(node, value)

    def to_codes(self, node: Node, value: str) -> str:
        """The codes of what a node puts out."""
        inputs = [value, *self.params(node.id + MARK + "q", self.graph.quant_params[node.id])]
        return self.node("QuantizeLinear", inputs, node.id, node.id + MARK + "q")

    def to_values(self, node: Node, number: int, codes: str, params: QuantParams | None = None) -> str:
        """Input `number` of a node as floats; every reader has a node of its own."""
        name = f"{node.id}{MARK}x{number}"
        inputs = [codes, *self.params(name, params or self.params_of(node, number))]
        return self.node("DequantizeLinear", inputs, name, f"{name}dq")

    def constant_values(self, node: Node, what: str, value: float) -> str:
        """A constant that the gate's codes stand for."""
        scale, zero_point = FIXED_QUANTIZERS["gate"]
        name = f"{node.id}{MARK}{what}"
        codes = self.constant(f"{name}_codes", np.array(round(value * NUM_CODES), np.uint8))
        inputs = [codes, *self.params(name, QuantParams(scale, zero_point))]
        return self.node("DequantizeLinear", inputs, name, f"{name}_dq")

    def params_of(self, node: Node, number: int) -> QuantParams:
        """Parameters of input `number` of a node."""
        return self.graph.quant_params[node.inputs[number]]

    def params(self, name: str, params: QuantParams) -> list[str]:
        """Scale and zero point as constants."""
        # 0-d: with shape [1], ONNX Runtime leaves additions and products in float
        scale = self.constant(f"{name}_scale", np.array(params.scale, np.float32))
        return [scale, self.constant(f"{name}_zero_point", np.array(params.zero_point, np.uint8))]

    def weights(self, node: Node) -> list[str]:
        """Weights and bias as values, from constant codes."""
        weights = self.graph.weights[node.id]
        bias_scales = np.float32(self.params_of(node, 0).scale) * weights.scales
        outputs = []
        for what, codes, scales in (("w", weights.codes, weights.scales), ("b", weights.bias, bias_scales)):
            name = f"{node.id}{MARK}{what}"
            inputs = [
                self.constant(f"{name}_codes", codes),
                self.constant(f"{name}_scales", scales.astype(np.float32)),
                self.constant(f"{name}_zero_points", np.zeros(len(scales), codes.dtype)),
            ]
            outputs.append(self.node("DequantizeLinear", inputs, name, f"{name}dq", axis=0))
        return outputs


class Fp32Writer(Writer):
    """Every tensor is named after its node and holds floats, activation applied."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        """The image as it is."""
        return self.node("Identity", [x], node.id, node.id + MARK)

    def conv(self, node: Node, op: Conv, x: str) -> str:
        """With its activation."""
        return self.activate(node, "Conv", [x, *self.weights(node)], group=1, **window(op))

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        """With its activation."""
        return self.activate(node, "Conv", [x, *self.weights(node)], group=node.in_shape.channels, **window(op))

    def gate(self, node: Node, op: Gate, x: str) -> str:
        """A hard sigmoid."""
        return self.hard_sigmoid(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        """A hard sigmoid."""
        return self.hard_sigmoid(node, x)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        """The logistic function."""
        return self.node("Sigmoid", [x], node.id, node.id + MARK)

    def pool(self, node: Node, op: Pool, x: str) -> str:
        """The mean."""
        return self.node("GlobalAveragePool", [x], node.id, node.id + MARK)

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        """The largest of every window."""
        return self.node("MaxPool", [x], node.id, node.id + MARK, **window(op))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        """The product."""
        return self.node("Mul", [a, b], node.id, node.id + MARK)

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        """The sum with its activation."""
        return self.activate(node, "Add", [a, b])

    def linear(self, node: Node, op: Linear, x: str) -> str:
        """The logits."""
        mark = node.id + MARK
        flat = self.node("Flatten", [x], f"{mark}flat", f"{mark}flatten")
        return self.node("Gemm", [flat, *self.weights(node)], LOGITS, mark, transB=1)

    def put_out(self, last: Node, value: str) -> None:
        """As it is."""
        self.node("Identity", [value], LOGITS, "output")

    def hard_sigmoid(self, node: Node, x: str) -> str:
        """x / 6 + 0.5 within [0, 1]."""
        return self.node("HardSigmoid", [x], node.id, node.id + MARK, alpha=1 / 6, beta=0.5)

    def activate(self, node: Node, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and the relu or relu6 after it, where there is one."""
        name, mark = node.id, node.id + MARK
        if node.out.quantizer not in ("relu", "relu6"):
            return self.node(op_type, inputs, name, mark, **attributes)
        linear = self.node(op_type, inputs, f"{mark}linear", mark, **attributes)
        if node.out.quantizer == "relu":
            return self.node("Relu", [linear], name, f"{mark}relu")
        low = self.constant(f"{mark}low", np.array(0, np.float32))
        high = self.constant(f"{mark}high", np.array(6, np.float32))
        return self.node("Clip", [linear, low, high], name, f"{mark}clip")

    def weights(self, node: Node) -> list[str]:
        """Weights and bias as constants."""
        weights, mark = self.graph.weights[node.id], node.id + MARK
        weight = self.constant(f"{mark}w", weights.weight.astype(np.float32))
        return [weight, self.constant(f"{mark}b", weights.bias.astype(np.float32))]
