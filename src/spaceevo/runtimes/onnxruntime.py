"""ONNX Runtime on the processor: QDQ models written directly, run, timed and profiled.

Batch 1, input "image" float32 [1, 3, S, S], output "logits" float32 [1, C]. Tensors are named after their
operators; nodes too, followed by `MARK`, which ONNX Runtime keeps when it fuses nodes.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError, ExportError
from spaceevo.records import Arithmetic, FloatGraph, IntegerGraph, QuantParams
from spaceevo.runtimes import Profile, check_images
from spaceevo.spaces.operators import FIXED_QUANTIZERS, NUM_CODES, Operator

SUFFIX = ".onnx"
ARITHMETIC = Arithmetic()  # the contract is its arithmetic on x86; on ARM it adds and pools in fixed point
OPSET = 21
IR_VERSION = 10
IMAGE = "image"
LOGITS = "logits"
MARK = "|"  # ends an operator's name within the name of a node
WARM_UP = 5


def version() -> str:
    """Version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor: its u8 x s8 kernels are the fast ones."""
    return 63 if profile.pair_sums_saturate else 127


def export_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a quantized network as QDQ ONNX, with exactly the graph's parameters.

    Args:
        graph: A whole network, or a part: without "linear", the output is the last tensor, dequantized.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: The graph is no valid ONNX.
        NoSpaceError: The file cannot be written.
    """
    _write(_Int8Writer(graph).model(), path, metadata)


def export_fp32(graph: FloatGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the FP32 twin of a quantized network, in the form that ONNX Runtime runs fastest.

    Args:
        graph: A whole network, or a part.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: The graph is no valid ONNX.
        NoSpaceError: The file cannot be written.
    """
    _write(_Fp32Writer(graph).model(), path, metadata)


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a model, versions included.

    Raises:
        ArtifactError: The file is no ONNX model.
    """
    return {entry.key: entry.value for entry in _read(path).metadata_props}


def constants(path: Path) -> dict[str, np.ndarray]:
    """Every constant of a model by name: codes, scales, zero points and biases.

    Raises:
        ArtifactError: The file is no ONNX model.
    """
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in _read(path).graph.initializer}


