"""Files in ONNX Runtime: run, tapped, timed, profiled, and asked what they compute in float."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.errors import ArtifactError, ExportError
from spaceevo.processors import SATURATION_FREE_CODE, Profile, this_profile
from spaceevo.runtimes import CountedNode, _qdq, check_images
from spaceevo.runtimes._models import Timed
from spaceevo.runtimes._qdq import IMAGE, LARGEST_CODE, LOGITS, MARK
from spaceevo.runtimes.onnxruntime import on_device
from spaceevo.runtimes.onnxruntime.installed import NAME, explain, version
from spaceevo.runtimes.onnxruntime.reader import metadata, open_model


def on_device_options(path: Path, profile: Profile) -> dict[str, Any]:
    """How a model is loaded on a kind of processor, beside threads.

    Raises:
        ArtifactError: The file is no ONNX model.
    """
    largest = metadata(path).get(LARGEST_CODE, "")
    if not largest.isdigit() or int(largest) <= SATURATION_FREE_CODE or not profile.pair_sums_saturate:
        return {}
    # A file for other processors is slow here, but not wrong. With VNNI it would only be slow, by 25 to 80 %.
    return {"entries": [("session.x64quantprecision", "1")]}


class Session:
    """A loaded model.

    Args:
        path: A file that `export_int8` or `export_fp32` wrote.
        threads: Threads within an operator; operators run one after another.
        taps: Nodes whose codes `codes` gives: no `Relabel` (it has its input's) and no `Linear`.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign, or has no such tensor.
    """

    def __init__(self, path: Path, threads: int = 1, taps: Sequence[str] = ()) -> None:
        self._taps = list(taps)
        self._session = _load(path, threads, taps=taps)
        self._shape = tuple(self._session.get_inputs()[0].shape)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C], of preprocessed images, float32 [N, 3, H, W]; one image at a time.

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


def load(path: Path, threads: int = 1) -> Timed:
    """A model of anybody's, to be timed.

    Raises:
        ArtifactError: As `open_model`, or ONNX Runtime refuses it.
    """
    model = open_model(path)
    options = on_device_options(path, this_profile())
    return Timed(model, on_device, lambda said: explain(said, version()), NAME, threads, **options)


def profile(path: Path, repeats: int, threads: int = 1) -> dict[str, float]:
    """Milliseconds per operator, in the context of the whole network, from ONNX Runtime's profiler.

    The profiler counts whole microseconds and adds about three to every node: the mean of the middle half of
    the runs is given, and the sum exceeds a latency.

    Returns:
        As of `operator_times`.

    Raises:
        ArtifactError: The file cannot be loaded.
    """
    load(path, threads)  # refuses what cannot be run
    inputs = [own.as_json() for own in open_model(path).inputs]
    options = on_device_options(path, this_profile())
    return operator_times(on_device.profile(str(path), inputs, repeats, threads, **options))


def operator_times(nodes: Iterable[CountedNode]) -> dict[str, float]:
    """Milliseconds per operator.

    Args:
        nodes: As `profile` of the file for devices gives them.

    Returns:
        By operator name; what belongs to no operator (for example a transpose that ONNX Runtime put in) is
        summed under "~" and its type. Operators that were fused into another one are missing.
    """
    times: dict[str, float] = defaultdict(float)
    for name, kind, _, ms in nodes:
        # ONNX Runtime names convolutions and pools in its FP32 layout after their output
        named = re.match(rf"(.*?)({re.escape(MARK)}|_nchwc)", name)
        times[named[1] if named else f"~{kind}"] += ms
    return dict(times)


def _load(path: Path, threads: int, settings: Mapping[str, Any] | None = None, taps: Sequence[str] = ()) -> Any:
    remedy = "Export it again"
    model: str | bytes = str(path)
    options = on_device_options(path, this_profile())
    if taps:
        from onnx import TensorProto, helper

        opened = _qdq.read_model(path)
        opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in taps)
        model = opened.SerializeToString()
    try:
        session = on_device.load(model, threads, attributes=list((settings or {}).items()), **options)
    except Exception as error:  # the runtime's exceptions have no common base but this
        found, _ = explain(str(error), version())
        raise ArtifactError(f"{path} is no model that {NAME} can load", found=found, remedy=remedy) from error
    names = [tensor.name for tensor in (*session.get_inputs(), *session.get_outputs())]
    if names != [IMAGE, LOGITS, *taps]:
        found = f"Its inputs and outputs are {', '.join(names)}; expected {IMAGE}, {LOGITS}"
        raise ArtifactError(f"{path} was not written by spaceevo", found=found, remedy=remedy)
    return session
