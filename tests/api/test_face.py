"""What `import spaceevo` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spaceevo

NAMES = {
    "Exports", "FoundSpaces", "Model", "PredictedLatencies", "Predictions", "QuantizedFiles", "Recipe", "Run", "Shown",
    "SpaceEvoError", "SpaceScores", "Subnet", "Target", "TargetTable", "Verified", "export", "load_hyperspace",
    "load_model", "load_recipe", "quantize", "recipe_for", "score_spaces", "search_spaces", "verify", "zoo",
}  # fmt: skip


def test_names() -> None:
    assert set(spaceevo.__all__) == NAMES
    assert {*NAMES, "__version__"} <= set(dir(spaceevo))
    for name in NAMES:
        value = getattr(spaceevo, name)
        assert value.__name__ == name
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Runs'"):
        spaceevo.Runs  # noqa: B018


def test_type_checkers_are_told_the_same() -> None:
    stub = ast.parse(Path(spaceevo.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert {(alias.asname, node.module) for node in imports for alias in node.names} == set(spaceevo._ROOM_OF.items())


def test_nothing_is_imported_before_it_is_used() -> None:
    script = (
        "import sys; before = set(sys.modules); import spaceevo, importlib\n"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('importlib')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    allowed = {"spaceevo", "warnings"}
    assert set(done.stdout.split()) <= allowed


@pytest.mark.parametrize("name", ["Target", "load_hyperspace", "score_spaces", "recipe_for", "zoo"])
def test_devices_and_spaces_do_without_torch(name: str) -> None:
    script = f"import sys, spaceevo; spaceevo.{name}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
