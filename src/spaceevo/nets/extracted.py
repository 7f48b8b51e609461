"""Extracted networks on disk: one safetensors file that every exporter can write out, and every check can trust."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spaceevo.artifacts import write_atomically
from spaceevo.errors import ArtifactError
from spaceevo.graph.check import check, faults
from spaceevo.graph.graphs import FloatGraph, FloatWeights, IntegerGraph, IntegerWeights, QuantParams
from spaceevo.graph.identity import canonical_json, program_from_json, program_to_json
from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.records import ExtractedNetwork

SUFFIX = ".safetensors"
FORMAT = "spaceevo-extracted-2"
_EARLIER = "spaceevo-extracted-1"
_METADATA = TypeAdapter(dict[str, str])


def save_extracted(path: Path, network: ExtractedNetwork) -> None:
    """Write an extracted network.

    Raises:
        ExportError: It breaks the quantization contract.
        NoSpaceError: The file cannot be written.
    """
    check(network.integer)
    program = program_to_json(network.integer.nodes)
    notes = json.dumps({"format": FORMAT, "program": program, "metadata": dict(network.metadata)})
    # one key: safetensors writes several in any order, and the same network should be the same bytes
    write_atomically(path, save(_tensors(network), metadata={"spaceevo": notes}))


def load_extracted(path: Path) -> ExtractedNetwork:
    """Read an extracted network.

    Raises:
        ArtifactError: Missing, truncated, of an earlier version, or not what `save_extracted` wrote.
    """
    try:
        with safe_open(path, framework="np") as file:
            notes = json.loads((file.metadata() or {})["spaceevo"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(notes, dict) or notes.get("format") != FORMAT:
            if isinstance(notes, dict) and notes.get("format") == _EARLIER:
                raise ArtifactError(
                    f"{path} is an extracted network of an earlier version of spaceevo",
                    found=f"Its format is {_EARLIER}, in which operators have other names; this version reads {FORMAT}",
                    remedy="Export the run again with this version",
                )
            raise ValueError(f"its format is {notes['format']!r}, not {FORMAT!r}")
        program = program_from_json(notes["program"])
        network = ExtractedNetwork(
            _integer_graph(program, tensors),
            _float_graph(program, tensors),
            _METADATA.validate_python(notes["metadata"]),
        )
        if surplus := tensors.keys() - _tensors(network).keys():
            raise ValueError(f"it has more than its operators read: {', '.join(sorted(surplus)[:3])}")
        for fault in faults(network.integer):
            raise ValueError(fault)
    except (SafetensorError, ValidationError, LookupError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} is no extracted network that spaceevo wrote",
            found=" ".join(str(error).split())[:300],
            remedy="Give the .safetensors file beside an exported model, or export the run again",
        ) from error
    return network


def digest(graph: IntegerGraph) -> str:
    """SHA-256 over the nodes and every number of an integer graph; exported files carry it."""
    content = hashlib.sha256(canonical_json(graph.nodes).encode())
    for name, array in sorted(_integer_tensors(graph).items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _tensors(network: ExtractedNetwork) -> dict[str, np.ndarray]:
    tensors = _integer_tensors(network.integer)
    for name, weights in network.floating.weights.items():
        tensors |= {f"fp32/{name}/weight": weights.weight, f"fp32/{name}/bias": weights.bias}
    return {name: np.array(array, order="C") for name, array in tensors.items()}


def _integer_tensors(graph: IntegerGraph) -> dict[str, np.ndarray]:
    names = [node.id for node in graph.nodes if node.id in graph.quant_params]
    tensors: dict[str, np.ndarray] = {
        "int8/scales": np.array([graph.quant_params[name].scale for name in names], np.float64),
        "int8/zero_points": np.array([graph.quant_params[name].zero_point for name in names], np.int32),
    }
    for name, weights in graph.weights.items():
        tensors |= {
            f"int8/{name}/codes": weights.codes,
            f"int8/{name}/scales": weights.scales,
            f"int8/{name}/bias": weights.bias,
        }
    return tensors


def _integer_graph(program: Program, tensors: dict[str, np.ndarray]) -> IntegerGraph:
    names = [node.id for node in program if node.out.quantizer != "none"]
    scales, zero_points = _positive(tensors["int8/scales"], "int8/scales"), tensors["int8/zero_points"]
    if ((zero_points < 0) | (zero_points > NUM_CODES - 1)).any():
        raise ValueError(f"int8/zero_points has {zero_points.min()} to {zero_points.max()}; codes are 0 to 255")
    pairs = zip(scales.tolist(), zero_points.tolist(), strict=True)
    quant_params = {name: QuantParams(*pair) for name, pair in zip(names, pairs, strict=True)}
    weights = {}
    for node in program:
        if node.has_weights:
            codes, scales, bias = (
                _taken(tensors, f"int8/{node.id}/{what}", shape, dtype)
                for what, shape, dtype in (
                    ("codes", node.weight_shape, np.int8),
                    ("scales", (node.out_shape.channels,), np.float32),
                    ("bias", (node.out_shape.channels,), np.int32),
                )
            )
            weights[node.id] = IntegerWeights(codes, _positive(scales, f"int8/{node.id}/scales"), bias)
    return IntegerGraph(program, quant_params, weights)


def _float_graph(program: Program, tensors: dict[str, np.ndarray]) -> FloatGraph:
    weights = {
        node.id: FloatWeights(
            _taken(tensors, f"fp32/{node.id}/weight", node.weight_shape, np.float32),
            _taken(tensors, f"fp32/{node.id}/bias", (node.out_shape.channels,), np.float32),
        )
        for node in program
        if node.has_weights
    }
    return FloatGraph(program, weights)


def _taken(tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = tensors[name]
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite numbers")
    return array


def _positive(scales: np.ndarray, name: str) -> np.ndarray:
    if not ((scales > 0) & (scales < np.inf)).all():
        raise ValueError(f"{name} holds {scales.min():g} to {scales.max():g}; scales are positive and finite")
    return scales
