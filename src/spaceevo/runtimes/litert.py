"""LiteRT (TensorFlow Lite) on the processor, with its XNNPACK delegate: flatbuffers written directly, run and timed.

Batch 1, channels last: input "image" float32 [1, H, W, 3], output "logits" float32 [1, C]. Tensors are named after
the ids of the program's nodes. Activations are int8: LiteRT's code is the contract's less 128. Everything runs in one
partition of XNNPACK; LiteRT's own kernels would not be exact.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from spaceevo.artifacts import content_hash, write_atomically
from spaceevo.errors import ArtifactError, ExportError, TargetError
from spaceevo.graph.graphs import FloatGraph, IntegerGraph, QuantParams
from spaceevo.graph.interpret import Interpreter
from spaceevo.graph.nodes import Node, Program, hard_swish_gates
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
from spaceevo.graph.tensors import NUM_CODES, Shape
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic
from spaceevo.runtimes import _benchmark_model, check_images, check_placement, require
from spaceevo.runtimes._models import Model, Timed, check_format, make_input, shortened
from spaceevo.runtimes._on_device import litert as on_device

NAME = "LiteRT"
SUFFIX = ".tflite"
EXPORTER = 1
LAYOUT = "NHWC"
IMAGE = "image"
LOGITS = "logits"
MARK = "|"  # ends an operator's name within the name of a tensor
SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"
STRUCTURE = "spaceevo_structure"  # metadata: digest of everything but the numbers
OFFSET = 128  # of our codes over LiteRT's
MAX_WEIGHT = 127
MAX_BIAS = 2**30
ON_DEVICE = Path(on_device.__file__)
BENCHMARK = _benchmark_model
on_device_options = operator_times = None
# The version of an operator that takes int8 (per channel where there are weights); others have version 1
INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12, "ADD": 2, "MUL": 2, "MEAN": 2,
                 "MAX_POOL_2D": 2, "PAD": 2, "LOGISTIC": 2, "CONCATENATION": 2, "DEQUANTIZE": 2}  # fmt: skip


def version() -> str:
    """Version of LiteRT.

    Raises:
        TargetError: It is not installed.
    """
    return str(_package().__version__)


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor: 127 on all of them.

    XNNPACK multiplies s8 by s8. Without VNNI, its x86 kernels widen both to 16 bit and add pairs of products in
    32 bit (`_mm256_madd_epi16`); with VNNI they use the instruction that does not saturate (`vpdpbusd`). On ARM,
    products are 16 bit, and at most two of them are added before they are widened: 2 * 128 * 127 < 2**15.
    """
    return MAX_WEIGHT


