"""OpenVINO on the processor, on QDQ ONNX files (see `_qdq`) that differ from ONNX Runtime's in three forms.

What OpenVINO (2026.4, its graph of execution read on every preset and zoo network) needs otherwise:

- INT8: a 1x1 convolution of stride 2 whose input has other readers runs in float: OpenVINO takes the stride out of it,
  into a float pool that parts the codes from their scale. Here the file takes it out, as a slice of the codes, and the
  convolution stays in integers (a max pool would do as well; it takes five times as long).
- FP32: a HardSigmoid node has no fast kernel. hard-swish is written as HardSwish, a hard sigmoid as a clip: both
  become part of the convolution before (hard-swish networks: 1.5 to 5 times faster).

What OpenVINO makes of INT8 files: every convolution and fully connected layer in 8 bit. A convolution and the addition
after it become one kernel, which does not round between them. Gates and products of an activation become one kernel
that reads and puts out codes, and computes in float registers; a product of squeeze-and-excite whose first input has a
zero point reads floats from memory: dequantized codes. Whether a scale becomes part of the weights, of another scale
or of the limits of quantization decides the last bit of its float32 number, and that decides codes (`ARITHMETIC`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.errors import ArtifactError, ExportError
from spaceevo.graph.graphs import FloatGraph, IntegerGraph, QuantParams
from spaceevo.graph.nodes import Node, hard_swish_gates
from spaceevo.graph.ops import Conv, Convolution, Depthwise, Gate, Multiply, Pool, Quantize
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.processors import Profile
from spaceevo.records import Arithmetic
from spaceevo.runtimes import CountedNode, _qdq, check_images, check_placement, require
from spaceevo.runtimes._models import Model, Timed, check_format, check_links, make_input, open_onnx, shortened
from spaceevo.runtimes._on_device import openvino as on_device
from spaceevo.runtimes._qdq import IMAGE, LOGITS, MARK, Fp32Writer, Int8Writer, write_model

NAME = "OpenVINO"
SUFFIX = ".openvino.onnx"
EXPORTER = 1
LAYOUT = "NCHW"
BENCHMARK = None
on_device_options = None
ON_DEVICE = Path(on_device.__file__)
metadata, constants = _qdq.metadata, _qdq.constants
QUANTIZER = f"{MARK}q"  # ends the name of a node that quantizes an operator's output
INT8_TYPES = ("u8", "i8")
MOVING_TYPES = ("Input", "Output", "Const", "Reorder", "Reshape")
LARGEST = np.float32(NUM_CODES - 1)
WEIGHTED_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
_Inputs = Sequence[tuple[np.ndarray, QuantParams]]


def version() -> str:
    """Version of OpenVINO.

    Raises:
        TargetError: It is not installed.
    """
    _check_installed()
    return on_device.version()


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor.

    Measured with oneDNN held to AVX2 and to AVX-512 without VNNI: with codes up to 127, a third of a per cent of the
    codes that convolutions put out are wrong, by up to 98; depthwise ones stay exact. With 63 none is wrong.
    """
    return 63 if profile.pair_sums_saturate else 127


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


