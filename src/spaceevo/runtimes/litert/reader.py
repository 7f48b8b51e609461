"""What a TFLite file holds, of ours or of anybody's, before LiteRT has loaded it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spaceevo.errors import ArtifactError
from spaceevo.runtimes._models import Model, check_format, make_input
from spaceevo.runtimes.litert import flatbuffer
from spaceevo.runtimes.litert.installed import NAME, load_schema


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a model, versions included.

    Raises:
        ArtifactError: The file is no TFLite model that spaceevo wrote, or is damaged.
    """
    model = flatbuffer.read(path)
    return {key: text for key, text in flatbuffer.texts(model).items() if key != flatbuffer.STRUCTURE}


def constants(path: Path) -> dict[str, np.ndarray]:
    """Every constant of a model by name, as the file holds it.

    Returns:
        Weights "<operator>|w" (int8 or float32 [out, K, K, in], depthwise [1, K, K, out], linear [out, in], where
        int8 with two more features, see `export_int8`) and biases "<operator>|b"; "<tensor>/scales" of both; and of
        every other quantized tensor "<operator>/scale" and "<operator>/zero_point" (of int8: 128 less than ours).

    Raises:
        ArtifactError: The file is no TFLite model that spaceevo wrote, or is damaged.
    """
    model, schema = flatbuffer.read(path), load_schema()
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


def open_model(path: Path) -> Model:
    """A TFLite model of anybody's: what is run is its first subgraph.

    Raises:
        ArtifactError: Missing, damaged or no TFLite model, one with several signatures, or inputs that cannot be made.
        TargetError: LiteRT is not installed.
    """
    check_format(path, NAME, "TFLite")
    model, schema = flatbuffer.parsed(path), load_schema()
    if flatbuffer.is_marked(model):
        model = flatbuffer.read(path)
    kinds = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    with flatbuffer.garbled(path):
        signatures = [flatbuffer.outline(own.signatureKey or b"") for own in model.signatureDefs or ()]
        graph, inputs = model.subgraphs[0], []
        for index in graph.inputs:
            tensor = graph.tensors[index]
            dims = flatbuffer.listed(tensor.shape)
            signature = dims if tensor.shapeSignature is None else flatbuffer.listed(tensor.shapeSignature)
            # A batch that is open is what the interpreter begins with
            dims = dims[:1] + [min(pair) for pair in zip(dims[1:], signature[1:], strict=True)]
            inputs.append((flatbuffer.outline(tensor.name or b""), kinds[tensor.type], dims))
    if len(signatures) > 1:
        raise ArtifactError(
            f"{path} has several signatures, and a measurement is of one",
            found=", ".join(map(str, signatures)),
            remedy="Convert each of them to a file of its own",
        )
    return Model(path, tuple(make_input(path, *own) for own in inputs), is_ours=flatbuffer.is_marked(model))