def export_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a quantized network as a TFLite flatbuffer, with exactly the graph's parameters.

    The logits are not quantized. The only integer kernel of XNNPACK with such an output quantizes the classifier's
    input itself, over the input's range. So two features are appended, with weights 0: the values of the codes 0 and
    255. Over their range it finds the very codes again, and computes exact integers. (With weights in float, 1280
    features and 1000 classes took 0.08 ms instead of 0.012 ms on an x86 server, and four times the space.)

    Args:
        graph: A whole network, or a part: without logits, the output is the last tensor, dequantized.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: A scale is not a positive number, or too far from those of its neighbours; or the graph is not
            quantized as devices compute.
        NoSpaceError: The file cannot be written.
        TargetError: LiteRT is not installed.
    """
    check_placement(graph.nodes)
    write_atomically(path, _Int8Writer(graph).content(metadata))


def export_fp32(graph: FloatGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the FP32 twin of a quantized network, in the form that LiteRT runs fastest.

    Args:
        graph: A whole network, or a part.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: XNNPACK does not take its numbers.
        NoSpaceError: The file cannot be written.
        TargetError: LiteRT is not installed.
    """
    write_atomically(path, _Fp32Writer(graph).content(metadata))


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a model, versions included.

    Raises:
        ArtifactError: The file is no TFLite model that spaceevo wrote, or is damaged.
    """
    model = _read(path)
    return {key: text for key, text in _texts(model).items() if key != STRUCTURE}


def constants(path: Path) -> dict[str, np.ndarray]:
    """Every constant of a model by name, as the file holds it.

    Returns:
        Weights "<operator>|w" (int8 or float32 [out, K, K, in], depthwise [1, K, K, out], linear [out, in], where
        int8 with two more features, see `export_int8`) and biases "<operator>|b"; "<tensor>/scales" of both; and of
        every other quantized tensor "<operator>/scale" and "<operator>/zero_point" (of int8: 128 less than ours).

    Raises:
        ArtifactError: The file is no TFLite model that spaceevo wrote, or is damaged.
    """
    model, schema = _read(path), _schema()
    dtypes = {schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32, schema.TensorType.FLOAT32: np.float32}
    found = {}
    for tensor in model.subgraphs[0].tensors:
        name, own, data = tensor.name.decode(), tensor.quantization, model.buffers[tensor.buffer].data
        if data is not None:
            found[name] = np.frombuffer(data.tobytes(), dtypes[tensor.type]).reshape(tensor.shape)
        if own is not None and own.scale is not None:
            if data is not None:
                found[f"{name}/scales"] = np.asarray(own.scale, np.float32)
            else:
                found[f"{name}/scale"] = np.asarray(own.scale[0], np.float32)
                found[f"{name}/zero_point"] = np.asarray(own.zeroPoint[0], np.int64)
    return found


def float_operators(path: Path) -> tuple[str, ...]:
    """What LiteRT would compute in float, or outside of XNNPACK, whose kernels alone are exact.

    The classifier is not counted, with the operator that gives it numbers instead of codes: its logits are float by
    the contract.

    Returns:
        "KIND tensor" of every operator that reads floats, other than the quantization of the image, or that LiteRT
        does not hand to XNNPACK; empty for a model that runs wholly in integers.

    Raises:
        ArtifactError: The file cannot be loaded.
        TargetError: LiteRT is not installed.
    """
    model = _read(path)
    graph, schema = model.subgraphs[0], _schema()
    details = _load(path, _pack(model), 1)._get_ops_details()
    nodes = details[: len(graph.operators)]
    delegated = _delegated(nodes, details[len(nodes) :])
    kinds = [node["op_name"] for node in nodes]
    classifier = {len(nodes) - 1} if kinds[-1] == "DEQUANTIZE" else set()
    if kinds[-2:] == ["DEQUANTIZE", "FULLY_CONNECTED"]:
        classifier = {len(nodes) - 2, len(nodes) - 1}
    found = []
    for number, node in enumerate(nodes):
        types = {graph.tensors[index].type for index in node["inputs"]}
        is_float = schema.TensorType.FLOAT32 in types and number not in classifier and kinds[number] != "QUANTIZE"
        if is_float or number not in delegated:
            found.append(f"{kinds[number]} {graph.tensors[node['outputs'][0]].name.decode()}")
    return tuple(found)


def profile(path: Path, repeats: int, threads: int = 1) -> dict[str, float]:
    """Milliseconds per operator: LiteRT does not tell them from Python.

    Raises:
        ArtifactError: The file cannot be loaded.
        TargetError: Always.
    """
    open_model(path)
    raise TargetError(
        "LiteRT cannot profile single operators from Python",
        found=f"LiteRT {version()} hands a whole network to XNNPACK, and its Python interface has no profiler",
        remedy="Measure whole networks, or run LiteRT's own benchmark_model with --enable_op_profiling=true",
    )


class Session:
    """A loaded model.

    Args:
        path: A file that `export_int8` or `export_fp32` wrote.
        threads: Threads within an operator; operators run one after another.
        taps: Nodes whose codes `codes` gives: no `Relabel` (it has its input's) and no `Linear`.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
        TargetError: LiteRT is not installed.
    """

    def __init__(self, path: Path, threads: int = 1, taps: Sequence[str] = ()) -> None:
        self._taps = list(taps)
        model = _read(path)
        graph = model.subgraphs[0]
        names = {tensor.name.decode(): index for index, tensor in enumerate(graph.tensors)}
        missing = [tap for tap in taps if tap not in names]
        if missing:
            raise ArtifactError(f"{path} has no tensor {missing[0]!r}", remedy="Export it again")
        outputs = [graph.outputs[0], *(names[tap] for tap in taps)]
        graph.outputs = list(dict.fromkeys(outputs))
        self._interpreter = _load(path, _pack(model), threads)
        self._input = self._interpreter.get_input_details()[0]["index"]
        by_name = {details["name"]: details["index"] for details in self._interpreter.get_output_details()}
        self._outputs = {name: by_name[name] for name in (LOGITS, *taps)}
        height, width, channels = graph.tensors[graph.inputs[0]].shape[1:]
        self._shape = (1, channels, height, width)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C], of preprocessed images, float32 [N, 3, H, W]; one image at a time.

        Raises:
            DataError: The images have another size.
            ExportError: LiteRT refuses to run the model.
        """
        return self._run([LOGITS], images)[0]

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Codes, uint8 [N, C, H, W], of every tapped tensor, for images as of `run`."""
        outputs = self._run(self._taps, images)
        return {
            tap: (codes.astype(np.int16) + OFFSET).astype(np.uint8)
            for tap, codes in zip(self._taps, outputs, strict=True)
        }

    def _run(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        check_images(images, self._shape)
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1), dtype=np.float32)
        outputs: list[list[np.ndarray]] = [[] for _ in names]
        for image in images:
            self._interpreter.set_tensor(self._input, image[None])
            with _running():
                self._interpreter.invoke()
            for name, parts in zip(names, outputs, strict=True):
                parts.append(self._interpreter.get_tensor(self._outputs[name]))
        merged = [np.concatenate(parts) for parts in outputs]
        return [np.ascontiguousarray(y.transpose(0, 3, 1, 2)) if y.ndim == 4 else y for y in merged]


def open_model(path: Path) -> Model:
    """A TFLite model of anybody's: what is run is its first subgraph.

    Raises:
        ArtifactError: Missing, damaged or no TFLite model, one with several signatures, or inputs that cannot be made.
        TargetError: LiteRT is not installed.
    """
    check_format(path, NAME, "TFLite")
    model, schema = _parsed(path), _schema()
    if _is_marked(model):
        model = _read(path)
    kinds = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    with _garbled(path):
        signatures = [_outline(own.signatureKey or b"") for own in model.signatureDefs or ()]
        graph, inputs = model.subgraphs[0], []
        for index in graph.inputs:
            tensor = graph.tensors[index]
            dims = _listed(tensor.shape)
            signature = dims if tensor.shapeSignature is None else _listed(tensor.shapeSignature)
            # A batch that is open is what the interpreter begins with
            dims = dims[:1] + [min(pair) for pair in zip(dims[1:], signature[1:], strict=True)]
            inputs.append((_outline(tensor.name or b""), kinds[tensor.type], dims))
    if len(signatures) > 1:
        raise ArtifactError(
            f"{path} has several signatures, and a measurement is of one",
            found=", ".join(map(str, signatures)),
            remedy="Convert each of them to a file of its own",
        )
    return Model(path, tuple(make_input(path, *own) for own in inputs), is_ours=_is_marked(model))


def load(path: Path, threads: int = 1) -> Timed:
    """A model of anybody's, to be timed.

    Raises:
        ArtifactError: As `open_model`, or LiteRT refuses it.
        TargetError: LiteRT is not installed.
    """
    return Timed(open_model(path), on_device, lambda said: explain(said, version()), NAME, threads)


def explain(message: str, version: str) -> tuple[str, str]:
    """What LiteRT means when it refuses a model.

    Args:
        message: Its own.
        version: Its.

    Returns:
        What is wrong, and what to do.
    """
    newer = f"or install a newer LiteRT than {version}"
    if "custom op" in message:
        return shortened(message), "Convert the model without custom operators"
    if "Didn't find op" in message:
        return shortened(message), f"Convert the model without operators that LiteRT does not have, {newer}"
    return shortened(message), f"Mend the model, convert it again, {newer}"


@contextmanager
def _running() -> Iterator[None]:
    """Turn errors of LiteRT into ours."""
    try:
        yield
    except RuntimeError as error:
        raise ExportError(
            "LiteRT cannot run an exported model",
            found=" ".join(str(error).split())[:300],
            remedy="Train again with a lower lr_int8; if it stays, report it to the authors of spaceevo",
        ) from error


def _quantize_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """Codes of the image: times the reciprocal of the scale, where the contract divides."""
    return _requantize(inputs[0][0] * (np.float32(1) / np.float32(y.scale)), y)


def _add_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A sum in fixed point: the larger of both factors has 21 bits, halves are rounded up."""
    ratios = [np.float32(params.scale) / np.float32(y.scale) for _, params in inputs]
    shift = 21 - int(np.frexp(max(ratios))[1])
    terms = [
        (codes.astype(np.int64) - params.zero_point) * int(np.rint(np.ldexp(ratio, shift)))
        for (codes, params), ratio in zip(inputs, ratios, strict=True)
    ]
    half = 1 << (shift - 1)
    return _clamp((terms[0] + terms[1] + half >> shift) + y.zero_point)


def _multiply_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A product, rounded before the zero point is added."""
    (a, a_params), (b, b_params) = inputs
    scale = np.float32(a_params.scale) * np.float32(b_params.scale) / np.float32(y.scale)
    return _requantize((a - a_params.zero_point) * (b - b_params.zero_point) * scale, y)


def _pool_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """A mean: the sum of int8 codes times a factor, plus an offset with both zero points, in float32."""
    ((codes, x),) = inputs
    size = codes.shape[2] * codes.shape[3]
    total = (codes - OFFSET).sum(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    scale = np.float32(x.scale) / np.float32(y.scale) * (np.float32(1) / np.float32(size))
    offset = np.float32(y.zero_point - OFFSET) - np.float32((x.zero_point - OFFSET) * size) * scale
    return _clamp(np.rint(total * scale + offset) + OFFSET)


def _gate_codes(node: Node, inputs: Sequence[tuple[np.ndarray, QuantParams]], y: QuantParams) -> np.ndarray:
    """x / 6 + 0.5 as the convolution that the exported file has for it."""
    ((codes, x),) = inputs
    weight, scale, bias = _half(node, x)
    total = ((codes.astype(np.int64) - x.zero_point) * weight + bias).astype(np.float32)
    return _requantize(total * (np.float32(x.scale) * scale / np.float32(y.scale)), y)


def _requantize(values: np.ndarray, y: QuantParams) -> np.ndarray:
    return _clamp(np.rint(values) + y.zero_point)


def _clamp(codes: np.ndarray) -> np.ndarray:
    return codes.clip(0, NUM_CODES - 1).astype(np.float32)


#: As XNNPACK computes on x86, code by code: found in its source and confirmed on inputs that lie next to ties. Its
#: convolutions, sigmoids and max pools are the contract's. On ARM it also multiplies in fixed point, so that a tie may
#: be rounded otherwise.
ARITHMETIC = Arithmetic(
    codes={
        Quantize: _quantize_codes,
        Add: _add_codes,
        Multiply: _multiply_codes,
        Pool: _pool_codes,
        Gate: _gate_codes,
    }
)


def _delegated(nodes: Sequence[Mapping[str, Any]], delegates: Sequence[Mapping[str, Any]]) -> set[int]:
    """Numbers of the operators that delegates took over: from their outputs back to their inputs."""
    makers = {int(node["outputs"][0]): number for number, node in enumerate(nodes)}
    found: set[int] = set()
    for delegate in delegates:
        read, wanted = set(delegate["inputs"]), list(delegate["outputs"])
        while wanted:
            number = makers[int(wanted.pop())]
            if number not in found:
                found.add(number)
                wanted += [index for index in nodes[number]["inputs"] if int(index) in makers and index not in read]
    return found


def _package() -> ModuleType:
    return require("ai_edge_litert", "LiteRT", "litert")


def _schema() -> Any:
    _package()
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


class _Writer(Interpreter[str]):
    """Collects tensors, constants and operators of a TFLite graph.

    The value of a node is the name of the tensor that holds what it puts out.
    """

    zero_is_lowest: Collection[str] = ()  # tensors without values below 0

    def __init__(self, program: Program) -> None:
        self.program = program
        self.schema = _schema()
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
        texts = {**metadata, **versions, STRUCTURE: "0" * 64}  # to be filled in
        entries = [schema.MetadataT(key, self.buffer(text.encode())) for key, text in texts.items()]
        model = schema.ModelT(SCHEMA_VERSION, codes, [graph], "spaceevo", self.buffers, None, entries, [signature])
        self.buffers[-1].data = np.frombuffer(_structure(model).encode(), np.uint8)
        refused = _refused(model)
        if refused:
            raise ExportError(
                "The network cannot be exported to LiteRT", found=refused, remedy="Train again with a lower lr_int8"
            )
        return _pack(model)

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


class _Int8Writer(_Writer):
    """Every tensor is named after its node and holds codes."""

    def __init__(self, graph: IntegerGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph
        self.zero_is_lowest = {name for name, params in graph.quant_params.items() if params.zero_point == 0}

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        return self.node("QUANTIZE", [x], self.add_output(node), self.schema.QuantizeOptionsT())

    def conv(self, node: Node, op: Conv, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node, depthwise=False), output)

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node, depthwise=True), output)

    def gate(self, node: Node, op: Gate, x: str) -> str:
        return self.shift_and_scale(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        return self.shift_and_scale(node, x)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        return self.node("LOGISTIC", [x], self.add_output(node))

    def pool(self, node: Node, op: Pool, x: str) -> str:
        return self.mean(node, x, self.add_output(node))

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        return self.pick_largest(node, op, x, self.add_output(node))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        return self.node("MUL", [a, b], self.add_output(node), self.schema.MulOptionsT())

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        return self.node("ADD", [a, b], self.add_output(node), self.schema.AddOptionsT())

    def linear(self, node: Node, op: Linear, x: str) -> str:
        schema, mark = self.schema, node.id + MARK
        weights, x_params = self.graph.weights[node.id], self.graph.quant_params[node.inputs[0]]
        scales = weights.scales.astype(np.float32)
        ends = np.array([-OFFSET, NUM_CODES - 1 - OFFSET], np.int8)
        wider = Shape(node.in_shape.channels + len(ends))
        end = self.tensor(
            f"{mark}ends", [1, 1, 1, len(ends)], "INT8", self.buffer(ends.tobytes()), self.per_tensor(x_params)
        )
        codes = self.add_codes(f"{mark}codes", wider, x_params)
        self.node("CONCATENATION", [x, end], codes, schema.ConcatenationOptionsT(axis=3))
        values = self.add_map(f"{mark}x", wider, "FLOAT32")
        self.node("DEQUANTIZE", [codes], values, schema.DequantizeOptionsT())
        padded = np.pad(weights.codes, ((0, 0), (0, len(ends))))
        bias = weights.bias.astype(np.float32) * (np.float32(x_params.scale) * scales)
        inputs = [values, self.constant(f"{mark}w", padded, scales), self.constant(f"{mark}b", bias)]
        self.tensor(LOGITS, [1, op.width], "FLOAT32", 0)
        options = schema.FullyConnectedOptionsT(asymmetricQuantizeInputs=True)
        return self.node("FULLY_CONNECTED", inputs, LOGITS, options)

    def put_out(self, last: Node, value: str) -> None:
        if not isinstance(last.op, Linear):
            self.add_map(LOGITS, last.out_shape, "FLOAT32")
            self.node("DEQUANTIZE", [value], LOGITS, self.schema.DequantizeOptionsT())

    def shift_and_scale(self, node: Node, x: str) -> str:
        """x / 6 + 0.5, for which XNNPACK has no operator, as a convolution."""
        output, params = self.add_output(node), self.graph.quant_params[node.inputs[0]]
        code, scale, bias = _half(node, params)
        ones = np.ones(node.out_shape.channels)
        codes = (ones * code).astype(np.int8).reshape(-1, 1, 1, 1)
        constants = self.quantized(node.id, codes, ones * scale, (ones * bias).astype(np.int32), params, True)
        return self.convolve(node, Depthwise(), x, constants, output)

    def per_tensor(self, params: QuantParams) -> Any:
        return self.quantization(np.array([params.scale]), np.array([params.zero_point - OFFSET]))

    def add_output(self, node: Node) -> str:
        """Add the tensor that a node puts out; returns its name."""
        return self.add_codes(node.id, node.out_shape, self.graph.quant_params[node.id])

    def add_codes(self, name: str, shape: Shape, params: QuantParams) -> str:
        return self.add_map(name, shape, "INT8", self.per_tensor(params))

    def like(self, name: str, source: str, shape: Shape) -> str:
        return self.add_map(name, shape, "INT8", self.tensors[self.index[source]].quantization)

    def weights(self, node: Node, *, depthwise: bool) -> list[str]:
        weights, x = self.graph.weights[node.id], self.graph.quant_params[node.inputs[0]]
        return self.quantized(node.id, weights.codes, weights.scales, weights.bias, x, depthwise)

    def identity(self, channels: int, name: str, source: str) -> Sequence[str]:
        ones, x = np.ones(channels), self.graph.quant_params[source]
        codes = ones.astype(np.int8).reshape(-1, 1, 1, 1)
        return self.quantized(name, codes, ones, np.zeros(channels, np.int32), x, True)

    def quantized(
        self, name: str, codes: np.ndarray, scales: np.ndarray, bias: np.ndarray, x: QuantParams, depthwise: bool
    ) -> list[str]:
        """Weights [out, in, K, K] and bias of a convolution that reads `x`."""
        scales = scales.astype(np.float32)
        ordered, axis = _ordered(codes, depthwise), 3 if depthwise else 0
        return [
            self.constant(f"{name}{MARK}w", ordered, scales, axis),
            self.constant(f"{name}{MARK}b", bias, np.float32(x.scale) * scales),
        ]


class _Fp32Writer(_Writer):
    """Every tensor is named after its node and holds floats, activation applied."""

    def __init__(self, graph: FloatGraph) -> None:
        super().__init__(graph.nodes)
        self.graph = graph
        self.zero_is_lowest = set()
        for node in graph.nodes:
            if node.out.quantizer in ("relu", "relu6") or (
                node.out.quantizer == "input" and node.inputs[0] in self.zero_is_lowest
            ):
                self.zero_is_lowest.add(node.id)
        self.hard_swish_gates = hard_swish_gates(graph.nodes)

    def quantize(self, node: Node, op: Quantize, x: str) -> str:
        self.index[node.id] = self.index[x]
        return node.id

    def conv(self, node: Node, op: Conv, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node), output, self.activation(node))

    def depthwise(self, node: Node, op: Depthwise, x: str) -> str:
        output = self.add_output(node)
        return self.convolve(node, op, x, self.weights(node), output, self.activation(node))

    def gate(self, node: Node, op: Gate, x: str) -> str:
        # Of a hard-swish there is no tensor: its product reads what the gate would
        return x if node.id in self.hard_swish_gates else self.hard_sigmoid(node, x)

    def relabel(self, node: Node, op: Relabel, x: str) -> str:
        return self.hard_sigmoid(node, x)

    def sigmoid(self, node: Node, op: Sigmoid, x: str) -> str:
        return self.node("LOGISTIC", [x], self.add_output(node))

    def pool(self, node: Node, op: Pool, x: str) -> str:
        return self.mean(node, x, self.add_output(node))

    def max_pool(self, node: Node, op: MaxPool, x: str) -> str:
        return self.pick_largest(node, op, x, self.add_output(node))

    def multiply(self, node: Node, op: Multiply, a: str, b: str) -> str:
        output = self.add_output(node)
        if node.inputs[1] in self.hard_swish_gates:
            return self.node("HARD_SWISH", [a], output)
        return self.node("MUL", [a, b], output, self.schema.MulOptionsT())

    def add(self, node: Node, op: Add, a: str, b: str) -> str:
        return self.node("ADD", [a, b], self.add_output(node), self.schema.AddOptionsT(self.activation(node)))

    def linear(self, node: Node, op: Linear, x: str) -> str:
        output = self.tensor(node.id, [1, op.width], "FLOAT32", 0)
        return self.node("FULLY_CONNECTED", [x, *self.weights(node)], output, self.schema.FullyConnectedOptionsT())

    def put_out(self, last: Node, value: str) -> None:
        self.index[LOGITS] = self.index[value]
        self.tensors[self.index[LOGITS]].name = LOGITS

    def hard_sigmoid(self, node: Node, x: str) -> str:
        """(x + 3) clamped to [0, 6], times a sixth."""
        schema, output = self.schema, self.add_output(node)
        clamped = self.add_map(f"{node.id}{MARK}six", node.out_shape, "FLOAT32")
        three, sixth = (np.array([value], np.float32) for value in (3, 1 / 6))
        relu6 = schema.AddOptionsT(schema.ActivationFunctionType.RELU6)
        self.node("ADD", [x, self.constant(f"{node.id}{MARK}three", three)], clamped, relu6)
        factor = self.constant(f"{node.id}{MARK}sixth", sixth)
        return self.node("MUL", [clamped, factor], output, schema.MulOptionsT())

    def activation(self, node: Node) -> int:
        """LiteRT's number of the activation that a node ends with."""
        kinds = self.schema.ActivationFunctionType
        return int({"relu": kinds.RELU, "relu6": kinds.RELU6}.get(node.out.quantizer, kinds.NONE))

    def add_output(self, node: Node) -> str:
        """Add the tensor that a node puts out; returns its name."""
        return self.add_map(node.id, node.out_shape, "FLOAT32")

    def like(self, name: str, source: str, shape: Shape) -> str:
        return self.add_map(name, shape, "FLOAT32")

    def identity(self, channels: int, name: str, source: str) -> Sequence[str]:
        ones = np.ones((1, 1, 1, channels), np.float32)
        bias = np.zeros(channels, np.float32)
        return [self.constant(f"{name}{MARK}w", ones), self.constant(f"{name}{MARK}b", bias)]

    def weights(self, node: Node) -> list[str]:
        weights, mark = self.graph.weights[node.id], node.id + MARK
        weight = weights.weight.astype(np.float32)
        if isinstance(node.op, Conv | Depthwise):
            weight = _ordered(weight, isinstance(node.op, Depthwise))
        return [self.constant(f"{mark}w", weight), self.constant(f"{mark}b", weights.bias.astype(np.float32))]


def _ordered(weight: np.ndarray, depthwise: bool) -> np.ndarray:
    """Weights [out, in, K, K] in LiteRT's order: [out, K, K, in], depthwise [1, K, K, out]."""
    return np.ascontiguousarray(weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))


