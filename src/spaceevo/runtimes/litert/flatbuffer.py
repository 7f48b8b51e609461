"""TFLite flatbuffers as objects: read, packed, and checked, since a garbled one may crash LiteRT itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import content_hash
from spaceevo.errors import ArtifactError
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.runtimes._models import shortened
from spaceevo.runtimes.litert.arithmetic import OFFSET
from spaceevo.runtimes.litert.installed import load_schema

IMAGE = "image"
LOGITS = "logits"
MARK = "|"  # ends an operator's name within the name of a tensor
IDENTIFIER = b"TFL3"
STRUCTURE = "spaceevo_structure"  # metadata: digest of everything but the numbers


def read(path: Path) -> Any:
    """A model that spaceevo wrote, as objects, its structure intact.

    Raises:
        ArtifactError: The file is missing, truncated, damaged or foreign.
    """
    remedy = "Export it again"
    if not path.is_file():
        raise ArtifactError(f"There is no model at {path}", remedy=remedy)
    model = parsed(path)
    try:
        graph = model.subgraphs[0]
        names = [outline(graph.tensors[index].name) for index in (*graph.inputs, *graph.outputs)]
        is_ours = is_marked(model) and names == [IMAGE, LOGITS]
        is_intact = is_ours and texts(model)[STRUCTURE] == structure(model)
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
    found = refused(model)
    if found:
        raise ArtifactError(f"{path} is no model that LiteRT can load", found=found, remedy=remedy)
    return model


def parsed(path: Path) -> Any:
    """A model of anybody's as objects; what is numbered in it is there, for LiteRT itself may crash where it is not.

    Raises:
        ArtifactError: The file cannot be read, or is no such model.
    """
    schema = load_schema()
    with garbled(path):
        content = path.read_bytes()
        if content[4:8] != IDENTIFIER:
            raise ValueError("It does not begin like a TFLite model")
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for graph in model.subgraphs:
            numbers = [*graph.inputs, *graph.outputs]
            for node in graph.operators or ():
                model.operatorCodes[node.opcodeIndex]
                numbers += [index for index in (*listed(node.inputs), *listed(node.outputs)) if index != -1]
            if not all(0 <= index < len(graph.tensors) for index in numbers):
                raise ValueError("An operator names a tensor that is not there")
            if not all(0 <= tensor.buffer < len(model.buffers) for tensor in graph.tensors):
                raise ValueError("A tensor names a buffer that is not there")
        if not model.subgraphs[0].operators:
            raise ValueError("It has no operators")
    return model


def pack(model: Any) -> bytes:
    """A model as the content of a file."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


@contextmanager
def garbled(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is the file's."""
    try:
        yield
    except Exception as error:  # whatever garbled offsets lead the parser to
        raise ArtifactError(
            f"{path} is no model that LiteRT can load",
            found=f"It is damaged or cut off: {shortened(str(error)) or type(error).__name__}",
            remedy="Copy or download it again, or export it again",
        ) from error


def structure(model: Any) -> str:
    """Digest of everything in a model but its numbers (scales, zero points, codes, biases) and texts.

    A garbled file may kill the process within LiteRT; other numbers do not. Axes and paddings count as structure.
    """
    int32, buffers = load_schema().TensorType.INT32, model.buffers
    settings = [t.buffer for t in model.subgraphs[0].tensors if t.type == int32 and t.quantization is None]
    return content_hash([outline(model), [outline(list(buffers[index].data)) for index in settings]])


def outline(value: Any) -> Any:
    """A model's object as JSON, numbers and default values left out."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    if isinstance(value, list | np.ndarray):
        return [outline(item) for item in value]
    if isinstance(value, bool | int | float | np.generic):
        return int(value)
    fields = {}
    for key, item in vars(value).items():
        if key in ("scale", "zeroPoint", "data"):
            fields[key] = 0 if item is None else len(item)
        elif item is not None and key != "debugMetadataIndex" and (not np.isscalar(item) or item):
            fields[key] = outline(item)
    return fields


def is_marked(model: Any) -> bool:
    """Whether spaceevo wrote it."""
    return STRUCTURE.encode() in [entry.name for entry in model.metadata or ()]


def texts(model: Any) -> dict[str, str]:
    """The metadata of a model, as text."""
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode() for entry in model.metadata or ()}


def listed(values: Any) -> list[int]:
    """Numbers of a model, which has None for none."""
    return [] if values is None else list(map(int, values))


def refused(model: Any) -> str:
    """What XNNPACK does not take about a model's numbers, "" for nothing: LiteRT would be inexact there, or crash."""
    graph, limits, kinds = model.subgraphs[0], np.finfo(np.float32), load_schema().BuiltinOperator
    scales: list[np.ndarray] = []
    for tensor in graph.tensors:
        own = tensor.quantization
        values, zero_points = ([], []) if own is None or own.scale is None else (own.scale, own.zeroPoint)
        values, zero_points = np.asarray(values, np.float32), np.asarray(zero_points)
        scales.append(values)
        if not ((values >= limits.tiny) & (values <= limits.max / NUM_CODES)).all():
            return f"The tensor {outline(tensor.name)} has scales from {values.min():.3g} to {values.max():.3g}"
        if (abs(zero_points + 0.5) > OFFSET).any():
            return f"The tensor {outline(tensor.name)} has a zero point of {zero_points[0]} in int8"
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
                f"The scales before {outline(graph.tensors[node.outputs[0]].name)} are {ratios.min():.3g} to "
                f"{ratios.max():.3g} times its own; XNNPACK takes {smallest[kind]:.3g} to 256"
            )
    return ""
