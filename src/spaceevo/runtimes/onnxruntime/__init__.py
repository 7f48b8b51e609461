"""ONNX Runtime on the processor: QDQ models (see `_qdq`), run, timed and profiled."""

from __future__ import annotations

from pathlib import Path

from spaceevo.runtimes.onnxruntime import on_device
from spaceevo.runtimes.onnxruntime.arithmetic import ARITHMETIC, w_qmax
from spaceevo.runtimes.onnxruntime.installed import NAME, explain, version
from spaceevo.runtimes.onnxruntime.reader import constants, metadata, open_model
from spaceevo.runtimes.onnxruntime.session import (
    Session,
    float_operators,
    load,
    on_device_options,
    operator_times,
    profile,
)
from spaceevo.runtimes.onnxruntime.writer import export_fp32, export_int8

__all__ = [
    "ARITHMETIC",
    "BENCHMARK",
    "EXPORTER",
    "LAYOUT",
    "NAME",
    "ON_DEVICE",
    "SNIPPET",
    "SUFFIX",
    "Session",
    "constants",
    "explain",
    "export_fp32",
    "export_int8",
    "float_operators",
    "load",
    "metadata",
    "on_device_options",
    "open_model",
    "operator_times",
    "profile",
    "version",
    "w_qmax",
]

SUFFIX = ".onnx"
EXPORTER = 1
LAYOUT = "NCHW"
BENCHMARK = None
ON_DEVICE = Path(on_device.__file__)
SNIPPET = Path(__file__).with_name("snippet.py")
