"""QDQ ONNX models written directly, for the runtimes that read them (the file is no runtime).

Batch 1, input "image" float32 [1, 3, S, S], output "logits" float32 [1, C]. Tensors are named after their operators;
nodes too, followed by `MARK`, which ONNX Runtime keeps when it fuses nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError, ExportError
from spaceevo.records import FloatGraph, IntegerGraph, QuantParams
from spaceevo.spaces.operators import FIXED_QUANTIZERS, NUM_CODES, Operator

OPSET = 21
IR_VERSION = 10
IMAGE = "image"
LOGITS = "logits"
MARK = "|"  # ends an operator's name within the name of a node
KINDS = frozenset(("quantize", "conv", "gate", "sigmoid", "relabel", "multiply", "add", "pool", "max_pool", "linear"))
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
    return max((int(np.abs(own.codes.astype(np.int16)).max()) for own in graph.weights.values()), default=0)


class Writer:
    """Collects nodes and constants of an ONNX graph."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        self.operators = operators
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> Any:
        """The ONNX model."""
        from onnx import TensorProto, helper

        for operator in self.operators:
            self.put(operator)
        self.finish(self.operators[-1])
        first, last = self.operators[0], self.operators[-1]
        image_shape = [1, first.out_channels, first.in_size, first.in_size]
        logits_shape = [1, last.out_channels]
        if last.kind != "linear":
            logits_shape += [last.out_size, last.out_size]
        graph = helper.make_graph(
            self.nodes,
            "spaceevo",
            [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, image_shape)],
            [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, logits_shape)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="spaceevo")

    def put(self, operator: Operator) -> None:
        """Add the nodes of one operator."""
        raise NotImplementedError

    def finish(self, last: Operator) -> None:
        """Add what turns the last tensor into the output, where it is not the logits."""
        raise NotImplementedError

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


def window(operator: Operator) -> dict[str, list[int]]:
    return {
        "kernel_shape": [operator.kernel_size] * 2,
        "strides": [operator.stride] * 2,
        "pads": [operator.padding] * 4,
    }


class Int8Writer(Writer):
    """Every tensor is named after its operator and holds codes."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph.operators)
        self.graph = graph
        self.codes: dict[str, str] = {}  # the tensor that holds an operator's codes

    def put(self, operator: Operator) -> None:
        name = operator.name
        match operator.kind:
            case "quantize":
                self.quantize(operator, IMAGE)
            case "relabel":  # its readers take the same codes at another scale
                self.codes[name] = self.codes[operator.inputs[0]]
            case "conv":
                inputs = [self.dequantize(operator, 0), *self.weights(operator)]
                self.compute("Conv", inputs, operator, group=operator.groups, **window(operator))
            case "gate":
                x = self.graph.quant_params[operator.inputs[0]]
                sixth = self.dequantize(operator, 0, QuantParams(x.scale / 6, x.zero_point))
                half = self.dequantize_constant(operator, "half", 0.5)
                self.compute("Add", [sixth, half], operator)
            case "sigmoid":
                self.compute("Sigmoid", [self.dequantize(operator, 0)], operator)
            case "pool":
                self.compute("GlobalAveragePool", [self.dequantize(operator, 0)], operator)
            case "max_pool":  # only picks codes
                self.codes[name] = self.node(
                    "MaxPool", [self.codes[operator.inputs[0]]], name, name + MARK, **window(operator)
                )
            case "multiply" | "add":
                inputs = [self.dequantize(operator, 0), self.dequantize(operator, 1)]
                self.compute("Mul" if operator.kind == "multiply" else "Add", inputs, operator)
            case "linear":
                x_name, mark = operator.inputs[0], name + MARK
                flat = self.node("Flatten", [self.codes[x_name]], mark + "flat", mark + "flatten")
                inputs = [self.dequantize(operator, 0, codes=flat), *self.weights(operator)]
                self.node("Gemm", inputs, LOGITS, mark, transB=1)

    def finish(self, last: Operator) -> None:
        if last.kind != "linear":
            params = self.params(f"{last.name}{MARK}out", self.graph.quant_params[last.name])
            self.node("DequantizeLinear", [self.codes[last.name], *params], LOGITS, "output")

    def compute(self, op_type: str, inputs: Sequence[str], operator: Operator, **attributes: Any) -> None:
        value = self.node(op_type, inputs, operator.name + MARK + "y", operator.name + MARK, **attributes)
        self.quantize(operator, value)

    def quantize(self, operator: Operator, value: str) -> None:
        name = operator.name
        inputs = [value, *self.params(name + MARK + "q", self.graph.quant_params[name])]
        self.codes[name] = self.node("QuantizeLinear", inputs, name, name + MARK + "q")

    def dequantize(
        self, operator: Operator, index: int, params: QuantParams | None = None, codes: str | None = None
    ) -> str:
        """The operator's input `index` as floats; every reader has a node of its own."""
        source, name = operator.inputs[index], f"{operator.name}{MARK}x{index}"
        inputs = [codes or self.codes[source], *self.params(name, params or self.graph.quant_params[source])]
        return self.node("DequantizeLinear", inputs, name, f"{name}dq")

    def dequantize_constant(self, operator: Operator, what: str, value: float) -> str:
        scale, zero_point = FIXED_QUANTIZERS["gate"]
        name = f"{operator.name}{MARK}{what}"
        codes = self.constant(f"{name}_codes", np.array(round(value * NUM_CODES), np.uint8))
        inputs = [codes, *self.params(name, QuantParams(scale, zero_point))]
        return self.node("DequantizeLinear", inputs, name, f"{name}_dq")

    def params(self, name: str, params: QuantParams) -> list[str]:
        # 0-d: with shape [1], ONNX Runtime leaves additions and products in float
        scale = self.constant(f"{name}_scale", np.array(params.scale, np.float32))
        return [scale, self.constant(f"{name}_zero_point", np.array(params.zero_point, np.uint8))]

    def weights(self, operator: Operator) -> list[str]:
        own = self.graph.weights[operator.name]
        bias_scales = np.float32(self.graph.quant_params[operator.inputs[0]].scale) * own.scales
        outputs = []
        for what, codes, scales in (("w", own.codes, own.scales), ("b", own.bias, bias_scales)):
            name = f"{operator.name}{MARK}{what}"
            inputs = [
                self.constant(f"{name}_codes", codes),
                self.constant(f"{name}_scales", scales.astype(np.float32)),
                self.constant(f"{name}_zero_points", np.zeros(len(scales), codes.dtype)),
            ]
            outputs.append(self.node("DequantizeLinear", inputs, name, f"{name}dq", axis=0))
        return outputs


