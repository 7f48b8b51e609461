"""Recipes: defaults, and what each thing that is wrong with one is called."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from spaceevo.config import Recipe, load_recipe
from spaceevo.errors import RecipeError
from spaceevo.settings import Settings, parse

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def _models(
    model: type[BaseModel] = Recipe, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], type[Settings]]]:
    found = [(path, model)]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _models(field.annotation, (*path, name))
    return found


def _nested(path: tuple[str, ...], content: object) -> object:
    for step in reversed(path):
        content = {step: content}
    return content


def _error(content: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(Recipe, content, "r.yaml")
    return str(caught.value)


def _load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_defaults_are_a_recipe() -> None:
    recipe = parse(Recipe, {}, "r.yaml")
    assert recipe == Recipe()
    assert recipe.budgets_ms == "auto"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in RECIPES])
def test_a_recipe_that_comes_with_the_project_is_one(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(("path", "model"), [pytest.param(*pair, id=".".join(pair[0]) or "top") for pair in _models()])
def test_a_mistyped_key_names_the_nearest(path: tuple[str, ...], model: type[Settings]) -> None:
    for key in model.model_fields:
        wrong = key + "x"
        text = _error(_nested(path, {wrong: 1}))
        assert f"r.yaml has the unknown key {'.'.join((*path, wrong))!r}" in text
        assert f"Valid there: {', '.join(model.model_fields)}" in text
        assert f"Did you mean {key!r}?" in text


def test_a_key_like_no_other_suggests_nothing() -> None:
    text = _error({"zzzzzz": 1})
    assert "'zzzzzz'" in text
    assert "Did you mean" not in text


@pytest.mark.parametrize(
    ("content", "key", "found"),
    [
        ({"seed": "many"}, "seed", "'many'"),
        ({"seed": -1}, "seed", "-1"),
        ({"seed": None}, "seed", "None"),
        ({"name": "a/b"}, "name", "'a/b'"),
        ({"name": ""}, "name", "''"),
        ({"data": 3}, "data", "3"),
        ({"data": {"image_size": 8}}, "data.image_size", "8"),
        ({"data": {"image_size": "big"}}, "data.image_size", "'big'"),
        ({"data": {"options": [1]}}, "data.options", "[1]"),
        ({"data": {"search_share": 0}}, "data.search_share", "0"),
        ({"target": {"threads": 0}}, "target.threads", "0"),
        ({"predict": {"num_fit": 1.5}}, "predict.num_fit", "1.5"),
        ({"blocks": {"teacher": {"lr": 0}}}, "blocks.teacher.lr", "0"),
        ({"blocks": {"teacher": {"lr": "x"}}}, "blocks.teacher.lr", "'x'"),
        ({"study": {"widths": 16}}, "study.widths", "16"),
        ({"study": {"widths": [16, "x"]}}, "study.widths.1", "'x'"),
        ({"export": {"min_agreement": 2}}, "export.min_agreement", "2"),
    ],
)
def test_wrong_values_are_told_with_their_key(content: object, key: str, found: str) -> None:
    text = _error(content)
    assert f"r.yaml has a wrong value at {key!r}" in text
    assert f"It is {found}" in text


@pytest.mark.parametrize(
    "budgets", [[], [0], [3, -1], [float("nan")], [float("inf")], ["fast"], "soon", 3, None, {"a": 1}]
)
def test_bad_budgets(budgets: object) -> None:
    text = _error({"budgets_ms": budgets})
    assert "wrong value at 'budgets_ms" in text


def test_budgets_are_sorted_and_distinct() -> None:
    assert parse(Recipe, {"budgets_ms": [6, 3.0, 6]}, "r").budgets_ms == (3.0, 6.0)
    assert parse(Recipe, {"budgets_ms": "auto"}, "r").budgets_ms == "auto"


def test_a_recipe_is_named_after_its_file(tmp_path: Path) -> None:
    assert _load(tmp_path, "seed: 3").name == "mine"
    assert _load(tmp_path, "name: other").name == "other"


def test_yaml_reaches_every_level(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "budgets_ms: [2]\nblocks: {teacher: {lr: 0.5}}\ndata: {name: folder, options: {path: x}}")
    assert recipe.budgets_ms == (2.0,)
    assert recipe.blocks.teacher.lr == 0.5
    assert recipe.data.options == {"path": "x"}


def test_a_resolved_recipe_is_read_back_equal(tmp_path: Path) -> None:
    import yaml

    recipe = parse(Recipe, {"name": "a", "budgets_ms": [1, 2], "blocks": {"teacher": {"lr": 0.5}}}, "r")
    assert _load(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json"))) == recipe


def test_a_missing_file_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml cannot be read.*No such file.*spaceevo init"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match=r"cannot be read.*directory"):
        load_recipe(tmp_path)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "a: @"])
def test_not_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml is not YAML.*line") as caught:
        _load(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "found"), [("", "NoneType"), ("- a", "list"), ("hello", "str")])
def test_no_keys(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=f"has no keys.*{found}"):
        _load(tmp_path, text)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00a", b"\x89PNG\r\n\x1a\n\x00"])
def test_binary_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load_recipe(path)


def test_keys_that_are_no_strings(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'1'"):
        _load(tmp_path, "1: 2")
    with pytest.raises(RecipeError, match="blocks"):
        _load(tmp_path, "blocks: {1: 2}")


def test_python_objects_in_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not YAML"):
        _load(tmp_path, "a: !!python/object/apply:os.getcwd []")


def test_every_setting_says_what_it_means() -> None:
    undescribed = {
        ".".join((*path, name))
        for path, model in _models()
        for name, field in model.model_fields.items()
        if not field.description and not (isinstance(field.annotation, type) and issubclass(field.annotation, Settings))
    }
    plain = {"name", "seed", "weight_decay", "label_smoothing", "batch_size"}  # field terms
    others = {"population_size", "tournament_size", "num_generations", "num_mutations", "num_crossovers"}
    assert {name.rsplit(".", 1)[-1] for name in undescribed} <= plain | others
