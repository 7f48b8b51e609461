"""A stage reads the results of the stages that it names, and of no others: what it depends on is what it is told."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from spaceevo import pipeline
from spaceevo.pipeline import FURTHER, STAGES

ROOM = Path(pipeline.__file__).parent
TREES = {path.stem: ast.parse(path.read_text()) for path in ROOM.glob("*.py")}
NAMES = {stage.NAME: stage.__name__.rpartition(".")[2] for stage in (*STAGES, *FURTHER)}
Node = tuple[str, str]  # module, function or class


def _imports(tree: ast.Module) -> dict[str, Node]:
    """By the name that a module uses: modules of the room (with an empty second part), and things of them."""
    found: dict[str, Node] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spaceevo.pipeline"):
            module = (node.module or "").removeprefix("spaceevo.pipeline").removeprefix(".")
            for alias in node.names:
                found[alias.asname or alias.name] = (module, alias.name) if module else (alias.name, "")
    return found


def _used(module: str, body: ast.AST) -> Iterator[Node]:
    """What of the room a function or class refers to."""
    imported, own = _imports(TREES[module]), {getattr(node, "name", "") for node in TREES[module].body}
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            place, rest = imported.get(node.value.id, ("", "x"))
            if place and not rest:
                yield place, node.attr
        elif isinstance(node, ast.Name):
            place, rest = imported.get(node.id, ("", ""))
            if rest:
                yield place, rest
            elif node.id in own:
                yield module, node.id


def _read_here(module: str, body: ast.AST) -> Iterator[str]:
    """Modules of the stages whose files a function or class finds itself: by `path(NAME, ...)` or `stage(NAME)`."""
    for node in ast.walk(body):
        is_place = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
        if is_place and node.func.attr in ("path", "stage"):
            match node.args[0]:
                case ast.Name("NAME"):
                    yield module
                case ast.Attribute(ast.Name(other), "NAME"):
                    yield other


def _reads(module: str) -> set[str]:
    """Modules of other stages whose results `run` and `inputs` of a stage read, through any function of the room."""
    seen: set[Node] = set()
    left, read = [(module, "run"), (module, "inputs")], set()
    while left:
        place, name = left.pop()
        body = next((node for node in TREES[place].body if getattr(node, "name", "") == name), None)
        if body is None or (place, name) in seen:
            continue
        seen.add((place, name))
        read.update(_read_here(place, body))
        left += _used(place, body)
    return read - {module}


@pytest.mark.parametrize("stage", [*STAGES, *FURTHER], ids=lambda stage: stage.NAME)
def test_a_stage_reads_only_what_it_names(stage: pipeline.StageModule) -> None:
    named = {NAMES[name] for name in (*stage.NEEDS, *getattr(stage, "READS", ()))}
    assert _reads(NAMES[stage.NAME]) <= named


def test_the_check_above_sees_what_is_read() -> None:
    assert _reads("supernet") == {"predict", "space"}
    assert _reads("subnets") >= {"space", "supernet"}, "through another module of the room"


@pytest.mark.parametrize("stage", [*STAGES, *FURTHER], ids=lambda stage: stage.NAME)
def test_what_is_read_beside_the_needs_is_needed_by_one_of_them(stage: pipeline.StageModule) -> None:
    """So its changes reach the stage, through the results of that one."""
    through = {name for other in pipeline._with_needs(stage.NAME) if other is not stage for name in other.NEEDS}
    assert set(getattr(stage, "READS", ())) <= through
