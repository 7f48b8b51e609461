"""What a measurement is known by beside what is measured: versions, which rise with the code."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest

import spaceevo
from spaceevo.measure import versions
from spaceevo.measure.session import Plan
from spaceevo.measure.versions import MEASURING, code_differs, how
from spaceevo.runtimes import RUNTIMES

SOURCE = Path(spaceevo.__file__).parent
#: The code that a version stands for.
FILES = {
    "measuring": (
        *("measure/session.py", "measure/campaign.py", "measure/random_graphs.py", "measure/transports/_device.py"),
        *(
            "measure/transports/_program.py",
            "measure/transports/local.py",
            "measure/metrics/*.py",
            "runtimes/_on_device/*.py",
        ),
    ),
    "onnxruntime": ("runtimes/onnxruntime.py", "runtimes/_qdq.py"),
    "openvino": ("runtimes/openvino.py", "runtimes/_qdq.py"),
    "litert": ("runtimes/litert.py",),
}
#: By what is versioned its version and the digest of its code, without comments, docstrings and formatting.
KNOWN = {
    "measuring": (1, "f7c4d7d358d937ca"),
    "onnxruntime": (1, "26c4a19fb29efe7d"),
    "openvino": (1, "7ef8c7b81d03b09a"),
    "litert": (1, "781706afcbdfafa9"),
}


def version_of(name: str) -> int:
    return MEASURING if name == "measuring" else RUNTIMES.load(name).EXPORTER


def digest_of(name: str) -> str:
    digest = hashlib.sha256()
    for pattern in FILES[name]:
        paths = sorted(SOURCE.glob(pattern))
        assert paths, pattern
        for path in paths:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                has_body = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                if has_body and ast.get_docstring(node) is not None:  # type: ignore[arg-type]
                    node.body = node.body[1:] or [ast.Pass()]
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the digests are of trees as Python 3.11 makes them")
@pytest.mark.parametrize("name", FILES)
def test_code_that_decides_measurements_does_not_change_without_its_version(name: str) -> None:
    found, constant = (version_of(name), digest_of(name)), "MEASURING" if name == "measuring" else "EXPORTER"
    assert found == KNOWN[name], (
        f"The code of {name} has changed. If a file or a latency of the same network may differ now, raise its "
        f"{constant}: then it is measured again. Else nothing is lost. Either way write {found!r} into KNOWN."
    )


def test_every_runtime_has_a_version_that_is_watched() -> None:
    assert {"measuring", *RUNTIMES.names()} == FILES.keys()


def test_what_was_measured_by_other_code_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program, file = how(Plan(), "litert"), how(Plan(), None)
    assert len({program, file, how(Plan(visits=11), "litert"), how(None, "litert")}) == 4
    assert not code_differs(program, "litert")
    monkeypatch.setattr(RUNTIMES.load("litert"), "EXPORTER", 2)
    assert code_differs(program, "litert")
    assert not code_differs(how(Plan(), "litert"), "litert")
    assert not code_differs(program, "onnxruntime"), "each has a version of its own"
    assert not code_differs(file, "litert"), "a file is what it is"
    monkeypatch.setattr(versions, "MEASURING", 2)
    assert code_differs(file, "litert")


@pytest.mark.parametrize("text", ["", "Plan(visits=10)", "[]", "{}", json.dumps({"value": {"visits": 10}}), "null"])
def test_what_earlier_versions_noted_tells_no_code(text: str) -> None:
    assert code_differs(text, "litert")
