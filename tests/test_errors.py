"""The error tree: one root, one drawing of it, sentences."""

import inspect

import pytest

from spaceevo import errors
from spaceevo.errors import EXIT_ERROR, SpaceEvoError, StorageError, TargetError, nearest

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, SpaceEvoError)]


def test_the_docstring_draws_every_error() -> None:
    drawing = errors.__doc__ or ""
    drawn = [line.strip("│├└─ ").split()[0] for line in drawing.splitlines() if "Error " in line]
    assert sorted(drawn) == sorted(one.__name__ for one in CLASSES)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (errors.RecipeError, SpaceEvoError),
        (errors.PluginError, SpaceEvoError),
        (errors.EncodingError, SpaceEvoError),
        (errors.DataError, SpaceEvoError),
        (errors.TargetError, SpaceEvoError),
        (errors.UnstableSessionError, TargetError),
        (errors.InfeasibleBudgetError, SpaceEvoError),
        (errors.TrainingError, SpaceEvoError),
        (errors.ExportError, SpaceEvoError),
        (errors.ArtifactError, StorageError),
        (errors.RunLockedError, StorageError),
        (errors.NoSpaceError, StorageError),
    ],
)
def test_parents(error: type[SpaceEvoError], parent: type[SpaceEvoError]) -> None:
    assert error.__bases__ == (parent,)
    assert error.exit_code == EXIT_ERROR


def test_exit_codes_are_told_apart() -> None:
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert codes == sorted(set(codes))
    assert set(codes) <= {0, 1, 2, 3, 70, 130, 141}


def test_problem_found_and_remedy_become_sentences() -> None:
    error = SpaceEvoError("the recipe is odd", found="it is 3", remedy="Did you mean 'x'?")
    assert str(error) == "The recipe is odd. It is 3. Did you mean 'x'?"
    assert (error.problem, error.found, error.remedy) == ("the recipe is odd", "it is 3", "Did you mean 'x'?")


def test_empty_parts_leave_no_trace() -> None:
    assert str(SpaceEvoError("Odd")) == "Odd."
    assert str(SpaceEvoError("Odd", remedy="Even it!")) == "Odd. Even it!"


@pytest.mark.parametrize(
    "start", ["runs/x is odd", "mbv2-relu6 is odd", "'epoch' is odd", "box is odd", "my data/x.tar is odd"]
)
def test_names_keep_their_spelling_at_the_start(start: str) -> None:
    assert str(SpaceEvoError(start)) == f"{start}."


def test_nearest() -> None:
    assert nearest("buget_ms", ["seed", "budgets_ms", "blocks"]) == "budgets_ms"
    assert nearest("qqq", ["seed", "budgets_ms"]) is None
    assert nearest("seed", []) is None
