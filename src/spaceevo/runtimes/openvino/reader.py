"""What a model file of anybody's holds, before OpenVINO has compiled it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spaceevo.errors import ArtifactError
from spaceevo.runtimes import _qdq
from spaceevo.runtimes._models import Model, check_format, check_links, make_input
from spaceevo.runtimes._onnx_models import open_onnx
from spaceevo.runtimes.openvino import on_device
from spaceevo.runtimes.openvino.installed import NAME, check_installed, explain

metadata, constants = _qdq.metadata, _qdq.constants


def open_model(path: Path) -> Model:
    """A model of anybody's: ONNX, TFLite, or OpenVINO's own IR, whose weights lie beside it in a .bin.

    Raises:
        ArtifactError: Missing or no such model, weights that are not there, or inputs that cannot be made.
        TargetError: OpenVINO is not installed.
    """
    match check_format(path, NAME, "ONNX", "TFLite", "OpenVINO IR"):
        case "ONNX":
            model = open_onnx(path)
        case "TFLite" if path.suffix != ".tflite":
            raise ArtifactError(
                f"{path} is no model that {NAME} can load",
                found="It knows models in the format TFLite by their suffix .tflite alone",
                remedy="Rename the file",
            )
        case "TFLite":
            model = _open_other(path)
        case _:  # an IR, whatever its suffix is
            weights = path.with_suffix(".bin")
            model = replace(_open_other(path), weights=(weights,) if weights.is_file() else ())
    return check_links(model, NAME, path.parent.resolve())


def _open_other(path: Path) -> Model:
    """A model in a format that only OpenVINO itself reads here, without the weights beside it."""
    check_installed()
    try:
        opened = on_device.opened(str(path))
    except RuntimeError as error:
        found, remedy = explain(str(error), on_device.version())
        raise ArtifactError(f"{path} is no model that {NAME} can load", found=found, remedy=remedy) from error
    inputs = []
    for number, port in enumerate(opened.inputs):
        shape, kind = port.get_partial_shape(), port.get_element_type()
        dims = [dim.get_length() if dim.is_static else -1 for dim in shape] if shape.rank.is_static else None
        name = min(port.get_names(), default=f"input {number}")
        try:
            dtype = str(np.dtype(kind.to_dtype()))
        except RuntimeError:  # of those that numpy does not have
            dtype = kind.get_type_name()
        inputs.append(make_input(path, name, dtype, dims))
    return Model(path, tuple(inputs))
