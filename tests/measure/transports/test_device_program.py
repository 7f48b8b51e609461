"""What is sent to devices runs there: in an old Python, with nothing but what such a device has."""

import ast
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from spaceevo.measure.transports import _device
from spaceevo.runtimes import RUNTIMES

#: By runtime its file, and the packages that it may import.
ON_DEVICE = {name: plugin.ON_DEVICE for name in RUNTIMES.names() if (plugin := RUNTIMES.load(name)).ON_DEVICE}
PACKAGES = {"litert": {"ai_edge_litert", "numpy"}}
FILES = [
    (Path(_device.__file__), set()),
    *((file, PACKAGES.get(name, {name, "numpy"})) for name, file in ON_DEVICE.items()),
]


@pytest.mark.parametrize(("file", "allowed"), FILES, ids=["_device", *ON_DEVICE])
def test_old_pythons_and_bare_devices_can_run_it(file: Path, allowed: set[str]) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    future = next(node for node in tree.body if isinstance(node, ast.ImportFrom))
    assert future.module == "__future__"  # annotations are not evaluated
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                root = str(name).split(".")[0]
                assert root in allowed or (root in sys.stdlib_module_names and root != "spaceevo"), name


def test_every_runtime_runs_on_devices() -> None:
    assert ON_DEVICE.keys() >= {"onnxruntime", "litert", "openvino"}
    assert len(set(ON_DEVICE.values())) == len(ON_DEVICE)


def served(*requests: Any) -> list[dict[str, Any]]:
    """Answers to requests, each a dictionary or bytes that follow one."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in requests]
    answers = io.BytesIO()
    _device.serve(io.BufferedReader(io.BytesIO(b"".join(lines))), answers)  # type: ignore[type-var]
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def ask(number: int, do: str, **content: Any) -> dict[str, Any]:
    return {"id": number, "do": do, "with": content}


RUNTIME = """
def version():
    return "7"

def load(model, threads, extra=0):
    with open(model) as file:
        return [float(file.read()), threads, extra]

def time(handle, inputs, repeats):
    return [sum(handle) + inputs[0][2][0]] * repeats

def profile(model, inputs, repeats, threads, extra=0):
    with open(model) as file:
        return [["a", "Conv", "", float(file.read()) * repeats + threads + extra]]
"""


def test_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load = {"runtime": "r", "threads": 2, "cores": [], "inputs": [["x", "float32", [4]]], "options": {"extra": 1}}
    hello, *answers = served(
        ask(1, "runtime", name="r", source=RUNTIME),
        ask(2, "put", name="a", size=3),
        b"0.5",
        ask(3, "load", name="a", **load),
        ask(4, "time", model=1, repeats=2),
        ask(5, "load", name="b", **load),
        ask(6, "unload", model=1, name="a"),
        ask(7, "time", model=1, repeats=2),
        ask(8, "runtime", name="s", source="import not_there"),
        ask(9, "nothing"),
        ask(10, "read", patterns=["/proc/loadav*", "/proc/nothing"]),
        ask(11, "memory"),
        ask(12, "put", name="b", size=1),
        b"8",
        ask(13, "profile", runtime="r", name="b", inputs=[], repeats=3, threads=2, options={"extra": 1}),
    )
    assert hello["spaceevo"].startswith("3.")
    assert [answer["id"] for answer in answers] == list(range(1, 14))
    told = [answer.get("is", answer.get("kind")) for answer in answers]
    assert told[:9] == ["7", None, 1, [7.5, 7.5], "refused", None, "failed", "missing", "failed"]
    assert list(told[9]["texts"]) == ["/proc/loadavg"]
    assert told[10] > 1
    assert told[12] == [["a", "Conv", "", 27.0]]
    assert list(tmp_path.iterdir()) == []


def test_the_host_is_gone_in_the_middle_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit):
        served(ask(1, "put", name="a", size=1000), b"half of it")
    assert list(tmp_path.iterdir()) == []


def test_what_follows_a_file_that_cannot_be_written_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    _, put, read = served(ask(1, "put", name="a", size=9), b"{}\n{}\n{}\n", ask(2, "read", patterns=[]))
    assert put["kind"] == "failed"
    assert read == {"id": 2, "is": {"texts": {}, "unreadable": {}}}
