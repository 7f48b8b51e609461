"""Models as people bring them: any names, types, shapes and number of inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.graph.nodes import Node, Role
from spaceevo.graph.tensors import Tensor

Spec = tuple[str, str, Sequence[int | str] | None]  # name, type, shape: a word or -1 is an open axis


def made_onnx(path: Path, *inputs: Spec, opset: int = 17, ir_version: int = 8, operator: str = "Relu") -> Path:
    """Every input is made float, summed up and added to the others, and a constant."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"float32": "FLOAT", "float64": "DOUBLE"}
    nodes, values = [helper.make_node(operator, ["w"], ["t0"], name="first")], []
    for number, (name, dtype, shape) in enumerate(inputs):
        values.append(helper.make_tensor_value_info(name, getattr(TensorProto, kinds.get(dtype, dtype.upper())), shape))
        x = f"x{number}"
        nodes.append(helper.make_node("Cast", [name], [x], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [x], [f"s{number}"], keepdims=0))
        nodes.append(helper.make_node("Add", [f"t{number}", f"s{number}"], [f"t{number + 1}"]))
    outputs = [helper.make_tensor_value_info(f"t{len(inputs)}", TensorProto.FLOAT, [64])]
    weights = [numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")]
    graph = helper.make_graph(nodes, "g", values, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.save(model, path)
    return path


def made_tflite(
    path: Path, *inputs: Spec, signatures: Sequence[str] = ("serving_default",), custom: str = "", subgraphs: int = 1
) -> Path:
    """Every input is made float, averaged and added to the others, and a constant."""
    from ai_edge_litert import schema_py_generated as schema

    from spaceevo.runtimes.litert.flatbuffer import pack

    operators, types = schema.BuiltinOperator, schema.TensorType
    tensors: list[Any] = []
    buffers = [schema.BufferT()]
    codes: list[Any] = []
    nodes: list[Any] = []

    def tensor(name: str, dtype: str, shape: Sequence[int], data: np.ndarray | None = None) -> int:
        if data is not None:
            buffers.append(schema.BufferT(np.frombuffer(data.tobytes(), np.uint8)))
        one = schema.TensorT([max(1, int(d)) if int(d) < 0 else int(d) for d in shape], getattr(types, dtype.upper()),
                             len(buffers) - 1 if data is not None else 0, name, hasRank=True)  # fmt: skip
        if any(int(d) < 0 for d in shape):
            one.shapeSignature = [int(d) for d in shape]
        tensors.append(one)
        return len(tensors) - 1

    def node(kind: int, read: list[int], written: int, options: Any = None) -> int:
        codes.append(schema.OperatorCodeT(min(kind, 127), custom or None, 1, kind))
        options_kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T")) if options else 0
        nodes.append(schema.OperatorT(len(codes) - 1, read, [written], options_kind, options))
        return written

    total = tensor("w", "float32", [64], np.arange(64, dtype=np.float32))
    total = node(operators.CUSTOM if custom else operators.LOGISTIC, [total], tensor("t", "float32", [64]))
    given = []
    for name, dtype, shape in inputs:
        assert shape is not None
        sizes = [-1 if isinstance(dim, str) else dim for dim in shape]
        given.append(tensor(name, dtype, sizes))
        x = given[-1]
        if dtype != "float32":
            options = schema.CastOptionsT(getattr(types, dtype.upper()), types.FLOAT32)
            x = node(operators.CAST, [x], tensor(f"{name}_float", "float32", sizes), options)
        if sizes:
            axes = tensor(f"{name}_axes", "int32", [len(sizes)], np.arange(len(sizes), dtype=np.int32))
            x = node(operators.MEAN, [x, axes], tensor(f"{name}_mean", "float32", []), schema.ReducerOptionsT(False))
        total = node(operators.ADD, [total, x], tensor(f"{name}_total", "float32", [64]), schema.AddOptionsT())
    graph = schema.SubGraphT(tensors, given, [total], nodes, "main")
    maps = [schema.TensorMapT(name, index) for (name, _, _), index in zip(inputs, given, strict=True)]
    keys = [schema.SignatureDefT(maps, [schema.TensorMapT("out", total)], key) for key in signatures]
    path.write_bytes(pack(schema.ModelT(3, codes, [graph] * subgraphs, "made", buffers, None, [], keys)))
    return path


def made_node(name, op, inputs, in_shape, quantizer="free"):
    """A node of no block; `in_shape` is that of its first input."""
    return Node(name, op, inputs, in_shape, Tensor(op.out_shape(in_shape), quantizer), Role("", None, name))
