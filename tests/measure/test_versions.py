"""What a measurement is known by beside what is measured: versions, which rise with the code."""

import ast
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

import spaceevo
from spaceevo.measure import versions
from spaceevo.measure.session import Plan
from spaceevo.measure.versions import MEASURING, code_differs, how
from spaceevo.runtimes import RUNTIMES

SOURCE = Path(spaceevo.__file__).parent
#: The code that measures.
MEASURING_FILES = (
    "measure/session.py",
    "measure/visits.py",
    "measure/campaign.py",
    "measure/random_graphs.py",
    "measure/transports/_device.py",
    "measure/transports/_program.py",
    "measure/transports/local.py",
    "measure/metrics/*.py",
    "runtimes/*/on_device.py",
)
#: By what is versioned its version and the digest of its code, without comments, docstrings and formatting.
KNOWN = {
    "measuring": (1, "e789f62cf2661723"),
    "onnxruntime": (1, "d1bd8a2bb11b2c8b"),
    "openvino": (1, "a738b5e6f2242307"),
    "litert": (1, "ab72928313755a92"),
}


def version_of(name: str) -> int:
    return MEASURING if name == "measuring" else RUNTIMES.load(name).EXPORTER


def files_of(name: str, source: Path = SOURCE) -> list[Path]:
    """The code that a version stands for: of a runtime its whole package, and what of `runtimes/_*.py` that imports."""
    if name == "measuring":
        found = {pattern: sorted(source.glob(pattern)) for pattern in MEASURING_FILES}
        assert all(found.values()), found
        return [path for paths in found.values() for path in paths]
    room = source / "runtimes"
    own = sorted((room / name.replace("-", "_")).rglob("*.py"))
    assert own, name
    shared: set[Path] = set()
    unread = list(own)
    while unread:
        imported = {room / f"{module}.py" for module in shared_modules(unread.pop())} - shared
        shared |= imported
        unread += imported
    return own + sorted(shared)


def shared_modules(path: Path) -> set[str]:
    """What a file imports of the modules that runtimes share, for example "_qdq"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {words[2] for words in (name.split(".") for name in names) if words[:2] == ["spaceevo", "runtimes"]}
    return {name for name in found if name.startswith("_")}


def digest_of(name: str, source: Path = SOURCE) -> str:
    digest = hashlib.sha256()
    for path in files_of(name, source):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            has_body = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            if has_body and ast.get_docstring(node) is not None:  # type: ignore[arg-type]
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the digests are of trees as Python 3.11 makes them")
@pytest.mark.parametrize("name", KNOWN)
def test_code_that_decides_measurements_does_not_change_without_its_version(name: str) -> None:
    found, constant = (version_of(name), digest_of(name)), "MEASURING" if name == "measuring" else "EXPORTER"
    assert found == KNOWN[name], (
        f"The code of {name} has changed. If a file or a latency of the same network may differ now, raise its "
        f"{constant}: then it is measured again. Else nothing is lost. Either way write {found!r} into KNOWN."
    )


def test_every_runtime_has_a_version_that_is_watched() -> None:
    assert {"measuring", *RUNTIMES.names()} == KNOWN.keys()


def test_all_modules_of_a_runtime_and_what_they_share_are_watched() -> None:
    for name in RUNTIMES.names():
        assert set(files_of(name)) >= set((SOURCE / "runtimes" / name).glob("*.py"))
        assert all(path.is_file() for path in files_of(name))
    shared = {name: {path.stem for path in files_of(name) if path.parent.name == "runtimes"} for name in KNOWN}
    assert shared["onnxruntime"] == shared["openvino"] == {"_models", "_onnx_models", "_qdq"}
    assert shared["litert"] == {"_models"}
    watched = {path for name in KNOWN for path in files_of(name)}
    assert {*(SOURCE / "runtimes").rglob("*.py")} - watched == {SOURCE / "runtimes" / "__init__.py"}


@pytest.mark.parametrize("change", ["openvino/writer.py", "openvino/more.py", "openvino/deeper/more.py", "_models.py"])
def test_a_change_of_any_of_them_is_seen(change: str, tmp_path: Path) -> None:
    shutil.copytree(SOURCE / "runtimes", tmp_path / "runtimes", ignore=shutil.ignore_patterns("__pycache__"))
    before = digest_of("openvino", tmp_path)
    path = tmp_path / "runtimes" / change
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n# a comment\n")
    assert (digest_of("openvino", tmp_path) == before) == (change in ("openvino/writer.py", "_models.py"))
    path.write_text(path.read_text() + "\n\nfrom spaceevo.runtimes import _more\n")
    (tmp_path / "runtimes" / "_more.py").write_text("FACTOR = 1\n")
    seen = digest_of("openvino", tmp_path)
    assert seen != before
    (tmp_path / "runtimes" / "_more.py").write_text("FACTOR = 2\n")
    assert digest_of("openvino", tmp_path) != seen


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
