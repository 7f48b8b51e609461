"""What both writers of TFLite files share: tensors, constants, operators, and the flatbuffer of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from spaceevo.errors import ExportError
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node, Program
from spaceevo.graph.ops import Convolution, Depthwise, MaxPool
from spaceevo.graph.tensors import Shape
from spaceevo.runtimes.litert import flatbuffer
from spaceevo.runtimes.litert.flatbuffer import IMAGE, LOGITS, MARK
from spaceevo.runtimes.litert.installed import load_schema, version

SCHEMA_VERSION = 3
# The version of an operator that takes int8 (per channel where there are weights); others have version 1
INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12, "ADD": 2, "MUL": 2, "MEAN": 2,
                 "MAX_POOL_2D": 2, "PAD": 2, "LOGISTIC": 2, "CONCATENATION": 2, "DEQUANTIZE": 2}  # fmt: skip


class Writer(Interpreter[str]):
    """Collects tensors, constants and operators of a TFLite graph.

    The value of a node is the name of the tensor that holds what it puts out.
    """

    zero_is_lowest: Collection[str] = ()  # tensors without values below 0

    def __init__(self, program: Program) -> None:
        self.program = program
        self.schema = load_schema()
        self.tensors: list[Any] = []
        self.index: dict[str, int] = {}
        self.buffers: list[Any] = [self.schema.BufferT()]  # the first one is empty by convention
        self.kinds: list[tuple[int, int]] = []  # (kind, version) of LiteRT's operators
        self.nodes: list[Any] = []

    def content(self, metadata: Mapping[str, str]) -> bytes:
        """The file."""
        schema, first, last = self.schema, self.program[0], self.program[-1]
        values = {first.inputs[0]: self.add_map(IMAGE, first.in_shape, "FLOAT32")}
        for node in self.program:
            values[node.id] = self.apply(node, [values[name] for name in node.inputs])
        self.put_out(last, values[last.id])
        image, logits = self.index[IMAGE], self.index[LOGITS]
        graph = schema.SubGraphT(self.tensors, [image], [logits], self.nodes, "spaceevo")
        ends = [schema.TensorMapT(IMAGE, image)], [schema.TensorMapT(LOGITS, logits)]
        signature = schema.SignatureDefT(*ends, "serving_default")
        codes = [schema.OperatorCodeT(min(kind, 127), None, number, kind) for kind, number in self.kinds]
        versions = {"schema": str(SCHEMA_VERSION), "runtime": f"litert {version()}"}
        texts = {**metadata, **versions, flatbuffer.STRUCTURE: "0" * 64}  # to be filled in
        entries = [schema.MetadataT(key, self.buffer(text.encode())) for key, text in texts.items()]
        model = schema.ModelT(SCHEMA_VERSION, codes, [graph], "spaceevo", self.buffers, None, entries, [signature])
        self.buffers[-1].data = np.frombuffer(flatbuffer.structure(model).encode(), np.uint8)
        refused = flatbuffer.refused(model)
        if refused:
            raise ExportError(
                "The network cannot be exported to LiteRT", found=refused, remedy="Train again with a lower lr_int8"
            )
        return flatbuffer.pack(model)

    @abstractmethod
    def put_out(self, last: Node, value: str) -> None:
        """Make the output of the tensor of the last node."""

    @abstractmethod
    def like(self, name: str, source: str, shape: Shape) -> str:
        """Add a feature map with the quantization of `source`; returns its name."""

    @abstractmethod
    def identity(self, channels: int, name: str, source: str) -> Sequence[str]:
        """Weights and bias, named after `name`, of a 1x1 depthwise convolution of `source` that changes nothing."""

    def add_map(self, name: str, shape: Shape, kind: str, quantization: Any = None) -> str:
        """Add a feature map; returns its name."""
        return self.tensor(name, [1, shape.height, shape.width, shape.channels], kind, 0, quantization)

    def tensor(self, name: str, shape: Sequence[int], kind: str, buffer: int, quantization: Any = None) -> str:
        """Add a tensor; returns its name."""
        schema = self.schema
        self.index[name] = len(self.tensors)
        self.tensors.append(
            schema.TensorT([*shape], getattr(schema.TensorType, kind), buffer, name, quantization, hasRank=True)
        )
        return name

    def buffer(self, data: bytes) -> int:
        """Add constant bytes; returns their index."""
        self.buffers.append(self.schema.BufferT(np.frombuffer(data, np.uint8)))
        return len(self.buffers) - 1

    def constant(self, name: str, value: np.ndarray, scales: np.ndarray | None = None, axis: int = 0) -> str:
        """Add a constant, quantized per channel where there are `scales`; returns its name."""
        quantization = None if scales is None else self.quantization(scales, np.zeros(len(scales), int), axis)
        return self.tensor(name, value.shape, value.dtype.name.upper(), self.buffer(value.tobytes()), quantization)

    def quantization(self, scales: np.ndarray, zero_points: np.ndarray, axis: int = 0) -> Any:
        """Quantization parameters of a tensor."""
        return self.schema.QuantizationParametersT(
            scale=scales.astype(np.float32).tolist(), zeroPoint=zero_points.tolist(), quantizedDimension=axis
        )

    def node(self, kind: str, inputs: Sequence[str], output: str, options: Any = None) -> str:
        """Add an operator of LiteRT; returns the tensor that it puts out."""
        schema = self.schema
        inputs_at = [self.index[name] for name in inputs]
        is_int8 = any(self.tensors[index].type == schema.TensorType.INT8 for index in inputs_at)
        wanted = (getattr(schema.BuiltinOperator, kind), INT8_VERSIONS.get(kind, 1) if is_int8 else 1)
        if wanted not in self.kinds:
            self.kinds.append(wanted)
        options_kind = 0
        if options is not None:
            options_kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        outputs_at = [self.index[output]]
        self.nodes.append(schema.OperatorT(self.kinds.index(wanted), inputs_at, outputs_at, options_kind, options))
        return output

    def window(self, node: Node, op: Convolution | MaxPool, x: str) -> tuple[str, int]:
        """The tensor that a window reads, padded explicitly where LiteRT's own padding would differ.

        Returns:
            The tensor, and how LiteRT pads it itself.
        """
        paddings, y = self.schema.Padding, op.out_shape(node.in_shape)
        sides = [(node.in_shape.height, y.height), (node.in_shape.width, y.width)]
        after = [max(0, (out - 1) * op.stride + op.kernel_size - size - op.padding) for size, out in sides]
        if op.padding == max(after) == 0:
            return x, paddings.VALID
        if all(self._is_same(op, size, out) for size, out in sides):
            return x, paddings.SAME
        amounts = np.array([[0, 0], *([op.padding, end] for end in after), [0, 0]], np.int32)
        constant = self.constant(f"{node.id}{MARK}padding", amounts)
        height, width = (size + op.padding + end for (size, _), end in zip(sides, after, strict=True))
        padded = self.like(f"{node.id}{MARK}padded", x, Shape(node.in_shape.channels, height, width))
        return self.node("PAD", [x, constant], padded, self.schema.PadOptionsT()), paddings.VALID

    @staticmethod
    def _is_same(op: Convolution | MaxPool, size: int, out: int) -> bool:
        """Whether LiteRT's padding SAME is the operator's, along one axis."""
        same_size = -(-size // op.stride)
        same = max(0, (same_size - 1) * op.stride + op.kernel_size - size)
        return (same_size, same // 2) == (out, op.padding)

    def convolve(
        self, node: Node, op: Convolution, x: str, constants: Sequence[str], output: str, activation: int = 0
    ) -> str:
        """Add a convolution of `x` with `constants`: weights and bias."""
        schema, step = self.schema, op.stride
        source, padding = self.window(node, op, x)
        if isinstance(op, Depthwise):
            options = schema.DepthwiseConv2DOptionsT(padding, step, step, 1, activation)
            return self.node("DEPTHWISE_CONV_2D", [source, *constants], output, options)
        options = schema.Conv2DOptionsT(padding, step, step, activation)
        return self.node("CONV_2D", [source, *constants], output, options)

    def mean(self, node: Node, x: str, output: str) -> str:
        """Add a global average pool."""
        axes = self.constant(f"{node.id}{MARK}axes", np.array([1, 2], np.int32))
        return self.node("MEAN", [x, axes], output, self.schema.ReducerOptionsT(keepDims=True))

    def pick_largest(self, node: Node, op: MaxPool, x: str, output: str) -> str:
        """Add a max pool.

        LiteRT pads with zeros where it is told to: right only where nothing is lower. Elsewhere the windows around
        every position are pooled, which need no such padding, and every `stride`-th is kept.
        """
        schema, size = self.schema, op.kernel_size
        split = op.stride > 1 and node.inputs[0] not in self.zero_is_lowest
        pooled = MaxPool(size, 1) if split else op
        source, padding = self.window(node, pooled, x)
        options = schema.Pool2DOptionsT(padding, pooled.stride, pooled.stride, size, size)
        if not split:
            return self.node("MAX_POOL_2D", [source], output, options)
        dense = self.like(f"{node.id}{MARK}dense", source, node.in_shape)
        self.node("MAX_POOL_2D", [source], dense, options)
        kept = self.identity(node.in_shape.channels, node.id, node.inputs[0])
        return self.convolve(node, Depthwise(1, op.stride), dense, kept, output)


def in_litert_order(weight: np.ndarray, depthwise: bool) -> np.ndarray:
    """Weights [out, in, K, K] in LiteRT's order: [out, K, K, in], depthwise [1, K, K, out]."""
    return np.ascontiguousarray(weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