def float_operators(path: Path) -> tuple[str, ...]:
    """What ONNX Runtime would still compute in float, after its own optimization of a model.

    Returns:
        "OpType name" of every node that reads a float tensor, other than the quantization of the image;
        empty for a model that runs wholly in integers.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _load(path, 1, {"optimized_model_filepath": str(optimized)})
        model = onnx.load(str(optimized))
    constants = {tensor.name for tensor in model.graph.initializer}
    kinds = {IMAGE: "image"}  # of every tensor: the image in any layout, codes, or floats
    found = []
    for node in model.graph.node:
        reads = {kinds.get(name, "float") for name in node.input if name and name not in constants}
        if "float" in reads or ("image" in reads and node.op_type not in ("Transpose", "QuantizeLinear")):
            found.append(f"{node.op_type} {node.name}")
        kinds.update(dict.fromkeys(node.output, _output_kind(node, reads)))
    return tuple(found)


def _output_kind(node: Any, reads: set[str]) -> str:
    """Whether a node of an optimized model puts out the image, codes or floats, given what it reads."""
    if node.op_type == "QuantizeLinear" or node.op_type.startswith("QLinear"):
        return "codes"
    if node.op_type == "QGemm":  # floats where no output scale is given
        return "codes" if len(node.input) > 7 and node.input[7] else "float"
    if node.op_type in ("Transpose", "Flatten", "Reshape", "Squeeze", "MaxPool", "NhwcMaxPool"):
        return reads.pop() if len(reads) == 1 else "float"
    return "float"


class Session:
    """A loaded model.

    Args:
        path: A file that `export_int8` or `export_fp32` wrote.
        threads: Threads within an operator; operators run one after another.
        taps: Operators whose codes `codes` gives: none of kind "relabel" (it has its input's) or "linear".

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
    """

    def __init__(self, path: Path, threads: int = 1, taps: Sequence[str] = ()) -> None:
        self._taps = list(taps)
        self._session = _load(path, threads, taps=taps)
        self._shape = tuple(self._session.get_inputs()[0].shape)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C], of preprocessed images, float32 [N, 3, S, S]; one image at a time.

        Raises:
            DataError: The images have another size.
            ExportError: ONNX Runtime refuses to run the model.
        """
        return self._run([LOGITS], images)[0]

    def codes(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Codes, uint8 [N, C, H, W], of every tapped tensor, for images as of `run`."""
        return dict(zip(self._taps, self._run(self._taps, images), strict=True))

    def _run(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        check_images(images, self._shape)
        images = np.ascontiguousarray(images, dtype=np.float32)
        batches = (images[i : i + 1] for i in range(len(images)))
        try:
            outputs = [self._session.run(names, {IMAGE: batch}) for batch in batches]
            return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
        except Exception as error:  # its exceptions share no base class
            raise ExportError(
                "ONNX Runtime cannot run an exported model",
                found=" ".join(str(error).split())[:300],
                remedy="Train again with a lower lr_int8; if it stays, report it to the authors of spaceevo",
            ) from error

    def time(self, repeats: int) -> list[float]:
        """Milliseconds of each of `repeats` runs, batch 1, after a few that do not count."""
        image = np.random.default_rng(0).standard_normal(self._shape, dtype=np.float32)
        binding = self._session.io_binding()
        binding.bind_cpu_input(IMAGE, image)
        binding.bind_output(LOGITS)
        samples = []
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter_ns()
            self._session.run_with_iobinding(binding)
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples[WARM_UP:]


def profile(path: Path, repeats: int, threads: int = 1) -> dict[str, float]:
    """Milliseconds per operator, in the context of the whole network, from ONNX Runtime's profiler.

    The profiler counts whole microseconds and adds about three to every node: the mean of the middle half of
    the runs is given, and the sum exceeds `Session.time`.

    Returns:
        By operator name; what belongs to no operator (for example a transpose that ONNX Runtime put in) is
        summed under "~" and its type. Operators that were fused into another one are missing.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _load(path, threads, {"enable_profiling": True, "profile_file_prefix": f"{folder}/profile"})
        image = np.random.default_rng(0).standard_normal(session.get_inputs()[0].shape, dtype=np.float32)
        for _ in range(WARM_UP + repeats):
            session.run(None, {IMAGE: image})
        events = json.loads(Path(session.end_profiling()).read_text())
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            samples[name.removesuffix("_kernel_time"), event["args"]["op_name"]].append(event["dur"] / 1e3)
    times: dict[str, float] = defaultdict(float)
    for (name, op_type), durations in samples.items():
        # ONNX Runtime names convolutions and pools in its FP32 layout after their output
        named = re.match(rf"(.*?)({re.escape(MARK)}|_nchwc)", name)
        times[named[1] if named else f"~{op_type}"] += _middle_mean(durations[WARM_UP:])
    return dict(times)


def _middle_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: as robust as a median, finer than the microseconds that were counted."""
    quarter = len(values) // 4
    middle = sorted(values)[quarter : len(values) - quarter]
    return sum(middle) / len(middle)


class _Writer:
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


def _window(operator: Operator) -> dict[str, list[int]]:
    return {
        "kernel_shape": [operator.kernel_size] * 2,
        "strides": [operator.stride] * 2,
        "pads": [operator.padding] * 4,
    }


class _Int8Writer(_Writer):
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
                self.compute("Conv", inputs, operator, group=operator.groups, **_window(operator))
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
                    "MaxPool", [self.codes[operator.inputs[0]]], name, name + MARK, **_window(operator)
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


class _Fp32Writer(_Writer):
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
                self.activate(operator, "Conv", inputs, group=operator.groups, **_window(operator))
            case "gate" | "relabel":
                self.node("HardSigmoid", inputs, name, name + MARK, alpha=1 / 6, beta=0.5)
            case "sigmoid":
                self.node("Sigmoid", inputs, name, name + MARK)
            case "pool":
                self.node("GlobalAveragePool", inputs, name, name + MARK)
            case "max_pool":
                self.node("MaxPool", inputs, name, name + MARK, **_window(operator))
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


def _write(model: Any, path: Path, metadata: Mapping[str, str]) -> None:
    import onnx
    from onnx import helper

    versions = {"opset": str(OPSET), "runtime": f"onnxruntime {version()}", "onnx": onnx.__version__}
    helper.set_model_props(model, {**metadata, **versions})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError("The network cannot be written as ONNX", found=str(error)) from error
    write_atomically(path, model.SerializeToString(deterministic=True))


def _read(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own errors have no base that onnx promises
        raise ArtifactError(f"{path} is no ONNX model", found=str(error), remedy="Export it again") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model", found="It has no operators", remedy="Export it again")
    return model


def _load(path: Path, threads: int, settings: Mapping[str, Any] | None = None, taps: Sequence[str] = ()) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: errors come as exceptions
    for name, value in (settings or {}).items():
        setattr(options, name, value)
    remedy = "Export it again"
    if not path.is_file():
        raise ArtifactError(f"There is no model at {path}", remedy=remedy)
    model: str | bytes = str(path)
    if taps:
        from onnx import TensorProto, helper

        opened = _read(path)
        opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in taps)
        model = opened.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common base but this
        reason = str(error).strip().splitlines()[0][:300]
        raise ArtifactError(f"{path} is no model that ONNX Runtime can load", found=reason, remedy=remedy) from error
    names = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
    if names != [IMAGE, LOGITS, *taps]:
        found = f"Its inputs and outputs are {', '.join(names)}; expected {IMAGE}, {LOGITS}"
        raise ArtifactError(f"{path} was not written by spaceevo", found=found, remedy=remedy)
    return session
