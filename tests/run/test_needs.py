"""A stage is given the results of the stages that it names, and of no others: what it depends on is what it is told."""

import ast
from pathlib import Path
from typing import Any

import pytest

from spaceevo import stages
from spaceevo.artifacts import RunFolder
from spaceevo.config import Recipe
from spaceevo.errors import ArtifactError
from spaceevo.run.context import Context
from spaceevo.run.run import Run, given_to, result_of
from spaceevo.run.stage import Given, Stage, all_stages, in_order, needs_of

ROOM = Path(stages.__file__).parent
EVERY = all_stages()


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_what_is_not_named_is_not_given(stage: Stage[Any]) -> None:
    read: list[str] = []
    given = Given(stage, lambda other: read.append(other.name))
    named = (*needs_of(stage), *stage.through)
    for other in EVERY:
        if other in named:
            assert given[other] is None
        else:
            with pytest.raises(LookupError, match=f"'{stage.name}' does not name '{other.name}'"):
                given[other]
    assert sorted(read) == sorted(other.name for other in named)
    for other in named:
        assert given[other] is None
    assert len(read) == len(named), "what was read is not read again"


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: stage.name)
def test_what_is_given_beside_the_needs_is_needed_by_one_of_them(stage: Stage[Any]) -> None:
    """So its changes reach the stage, through the results of that one."""
    through = {need for other in in_order(stage.name) if other is not stage for need in needs_of(other)}
    assert set(stage.through) <= through


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_no_stage_looks_into_the_run_folder_itself(path: Path) -> None:
    """It has its own folder, and values."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "context":
            assert node.attr not in ("run", "path"), f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "spaceevo.run.run", f"line {node.lineno}"


def test_the_result_of_a_stage_that_is_not_finished(tmp_path: Path) -> None:
    context = Context(Recipe(), RunFolder(tmp_path / "run"))
    with pytest.raises(ArtifactError, match=r"no finished stage 'study'.*spaceevo study RECIPE --out"):
        result_of(context, in_order("study")[0])


def test_results_of_a_run(tiny: Any, cli: Any) -> None:
    run = Run.open(tiny.folder)
    for stage in in_order("report"):
        assert type(run[stage]) is type(given_to(run.context, stage.name)[stage])