class Fp32Writer(Writer):
    """Every tensor is named after its operator and holds floats, activation applied."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__(graph.operators)
        self.graph = graph

    def put(self, operator: Operator) -> None:
        name, inputs = operator.name, list(operator.inputs)
        match operator.kind:
            case "quantize":
                self.node("Identity", [IMAGE], name, name + MARK)
            case "conv":
                inputs += self.weights(operator)
                self.activate(operator, "Conv", inputs, group=operator.groups, **window(operator))
            case "gate" | "relabel":
                self.node("HardSigmoid", inputs, name, name + MARK, alpha=1 / 6, beta=0.5)
            case "sigmoid":
                self.node("Sigmoid", inputs, name, name + MARK)
            case "pool":
                self.node("GlobalAveragePool", inputs, name, name + MARK)
            case "max_pool":
                self.node("MaxPool", inputs, name, name + MARK, **window(operator))
            case "multiply":
                self.node("Mul", inputs, name, name + MARK)
            case "add":
                self.activate(operator, "Add", inputs)
            case "linear":
                flat = self.node("Flatten", inputs, f"{name}{MARK}flat", f"{name}{MARK}flatten")
                self.node("Gemm", [flat, *self.weights(operator)], LOGITS, name + MARK, transB=1)

    def finish(self, last: Operator) -> None:
        if last.kind != "linear":
            self.node("Identity", [last.name], LOGITS, "output")

    def activate(self, operator: Operator, op_type: str, inputs: Sequence[str], **attributes: Any) -> None:
        name = operator.name
        if operator.quantizer not in ("relu", "relu6"):
            self.node(op_type, inputs, name, name + MARK, **attributes)
            return
        linear = self.node(op_type, inputs, f"{name}{MARK}linear", name + MARK, **attributes)
        if operator.quantizer == "relu":
            self.node("Relu", [linear], name, f"{name}{MARK}relu")
        else:
            low = self.constant(f"{name}{MARK}low", np.array(0, np.float32))
            high = self.constant(f"{name}{MARK}high", np.array(6, np.float32))
            self.node("Clip", [linear, low, high], name, f"{name}{MARK}clip")

    def weights(self, operator: Operator) -> list[str]:
        own, mark = self.graph.weights[operator.name], operator.name + MARK
        weight = self.constant(f"{mark}w", own.weight.astype(np.float32))
        return [weight, self.constant(f"{mark}b", own.bias.astype(np.float32))]
