"""The documentation against the code: keys and defaults, verbs, links, examples."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import spaceevo
from spaceevo.cli import VERBS
from spaceevo.config import Recipe
from spaceevo.records import ModelResult, Summary
from spaceevo.run.stage import STAGES
from spaceevo.settings import limits
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.datasets import DATASETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LATER = {ROOT / "docs" / "report.png"}  # made from a real run


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """(dotted key, field, default) of every leaf."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from _fields(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, default


def _rows(page: str) -> dict[str, list[str]]:
    """Table rows of a page whose first cell is a key in backticks, by key."""
    rows = {}
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_every_key_of_a_recipe_is_described() -> None:
    rows = _rows("recipe.md")
    for key, field, default in _fields(Recipe):
        assert key in rows, f"docs/recipe.md lacks {key}"
        told_default, told_limits, meaning = rows[key]
        assert told_default.strip("`") == json.dumps(default), key
        if allowed := limits(field):
            assert told_limits == allowed, key
        assert meaning, key


def test_no_key_is_described_that_is_none() -> None:
    keys = {key for key, _, _ in _fields(Recipe)}
    assert {key for key in _rows("recipe.md") if not key.startswith("options.")} == keys


@pytest.mark.parametrize("name", ["digits", "folder", "huggingface", "listing", "procedural", "webdataset"])
def test_every_option_of_a_data_set_is_described(name: str) -> None:
    rows = _rows("recipe.md")
    for option in DATASETS.load(name).Settings.model_fields:
        assert f"options.{option}" in rows, f"docs/recipe.md lacks {option} of {name}"


def test_every_verb_is_in_the_readme() -> None:
    app = typer.Typer()
    for name in VERBS.names():
        VERBS.load(name).register(app)
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    verbs |= {group.name for group in app.registered_groups if group.name}
    assert {"init", "run", *STAGES.names()} <= verbs
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in verbs:
        assert re.search(rf"spaceevo {verb}\b|`{verb}\b", text), f"README.md lacks the verb {verb}"


def test_every_key_of_the_summary_is_described() -> None:
    rows = _rows("report.md")
    for model in (Summary, ModelResult):
        assert model.model_fields.keys() <= rows.keys()


def test_size_of_the_micro_hyperspace() -> None:
    text = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    assert f"{load_hyperspace('micro').num_spaces:,} search spaces" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path = (page.parent / target.split("#")[0]).resolve()
        assert path.exists() or path in LATER, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile(page: Path) -> None:
    for source in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        compile(source, page.name, "exec")


MODULES = sorted(info.name for info in pkgutil.walk_packages(spaceevo.__path__, "spaceevo."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
