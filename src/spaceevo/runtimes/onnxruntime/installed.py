"""ONNX Runtime as it is installed: its name, its version, and what it says of a model that it refuses."""

from __future__ import annotations

import re

from spaceevo.runtimes._models import shortened, without_cpp
from spaceevo.runtimes.onnxruntime import on_device

NAME = "ONNX Runtime"


def version() -> str:
    """Version of ONNX Runtime."""
    return on_device.version()


def explain(message: str, version: str) -> tuple[str, str]:
    """What ONNX Runtime means when it refuses a model.

    Args:
        message: What it says.
        version: Of the package that says so, here or on a device.

    Returns:
        What is wrong, and what to do.

    >>> explain("Unsupported model IR version: 99, max supported IR version: 14", "1.32.0")[0]
    'IR version 99; ONNX Runtime 1.32.0 knows up to 14'
    """
    knows = f"ONNX Runtime {version} knows up to"
    newer = "or install a newer ONNX Runtime"
    text = re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(Load model from .*? failed:)?\s*", "", without_cpp(message))
    if match := re.search(r"Opset (\d+) is under development.* domain (\S+) is till opset (\d+)", text):
        of_domain = "" if match[2] == "ai.onnx" else f" of the domain {match[2]}"
        remedy = f"Export it for, or convert it to, opset {match[3]}{of_domain} or less, {newer}"
        return f"Opset {match[1]}{of_domain}; {knows} {match[3]}", remedy
    if match := re.search(r"IR version: (\d+), max supported IR version: (\d+)", text):
        remedy = f"Save it with IR version {match[2]} (ir_version of the model in onnx), {newer}"
        return f"IR version {match[1]}; {knows} {match[2]}", remedy
    if "is not a registered function/op" in text or "No Op registered" in text:
        return shortened(text), f"Export the model without operators that ONNX Runtime does not have, {newer}"
    return shortened(text), f"Mend the model, export it again, {newer}"
