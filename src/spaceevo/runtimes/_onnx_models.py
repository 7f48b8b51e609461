"""ONNX models of anybody's, for the runtimes that read them: their inputs, and the files that their weights lie in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from spaceevo.errors import ArtifactError
from spaceevo.runtimes._models import Model, make_input


def open_onnx(path: Path) -> Model:
    """An ONNX model of anybody's; its weights are not read.

    Raises:
        ArtifactError: Missing or no ONNX model, an input that cannot be made, or a file of weights that is missing,
            too short or not in the model's folder.
    """
    import onnx
    from onnx import TensorProto

    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own errors have no base that onnx promises
        raise ArtifactError(
            f"{path} is no ONNX model",
            found=f"{len(content):,} bytes that are none, or that are cut off: {error}"
            if not isinstance(error, OSError)
            else error.strerror or str(error),
            remedy="Copy or download it again, or export it again",
        ) from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model", found="It has no operators", remedy="Export it again")
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name in constant:  # old files list their weights among the inputs
            continue
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ArtifactError(
                f"The input {value.name!r} of {path} cannot be made up",
                found=f"It is no tensor, but a {str(kind).removesuffix('_type')}",
                remedy="Export the model with tensors as its inputs",
            )
        if isinstance(value.name, bytes):  # as protobuf hands out what is no UTF-8
            raise ArtifactError(
                f"The input {value.name!r} of {path} cannot be made up",
                found="Its name is no UTF-8 text",
                remedy="Copy or download the model again, or export it again",
            )
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else str(dim.dim_param) for dim in tensor.shape.dim]
        known = {number: name.lower() for name, number in TensorProto.DataType.items()}
        name = known.get(tensor.elem_type, str(tensor.elem_type))
        dtype = {"float": "float32", "double": "float64"}.get(name, name)
        inputs.append(make_input(path, value.name, dtype, dims if tensor.HasField("shape") else None))
    return Model(path, tuple(inputs), _external_weights(path, [model.graph, *model.functions]))


def _external_weights(path: Path, graphs: Iterable[Any]) -> tuple[Path, ...]:
    """The files that the tensors of an ONNX model lie in, beside it."""
    found: dict[str, int] = {}  # by location, the bytes that are needed
    for tensor in chain.from_iterable(map(_tensors, graphs)):
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            bounds = [entries[key] for key in ("offset", "length") if key in entries]
            end = sum(int(text) for text in bounds if text.isdecimal())  # what is no number the runtime refuses
            place = entries.get("location", "")
            found[place] = max(found.get(place, 0), end)
    files = []
    for place, num_bytes in found.items():
        file, remedy = path.parent / place, "Put the whole file there, or export the model again"
        if not place or "\0" in place or Path(place).is_absolute() or ".." in Path(place).parts:
            problem = f"They lie in {place!r}, which is not in the model's folder"
            remedy = "Export the model again, with its weights beside it or as one file"
        elif not file.is_file():
            problem = f"They lie in {place!r}; there is no {file}"
        elif file.stat().st_size < num_bytes:
            problem = f"{file} has {file.stat().st_size:,} of {num_bytes:,} bytes"
        else:
            files.append(file)
            continue
        raise ArtifactError(f"The weights of {path} cannot be read", found=problem, remedy=remedy)
    return tuple(files)


def _tensors(graph: Any) -> Iterator[Any]:
    """All constant tensors of an ONNX graph, or function, and of those within it."""
    from onnx import GraphProto

    if isinstance(graph, GraphProto):  # a function has none
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _tensors(inner)
