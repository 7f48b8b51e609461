"""Files in OpenVINO: run, tapped, timed, profiled, and asked what they compute in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.errors import ArtifactError, ExportError
from spaceevo.runtimes import CountedNode, _qdq, check_images
from spaceevo.runtimes._models import Timed
from spaceevo.runtimes._qdq import IMAGE, LOGITS, MARK
from spaceevo.runtimes.openvino import on_device
from spaceevo.runtimes.openvino.installed import NAME, check_installed, explain, version
from spaceevo.runtimes.openvino.reader import open_model

QUANTIZER = f"{MARK}q"  # ends the name of a node that quantizes an operator's output
INT8_TYPES = ("u8", "i8")
MOVING_TYPES = ("Input", "Output", "Const", "Reorder", "Reshape")
WEIGHTED_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")


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
        self._request = compile_model(path, threads, taps).create_infer_request()
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
    for node in compile_model(path).get_runtime_model().get_ordered_ops():
        kind, precision = kind_of(node), on_device.told(node, "runtimePrecision")
        quantizers = quantizers_of(on_device.told(node, "originalLayersNames"))
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


def load(path: Path, threads: int = 1) -> Timed:
    """A model of anybody's, to be timed.

    Raises:
        ArtifactError: As `open_model`, or OpenVINO refuses it.
        TargetError: OpenVINO is not installed.
    """
    check_installed()
    return Timed(open_model(path), on_device, lambda said: explain(said, version()), NAME, threads)


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
        times[_owner(name, kind, quantizers_of(layers))] += ms
    return dict(times)


def compile_model(path: Path, threads: int = 1, taps: Sequence[str] = ()) -> Any:
    """A file that `export_int8` or `export_fp32` wrote, compiled; arguments as of `Session`.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
        TargetError: OpenVINO is not installed.
    """
    check_installed()
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


def kind_of(node: Any) -> str:
    """The type of a node of the graph of execution."""
    return on_device.told(node, "layerType")


def quantizers_of(layers: str) -> list[str]:
    """Names of the quantizers among the layers that a node comprises, in order."""
    return [name for name in layers.split(",") if name.endswith(QUANTIZER)]


def _owner(name: str, kind: str, quantizers: Sequence[str]) -> str:
    """The operator that a node is counted as."""
    if quantizers and kind not in WEIGHTED_TYPES:  # a chain of operators is counted as its last one
        return quantizers[-1].removesuffix(QUANTIZER)
    return name.split(MARK)[0] if MARK in name and kind != "Reorder" else f"~{kind}"
