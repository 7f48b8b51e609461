"""Files in LiteRT: run, tapped, timed, and asked what they compute in float or outside of XNNPACK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.errors import ArtifactError, ExportError, TargetError
from spaceevo.runtimes import check_images
from spaceevo.runtimes._models import Timed
from spaceevo.runtimes.litert import flatbuffer, on_device
from spaceevo.runtimes.litert.arithmetic import OFFSET
from spaceevo.runtimes.litert.flatbuffer import LOGITS
from spaceevo.runtimes.litert.installed import NAME, explain, load_schema, package, version
from spaceevo.runtimes.litert.reader import open_model


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
        model = flatbuffer.read(path)
        graph = model.subgraphs[0]
        names = {tensor.name.decode(): index for index, tensor in enumerate(graph.tensors)}
        missing = [tap for tap in taps if tap not in names]
        if missing:
            raise ArtifactError(f"{path} has no tensor {missing[0]!r}", remedy="Export it again")
        outputs = [graph.outputs[0], *(names[tap] for tap in taps)]
        graph.outputs = list(dict.fromkeys(outputs))
        self._interpreter = _load(path, flatbuffer.pack(model), threads)
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
    model = flatbuffer.read(path)
    graph, schema = model.subgraphs[0], load_schema()
    details = _load(path, flatbuffer.pack(model), 1)._get_ops_details()
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


def load(path: Path, threads: int = 1) -> Timed:
    """A model of anybody's, to be timed.

    Raises:
        ArtifactError: As `open_model`, or LiteRT refuses it.
        TargetError: LiteRT is not installed.
    """
    return Timed(open_model(path), on_device, lambda said: explain(said, version()), NAME, threads)


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


def _load(path: Path, content: bytes, threads: int) -> Any:
    package()
    try:
        return on_device.load(content, threads)
    except (RuntimeError, ValueError) as error:
        found, _ = explain(str(error), version())
        raise ArtifactError(
            f"{path} is no model that {NAME} can load", found=found, remedy="Export it again"
        ) from error


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
