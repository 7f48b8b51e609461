"""What a model costs on a simulated device: by the operators and shapes of its file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceevo.errors import ArtifactError
from spaceevo.runtimes import RUNTIMES, _qdq, require
from spaceevo.runtimes._models import check_format, shortened
from spaceevo.runtimes._onnx_models import open_onnx

_ONNX_KINDS = {"Conv": "conv", "Gemm": "linear", "MatMul": "linear", "Sigmoid": "sigmoid",
               "QLinearConv": "conv", "QLinearMatMul": "linear"}  # fmt: skip
_LARGEST_SHAPE = 1024  # bytes
_ONNX_WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3}  # which input it is, where not the second
#: Part of the kernel before or after them, or of none.
_ONNX_FUSED = frozenset({"QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "Flatten", "Reshape", "Identity"})
_TFLITE_KINDS = {"CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "linear",
                 "LOGISTIC": "sigmoid"}  # fmt: skip
_TFLITE_FUSED = frozenset({"RESHAPE", "DEQUANTIZE"})

#: Of one core: MACs or elements per ms in FP32, and how many times faster INT8 is.
RATES: dict[str, tuple[float, float]] = {
    "conv": (20e6, 4.0),
    "depthwise": (4e6, 2.0),
    "linear": (10e6, 4.0),
    "sigmoid": (0.5e6, 2.0),
    "elementwise": (4e6, 2.0),
}
KERNEL_MS = 0.003
MIB_PER_MS = 10.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator of a model file.

    Attributes:
        name: Of the operator of the architecture that it belongs to.
        kind: A key of `RATES`.
        work: MACs of what has weights, else elements put out.
        num_bytes: Read and written, weights included.
        is_int8: Whether it computes on codes.
    """

    name: str
    kind: str
    work: int
    num_bytes: int
    is_int8: bool

    @property
    def ms(self) -> float:
        """Latency on one core of speed 1; always positive."""
        rate, gain = RATES[self.kind]
        compute_ms = self.work / (rate * (gain if self.is_int8 else 1.0))
        return KERNEL_MS + compute_ms + self.num_bytes / (MIB_PER_MS * MIB)


def kernels(path: Path) -> tuple[Kernel, ...]:
    """The operators of an ONNX or TFLite file; those of another part of a graph (a branch, a loop) are not looked into.

    Raises:
        ArtifactError: The file is missing or no such model, or a shape cannot be told.
        TargetError: Reading TFLite files needs an extra that is not installed.
    """
    found = check_format(path, "the simulated device", "ONNX", "TFLite")
    own = tuple(_tflite_kernels(path) if found == "TFLite" else _onnx_kernels(path))
    return own or (Kernel("~", "elementwise", 0, 0, False),)  # nothing but what becomes part of others


def _onnx_kernels(path: Path) -> Iterator[Kernel]:
    import onnx

    model = _qdq.read_model(path, weights=False)
    for tensor in model.graph.initializer:  # large ones would be copied, and are no shapes
        if len(tensor.raw_data) > _LARGEST_SHAPE:
            tensor.ClearField("raw_data")
    inputs = {own.name: own.shape for own in open_onnx(path).inputs}
    for value in model.graph.input:  # a batch that is left open is 1, also behind it
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            dim.dim_value = size
    for value in (*model.graph.value_info, *model.graph.output):
        if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except Exception as error:  # onnx promises no base of its errors
        raise ArtifactError(
            f"{path} is no ONNX model that the simulated device can load",
            found=shortened(str(error)),
            remedy="Mend the model, or measure it on a device",
        ) from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    images = {value.name for value in graph.input}
    quantizers = ("QuantizeLinear", "DequantizeLinear")
    codes = {name for node in graph.node if node.op_type in quantizers for name in node.output}
    for node in graph.node:
        source = node.input[0] if node.input else ""
        first = node.op_type == "QuantizeLinear" and source in images
        if node.op_type in _ONNX_FUSED and not first:
            if node.op_type == "Flatten" and source in codes:
                codes.add(node.output[0])
            continue
        is_int8 = source in codes or first or node.op_type.startswith("QLinear")
        if node.op_type == "MaxPool" and is_int8:
            codes.add(node.output[0])
        kind = _ONNX_KINDS.get(node.op_type, "elementwise")
        at = _ONNX_WEIGHT.get(node.op_type, 1)
        needed = (node.output[0], *(node.input[at : at + 1] if kind in ("conv", "linear") else ()))
        if unknown := [name for name in needed if name not in shapes]:
            raise ArtifactError(
                f"The simulated device cannot tell what {node.op_type} {node.name!r} of {path} costs",
                found=f"The shape of {unknown[0]!r} follows from values, or from an operator that it does not know",
                remedy="Measure this model on a device",
            )
        tensors = [shapes[name] for name in (*node.input[:2], node.output[0]) if name in shapes]
        weight = _weight_shape(node, shapes[node.input[at]]) if kind in ("conv", "linear") else ()
        if kind == "conv" and weight[1] == 1 < weight[0]:
            kind = "depthwise"
        name = node.name if _qdq.MARK in node.name else f"~{node.op_type}"
        yield _kernel(name, kind, tensors, weight, _elements(shapes[node.output[0]]), is_int8)


def _weight_shape(node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of weights: output channels, then what each of them sums over."""
    if node.op_type.endswith("MatMul"):  # [..., in, out]
        return (shape[-1], *shape[-2:-1])
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return shape if node.op_type.endswith("Conv") or is_transposed else shape[::-1]


def _tflite_kernels(path: Path) -> Iterator[Kernel]:
    require("flatbuffers", "LiteRT", "litert")
    schema: Any = require("ai_edge_litert.schema_py_generated", "LiteRT", "litert")
    is_ours = RUNTIMES.load("litert").open_model(path).is_ours
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = (schema.TensorType.INT8, schema.TensorType.UINT8)
    for operator in graph.operators:
        own = model.operatorCodes[operator.opcodeIndex]
        operation = names.get(max(own.builtinCode, own.deprecatedBuiltinCode), "CUSTOM")  # old files have the second
        if operation in _TFLITE_FUSED or operator.outputs is None or not len(operator.outputs):
            continue
        kind = _TFLITE_KINDS.get(operation, "elementwise")
        inputs = [graph.tensors[index] for index in (() if operator.inputs is None else operator.inputs) if index >= 0]
        output = graph.tensors[operator.outputs[0]]
        shapes = [() if one.shape is None else tuple(map(int, one.shape)) for one in (*inputs[:2], output)]
        weight: tuple[int, ...] = ()
        if kind in ("conv", "depthwise", "linear"):  # output channels first, as in ONNX
            weight = shapes[1] if kind != "depthwise" else (shapes[1][3], shapes[1][1], shapes[1][2])
        is_int8 = any(tensor.type in codes for tensor in (*inputs[:2], output))
        name = (inputs[1] if weight else output).name.decode() if is_ours else f"~{operation}"
        yield _kernel(name, kind, shapes, weight, _elements(shapes[-1]), is_int8)


def _kernel(
    name: str, kind: str, shapes: list[tuple[int, ...]], weight: tuple[int, ...], num_outputs: int, is_int8: bool
) -> Kernel:
    """A kernel; `name` is its node's or tensor's, `weight` has the output channels in front, and may be empty."""
    work = num_outputs * (_elements(weight[1:]) if weight else 1)
    num_bytes = sum(map(_elements, shapes)) * (1 if is_int8 else 4)
    return Kernel(name.split(_qdq.MARK)[0], kind, work, num_bytes, is_int8)


def _elements(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