def _half(node: Node, x: QuantParams) -> tuple[int, np.float32, int]:
    """x / 6 + 0.5 as a 1x1 depthwise convolution: weight code, weight scale and bias.

    Of the weight codes, which are all equal, that on whose grid 0.5 is rounded least.
    """
    step = np.float32(x.scale)
    codes = np.arange(1, MAX_WEIGHT + 1)
    scales = (1 / (6 * codes)).astype(np.float32)
    steps = (step * scales).astype(np.float64)
    with np.errstate(all="ignore"):  # of a scale that is 0 or no number
        biases = np.rint(0.5 / steps)
        errors = np.where(biases <= MAX_BIAS, abs(biases * steps - 0.5), np.inf)
    best = int(errors.argmin())
    if not np.isfinite(errors[best]):
        raise ExportError(
            f"LiteRT cannot compute {node.id}",
            found=f"its input {node.inputs[0]} has a scale of {x.scale}",
            remedy="Train again with a lower lr_int8",
        )
    return int(codes[best]), scales[best], int(biases[best])


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _structure(model: Any) -> str:
    """Digest of everything in a model but its numbers (scales, zero points, codes, biases) and texts.

    A garbled file may kill the process within LiteRT; other numbers do not. Axes and paddings count as structure.
    """
    int32, buffers = _schema().TensorType.INT32, model.buffers
    settings = [t.buffer for t in model.subgraphs[0].tensors if t.type == int32 and t.quantization is None]
    return content_hash([_outline(model), [_outline(list(buffers[index].data)) for index in settings]])


