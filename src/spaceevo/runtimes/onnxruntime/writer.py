"""The files of ONNX Runtime: QDQ models as `_qdq` writes them, and the largest weight code beside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spaceevo.graph.graphs import FloatGraph, IntegerGraph
from spaceevo.runtimes import check_placement
from spaceevo.runtimes._qdq import LARGEST_CODE, Fp32Writer, Int8Writer, largest_code, write_model
from spaceevo.runtimes.onnxruntime.installed import version


def export_int8(graph: IntegerGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a quantized network as QDQ ONNX, with exactly the graph's parameters.

    Args:
        graph: A whole network, or a part: without logits, the output is the last tensor, dequantized.
        path: Written atomically.
        metadata: Put into the model's metadata, beside the versions.

    Raises:
        ExportError: The graph is no valid ONNX, or not quantized as devices compute.
        NoSpaceError: The file cannot be written.
    """
    check_placement(graph.nodes)
    metadata = {**metadata, LARGEST_CODE: str(largest_code(graph))}
    write_model(Int8Writer(graph).model(), path, metadata, f"onnxruntime {version()}")


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
    write_model(Fp32Writer(graph).model(), path, metadata, f"onnxruntime {version()}")
