"""What an ONNX file holds, of ours or of anybody's, before ONNX Runtime has loaded it."""

from __future__ import annotations

from pathlib import Path

from spaceevo.runtimes import _qdq
from spaceevo.runtimes._models import Model, check_format, check_links
from spaceevo.runtimes._onnx_models import open_onnx
from spaceevo.runtimes.onnxruntime.installed import NAME

metadata, constants = _qdq.metadata, _qdq.constants


def open_model(path: Path) -> Model:
    """An ONNX model of anybody's.

    Raises:
        ArtifactError: Missing or no ONNX model, weights that are not there, or inputs that cannot be made.
    """
    check_format(path, NAME, "ONNX")
    return check_links(open_onnx(path), NAME, path.parent.resolve(), path.resolve().parent)