def _outline(value: Any) -> Any:
    """A model's object as JSON, numbers and default values left out."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    if isinstance(value, list | np.ndarray):
        return [_outline(item) for item in value]
    if isinstance(value, bool | int | float | np.generic):
        return int(value)
    fields = {}
    for key, item in vars(value).items():
        if key in ("scale", "zeroPoint", "data"):
            fields[key] = 0 if item is None else len(item)
        elif item is not None and key != "debugMetadataIndex" and (not np.isscalar(item) or item):
            fields[key] = _outline(item)
    return fields


def _read(path: Path) -> Any:
    """A model that spaceevo wrote, as objects, its structure intact.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign.
    """
    remedy = "Export it again"
    if not path.is_file():
        raise ArtifactError(f"There is no model at {path}", remedy=remedy)
    model = _parsed(path)
    try:
        graph = model.subgraphs[0]
        names = [_outline(graph.tensors[index].name) for index in (*graph.inputs, *graph.outputs)]
        is_ours = _is_marked(model) and names == [IMAGE, LOGITS]
        is_intact = is_ours and _texts(model)[STRUCTURE] == _structure(model)
    except Exception as error:  # whatever garbled offsets lead the parser to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtifactError(f"{path} is no model that LiteRT can load", found=reason, remedy=remedy) from error
    if not is_ours:
        found = f"Its inputs and outputs are {', '.join(names)}; expected {IMAGE}, {LOGITS}"
        if names == [IMAGE, LOGITS]:
            found = f"Its metadata have no {STRUCTURE}"
        raise ArtifactError(f"{path} was not written by spaceevo", found=found, remedy=remedy)
    if not is_intact:
        found = "its tensors or operators are not those that were written"
        raise ArtifactError(f"{path} is no model that LiteRT can load", found=found, remedy=remedy)
    found = _refused(model)
    if found:
        raise ArtifactError(f"{path} is no model that LiteRT can load", found=found, remedy=remedy)
    return model


def _parsed(path: Path) -> Any:
    """A model of anybody's as objects; what is numbered in it is there, for LiteRT itself may crash where it is not.

    Raises:
        ArtifactError: The file cannot be read, or is no such model.
    """
    schema = _schema()
    with _garbled(path):
        content = path.read_bytes()
        if content[4:8] != IDENTIFIER:
            raise ValueError("It does not begin like a TFLite model")
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for graph in model.subgraphs:
            numbers = [*graph.inputs, *graph.outputs]
            for node in graph.operators or ():
                model.operatorCodes[node.opcodeIndex]
                numbers += [index for index in (*_listed(node.inputs), *_listed(node.outputs)) if index != -1]
            if not all(0 <= index < len(graph.tensors) for index in numbers):
                raise ValueError("An operator names a tensor that is not there")
            if not all(0 <= tensor.buffer < len(model.buffers) for tensor in graph.tensors):
                raise ValueError("A tensor names a buffer that is not there")
        if not model.subgraphs[0].operators:
            raise ValueError("It has no operators")
    return model


@contextmanager
def _garbled(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is the file's."""
    try:
        yield
    except Exception as error:  # whatever garbled offsets lead the parser to
        raise ArtifactError(
            f"{path} is no model that LiteRT can load",
            found=f"It is damaged or cut off: {shortened(str(error)) or type(error).__name__}",
            remedy="Copy or download it again, or export it again",
        ) from error


