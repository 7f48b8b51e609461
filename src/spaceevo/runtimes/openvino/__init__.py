"""OpenVINO on the processor, on QDQ ONNX files (see `_qdq`) that differ from ONNX Runtime's in three forms.

What its files need otherwise tells `writer`, what it makes of them `arithmetic`.
"""

from __future__ import annotations

from pathlib import Path

from spaceevo.runtimes.openvino import on_device
from spaceevo.runtimes.openvino.arithmetic import ARITHMETIC, w_qmax
from spaceevo.runtimes.openvino.installed import NAME, explain, version
from spaceevo.runtimes.openvino.reader import constants, metadata, open_model
from spaceevo.runtimes.openvino.session import Session, float_operators, load, operator_times, profile
from spaceevo.runtimes.openvino.writer import export_fp32, export_int8

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

SUFFIX = ".openvino.onnx"
EXPORTER = 1
LAYOUT = "NCHW"
BENCHMARK = None
on_device_options = None
ON_DEVICE = Path(on_device.__file__)
SNIPPET = Path(__file__).with_name("snippet.py")
