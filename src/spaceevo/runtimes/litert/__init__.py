"""LiteRT (TensorFlow Lite) on the processor, with its XNNPACK delegate: flatbuffers written directly, run and timed.

Batch 1, channels last: input "image" float32 [1, H, W, 3], output "logits" float32 [1, C]. Tensors are named after
the ids of the program's nodes. Activations are int8: LiteRT's code is the contract's less 128. Everything runs in one
partition of XNNPACK; LiteRT's own kernels would not be exact.
"""

from __future__ import annotations

from pathlib import Path

from spaceevo.runtimes.litert import benchmark, on_device
from spaceevo.runtimes.litert.arithmetic import ARITHMETIC, w_qmax
from spaceevo.runtimes.litert.fp32_writer import export_fp32
from spaceevo.runtimes.litert.installed import NAME, explain, version
from spaceevo.runtimes.litert.int8_writer import export_int8
from spaceevo.runtimes.litert.reader import constants, metadata, open_model
from spaceevo.runtimes.litert.session import Session, float_operators, load, profile

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

SUFFIX = ".tflite"
EXPORTER = 1
LAYOUT = "NHWC"
BENCHMARK = benchmark
ON_DEVICE = Path(on_device.__file__)
on_device_options = operator_times = None
SNIPPET = Path(__file__).with_name("snippet.py")