def _listed(values: Any) -> list[int]:
    return [] if values is None else list(map(int, values))


def _is_marked(model: Any) -> bool:
    """Whether spaceevo wrote it."""
    return STRUCTURE.encode() in [entry.name for entry in model.metadata or ()]


def _refused(model: Any) -> str:
    """What XNNPACK does not take about a model's numbers, "" for nothing: LiteRT would be inexact there, or crash."""
    graph, limits, kinds = model.subgraphs[0], np.finfo(np.float32), _schema().BuiltinOperator
    scales: list[np.ndarray] = []
    for tensor in graph.tensors:
        own = tensor.quantization
        values, zero_points = ([], []) if own is None or own.scale is None else (own.scale, own.zeroPoint)
        values, zero_points = np.asarray(values, np.float32), np.asarray(zero_points)
        scales.append(values)
        if not ((values >= limits.tiny) & (values <= limits.max / NUM_CODES)).all():
            return f"The tensor {_outline(tensor.name)} has scales from {values.min():.3g} to {values.max():.3g}"
        if (abs(zero_points + 0.5) > OFFSET).any():
            return f"The tensor {_outline(tensor.name)} has a zero point of {zero_points[0]} in int8"
    smallest = {kinds.CONV_2D: 0, kinds.DEPTHWISE_CONV_2D: 0, kinds.MUL: 2**-16, kinds.ADD: 2**-10}
    for node in graph.operators:
        kind, y = model.operatorCodes[node.opcodeIndex].builtinCode, scales[node.outputs[0]]
        if kind not in smallest or not y.size:
            continue
        a, b = (scales[index] for index in node.inputs[:2])
        with np.errstate(over="ignore"):
            ratios = (np.concatenate([a, b]) if kind == kinds.ADD else a * b) / y
        if not ((ratios >= smallest[kind]) & (ratios < 256)).all():
            return (
                f"The scales before {_outline(graph.tensors[node.outputs[0]].name)} are {ratios.min():.3g} to "
                f"{ratios.max():.3g} times its own; XNNPACK takes {smallest[kind]:.3g} to 256"
            )
    return ""


def _texts(model: Any) -> dict[str, str]:
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode() for entry in model.metadata or ()}


def _load(path: Path, content: bytes, threads: int) -> Any:
    _package()
    try:
        return on_device.load(content, threads)
    except (RuntimeError, ValueError) as error:
        found, _ = explain(str(error), version())
        raise ArtifactError(
            f"{path} is no model that {NAME} can load", found=found, remedy="Export it again"
        ) from error