def float_operators(path: Path) -> tuple[str, ...]:
    """What OpenVINO would still compute in float, after its own optimization of a model.

    Returns:
        "Type name" of every convolution and fully connected layer that is not in 8 bit or puts out what is not
        quantized (but logits), and of every other node that reads floats and does not quantize its result. Empty for a
        model that computes as the contract says.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    found = []
    for node in _compile(path).get_runtime_model().get_ordered_ops():
        kind, precision = _kind(node), on_device.told(node, "runtimePrecision")
        quantizers = _quantizers(on_device.told(node, "originalLayersNames"))
        name = node.get_friendly_name()
        if kind == "Convolution":
            is_float = precision not in INT8_TYPES or f"{name.split(MARK)[0]}{QUANTIZER}" not in quantizers
        elif kind in WEIGHTED_TYPES:
            is_float = precision not in INT8_TYPES
        else:
            is_float = precision == "f32" and kind not in MOVING_TYPES and not quantizers
        if is_float:
            found.append(f"{kind} {name}")
    return tuple(found)


class Session:
    """A loaded model.

    Args:
        path: A file that `export_int8` or `export_fp32` wrote.
        threads: Threads within an operator; operators run one after another.
        taps: Nodes whose codes `codes` gives: no `Relabel` (it has its input's) and no `Linear`. A tap is
            read through a node of its own, which leaves kernels as they are, with two exceptions: an addition of
            which a summand is tapped no longer becomes part of a convolution, and adds rounded codes; and a product
            of which the gate is tapped multiplies in another order. Tap those one by one.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
        TargetError: OpenVINO is not installed.
    """

    def __init__(self, path: Path, threads: int = 1, taps: Sequence[str] = ()) -> None:
        self._taps = list(taps)
        self._request = _compile(path, threads, taps).create_infer_request()
        self._input = self._request.get_input_tensor()
        self._shape = tuple(self._input.shape)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C], of preprocessed images, float32 [N, 3, H, W]; one image at a time.

        Raises:
            DataError: The images have another size.
            ExportError: OpenVINO refuses to run the model.
        """
        return self._run([0], images)[0]

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Codes, uint8 [N, C, H, W], of every tapped tensor, for images as of `run`."""
        return dict(zip(self._taps, self._run(range(1, 1 + len(self._taps)), images), strict=True))

    def _run(self, outputs: Sequence[int], images: np.ndarray) -> list[np.ndarray]:
        check_images(images, self._shape)
        kept: list[list[np.ndarray]] = [[] for _ in outputs]
        try:
            for image in images:
                self._input.data[0] = image
                self._request.infer()
                for parts, output in zip(kept, outputs, strict=True):
                    parts.append(self._request.get_output_tensor(output).data.copy())
        except RuntimeError as error:
            raise ExportError(
                "OpenVINO cannot run an exported model",
                found=explain(str(error), version())[0],
                remedy="Train again with a lower lr_int8; if it stays, report it to the authors of spaceevo",
            ) from error
        return [np.concatenate(parts) for parts in kept]


def open_model(path: Path) -> Model:
    """A model of anybody's: ONNX, TFLite, or OpenVINO's own IR, whose weights lie beside it in a .bin.

    Raises:
        ArtifactError: Missing or no such model, weights that are not there, or inputs that cannot be made.
        TargetError: OpenVINO is not installed.
    """
    match check_format(path, NAME, "ONNX", "TFLite", "OpenVINO IR"):
        case "ONNX":
            model = open_onnx(path)
        case "TFLite" if path.suffix != ".tflite":
            raise ArtifactError(
                f"{path} is no model that {NAME} can load",
                found="It knows models in the format TFLite by their suffix .tflite alone",
                remedy="Rename the file",
            )
        case "TFLite":
            model = _open_other(path)
        case _:  # an IR, whatever its suffix is
            weights = path.with_suffix(".bin")
            model = replace(_open_other(path), weights=(weights,) if weights.is_file() else ())
    return check_links(model, NAME, path.parent.resolve())


def _open_other(path: Path) -> Model:
    """A model in a format that only OpenVINO itself reads here, without the weights beside it."""
    _check_installed()
    try:
        opened = on_device.opened(str(path))
    except RuntimeError as error:
        found, remedy = explain(str(error), on_device.version())
        raise ArtifactError(f"{path} is no model that {NAME} can load", found=found, remedy=remedy) from error
    inputs = []
    for number, port in enumerate(opened.inputs):
        shape, kind = port.get_partial_shape(), port.get_element_type()
        dims = [dim.get_length() if dim.is_static else -1 for dim in shape] if shape.rank.is_static else None
        name = min(port.get_names(), default=f"input {number}")
        try:
            dtype = str(np.dtype(kind.to_dtype()))
        except RuntimeError:  # of those that numpy does not have
            dtype = kind.get_type_name()
        inputs.append(make_input(path, name, dtype, dims))
    return Model(path, tuple(inputs))


def load(path: Path, threads: int = 1) -> Timed:
    """A model of anybody's, to be timed.

    Raises:
        ArtifactError: As `open_model`, or OpenVINO refuses it.
        TargetError: OpenVINO is not installed.
    """
    _check_installed()
    return Timed(open_model(path), on_device, lambda said: explain(said, version()), NAME, threads)


def explain(message: str, version: str) -> tuple[str, str]:
    """What OpenVINO means when it refuses a model.

    Args:
        message: Its own.
        version: Its.

    Returns:
        What is wrong, and what to do.

    >>> explain("Exception from src/a.cpp:84:\\nCheck 'x > 0' failed at src/b.cpp:1:\\nNo weights", "2026")[0]
    'No weights'
    """
    text = re.sub(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:", " ", message)
    newer = f"or install a newer OpenVINO than {version}"
    if "No conversion rule" in text:
        return shortened(text), f"Export the model without these operators, which OpenVINO does not have, {newer}"
    if "bin file" in text:
        return shortened(text), "Put the .bin that was saved with the .xml beside it, under the same name"
    return shortened(text), f"Mend the model, export it again, {newer}"


def profile(path: Path, repeats: int, threads: int = 1) -> dict[str, float]:
    """Milliseconds per operator, in the context of the whole network, from OpenVINO's counters.

    They count whole microseconds: a time is off by one or two, and what takes less than one may be missing.

    Returns:
        As of `operator_times`, the mean over the runs.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    load(path, threads)  # refuses what cannot be run
    inputs = [own.as_json() for own in open_model(path).inputs]
    return operator_times(on_device.profile(str(path), inputs, repeats, threads))


def operator_times(nodes: Iterable[CountedNode]) -> dict[str, float]:
    """Milliseconds per operator.

    Args:
        nodes: As `profile` of the file for devices gives them.

    Returns:
        By operator name; what belongs to no operator (for example a reorder that OpenVINO put in) is summed under "~"
        and its type. Operators that were fused into another one are missing.
    """
    times: dict[str, float] = defaultdict(float)
    for name, kind, layers, ms in nodes:
        times[_owner(name, kind, _quantizers(layers))] += ms
    return dict(times)


def _quantize_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """Codes of the image."""
    return _codes(inputs[0][0], *_limits(y))


def _multiply_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A product of dequantized codes; without a zero point, both scales are the second input's."""
    (a_codes, a), (b_codes, b) = inputs
    a_codes, b_codes = a_codes - np.float32(a.zero_point), b_codes - np.float32(b.zero_point)
    a_scale, b_scale = np.float32(a.scale), np.float32(b.scale)
    if a.zero_point:
        return _codes((a_codes * a_scale) * (b_codes * b_scale), *_limits(y))
    return _codes(a_codes * (b_codes * (a_scale * b_scale)), *_limits(y))


def _gate_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A gate: its scale and its half become part of the limits of quantization."""
    a_codes, a = inputs[0]
    sixth = np.float32(a.scale / 6)
    half = np.float32(0.5) / sixth
    low, high = (limit / sixth - half for limit in _limits(y))
    return _codes(a_codes - np.float32(a.zero_point), low, high)


def _pool_codes(node: Node, inputs: _Inputs, y: QuantParams) -> np.ndarray:
    """A mean of codes: scale and zero point become part of the quantization, which rounds once."""
    a_codes, a = inputs[0]
    mean = a_codes.sum((2, 3), keepdims=True) / np.float32(node.in_shape.num_positions)
    low, high = (limit / np.float32(a.scale) for limit in _limits(y))
    factor = LARGEST / (high - low)
    shift = -low * LARGEST / (high - low) - np.float32(a.zero_point) * factor
    return _rounded((mean.astype(np.float64) * factor + shift).astype(np.float32))


def _limits(params: QuantParams) -> tuple[np.float32, np.float32]:
    """Least and largest value that codes stand for."""
    scale = np.float32(params.scale)
    return np.float32(-params.zero_point) * scale, np.float32(NUM_CODES - 1 - params.zero_point) * scale


def _codes(values: np.ndarray, low: np.float32, high: np.float32) -> np.ndarray:
    """Times a factor, where the contract divides, and the zero point, but for rounding, before rounding."""
    factor = LARGEST / (high - low)
    return _rounded(values * factor - low * factor)


def _rounded(codes: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(codes).clip(0, NUM_CODES - 1)
    return rounded


#: As OpenVINO computes on x86, code by code: found in its source, in its graph of execution, and in what it puts out
#: where every code lies between two others. Its sigmoids are the contract's.
ARITHMETIC = Arithmetic(
    {Quantize: _quantize_codes, Multiply: _multiply_codes, Gate: _gate_codes, Pool: _pool_codes},
    fused_additions=True,
)


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


def _check_installed() -> None:
    with suppress(ImportError):
        on_device.package()
    require("openvino", "OpenVINO", "openvino")


def _compile(path: Path, threads: int = 1, taps: Sequence[str] = ()) -> Any:
    _check_installed()
    remedy = "Export it again"
    model = _qdq.read_model(path)
    if taps:
        from onnx import TensorProto, helper

        for name in taps:
            output = f"{name}{MARK}tap"  # a direct output would change which kernels additions become part of
            model.graph.node.append(helper.make_node("MaxPool", [name], [output], name=output, kernel_shape=[1, 1]))
            model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.UINT8, None))
    try:
        compiled = on_device.compiled(model.SerializeToString(), threads)
    except RuntimeError as error:
        found, _ = explain(str(error), version())
        raise ArtifactError(f"{path} is no model that {NAME} can load", found=found, remedy=remedy) from error
    ports = [*compiled.inputs, *compiled.outputs]  # one may have several names
    expected = [IMAGE, LOGITS, *(f"{name}{MARK}tap" for name in taps)]
    if len(ports) != len(expected) or any(
        name not in port.get_names() for name, port in zip(expected, ports, strict=True)
    ):
        names = ", ".join(port.get_any_name() for port in ports)
        found = f"Its inputs and outputs are {names}; expected {IMAGE}, {LOGITS}"
        raise ArtifactError(f"{path} was not written by spaceevo", found=found, remedy=remedy)
    return compiled


def _kind(node: Any) -> str:
    return on_device.told(node, "layerType")


def _quantizers(layers: str) -> list[str]:
    """Names of the quantizers among the layers that a node comprises, in order."""
    return [name for name in layers.split(",") if name.endswith(QUANTIZER)]


def _owner(name: str, kind: str, quantizers: Sequence[str]) -> str:
    """The operator that a node is counted as."""
    if quantizers and kind not in WEIGHTED_TYPES:  # a chain of operators is counted as its last one
        return quantizers[-1].removesuffix(QUANTIZER)
    return name.split(MARK)[0] if MARK in name and kind != "Reorder" else f"~{kind}"
