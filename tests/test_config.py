"""Recipes: defaults, and what each thing that is wrong with one is called."""

import contextlib
import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from spaceevo import strict_yaml
from spaceevo.config import Recipe, load_recipe
from spaceevo.errors import RecipeError
from spaceevo.settings import Settings, limits, parse

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
    "budgets",
    [[], [0], [3, -1], [float("nan")], [float("inf")], ["fast"], "soon", "3, 6", -3, None, True, [[3]], {"a": 1}],
)
def test_bad_budgets(budgets: object) -> None:
    text = _error({"budgets_ms": budgets})
    assert "wrong value at 'budgets_ms'" in text
    assert f"It is {budgets!r}. Write a list of numbers of milliseconds, for example [3, 6], or auto (" in text
    assert "each above 0, at most 1000000)" in text


def test_budgets_are_sorted_and_distinct() -> None:
    assert parse(Recipe, {"budgets_ms": [6, 3.0, 6]}, "r").budgets_ms == (3.0, 6.0)
    assert parse(Recipe, {"budgets_ms": "auto"}, "r").budgets_ms == "auto"
    assert parse(Recipe, {"budgets_ms": 3}, "r").budgets_ms == (3.0,)


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


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# a", "nothing"), ("- a", "list"), ("a", "single value")]
)
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


TWICE = {
    "seed: 1\nseed: 2": ("'seed'", "lines 1 and 2"),
    "supernet: {lr: 1}\ndata: {name: digits}\nsupernet: {lr: 1}": ("'supernet'", "lines 1 and 3"),
    "blocks:\n  teacher:\n    lr: 0.1\n    'lr': 0.2": ("'blocks.teacher.lr'", "lines 3 and 4"),
    "data: {options: {path: a, path: b}}": ("'data.options.path'", "line 1"),
    "data: {options: {1: a, '1': b}}": ("'data.options.1'", "line 1"),
    "supernet: &s {lr: 0.1}\nblocks: {teacher: {<<: *s, <<: *s}}": ("'blocks.teacher.<<'", "line 2"),
    "supernet: &s {lr: 0.1}\nblocks:\n  teacher:\n    <<: [*s, {lr: 1}]": ("'blocks.teacher.lr'", "line 4"),
}


@pytest.mark.parametrize("text", TWICE)
def test_a_key_twice(tmp_path: Path, text: str) -> None:
    key, lines = TWICE[text]
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, text)
    assert f"has the key {key} twice. In {lines}. Leave one" in str(caught.value)


def test_what_is_merged_goes_behind_the_own_keys(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "supernet: &s {lr: 0.1, ema: 0.5}\nblocks: {teacher: {<<: *s, lr: 0.2}}")
    assert (recipe.blocks.teacher.lr, recipe.blocks.teacher.ema, recipe.supernet.lr) == (0.2, 0.5, 0.1)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("data: {flip: off}", "data.flip", False),
        ("name: no", "name", "no"),
        ("name: 2024-01-01", "name", "2024-01-01"),
        ("name: 007", "name", "007"),
        ("seed: 010", "seed", 10),
        ("seed: 1_000", "seed", 1000),
        ("supernet: {lr: 1e-3}", "supernet.lr", 0.001),
        ("budgets_ms: 1e1", "budgets_ms", (10.0,)),
        ("supernet:\ndata: {options: }", "data.options", {}),
        ("\ufeffseed: 3", "seed", 3),
        ("seed: 3\r\n", "seed", 3),
        ("%YAML 1.2\n---\nseed: 3\n...", "seed", 3),
    ],
)
def test_what_is_written_is_meant(tmp_path: Path, text: str, key: str, value: object) -> None:
    found: object = _load(tmp_path, text)
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: yes", "'seed'. It is yes (line 1). Write a whole number (at least 0"),
        ("\nseed: true", "'seed'. It is true (line 2)"),
        ("supernet: {lr: 1:30}", "'supernet.lr'. It is 1:30 (line 1). Write a number (above 0, at most 100)"),
        ("seed: 0x10", "It is 0x10"),
        ("seed: " + "1" * 5000, "'seed'. It is 1111"),
        ("name: 1.10", "It is 1.10 (line 1). Write text of a letter or digit"),
        ("data: {name: 3}", "It is 3 (line 1). Write text, in quotes"),
        ("budgets_ms: [3ms, 6ms]", "It is [3ms, 6ms] (line 1). Write a list of numbers of milliseconds, for example"),
        ("budgets_ms:", "It is empty (line 1)"),
        ("supernet: {epochs_fp32: .inf}", "It is .inf (line 1). Write a number (above 0, at most 10000)"),
        ("supernet: {lr: 1.0e+400}", "It is 1.0e+400 (line 1)"),
        ("study: {widths: [0]}", "'study.widths.0'. It is 0 (line 1). Write a whole number (at least 1, at most 2048)"),
        ("study: {widths: []}", "It is [] (line 1). Write a list of whole numbers (at least 1 of them; each at least"),
        ("study: {sizes: [1000000]}", "Write a whole number (at least 1, at most 512)"),
        ("subnets: {limits: {size-mib: .nan}}", "'subnets.limits.size-mib'. It is .nan (line 1). Write a number"),
        ("supernet: {optimizer: adam}", "It is adam (line 1). Write sgd or adamw"),
        ("data: []", "It is [] (line 1). Write a section with the keys name, image_size"),
        ("compare: {seeds: [1, 1]}", "It is [1, 1] (line 1). Name each of them once"),
        ("supernet: &s\n  lr: -1\nblocks: {teacher: {<<: *s}}", "'blocks.teacher.lr'. It is -1 (line 2)"),
        ("seed: 1\n---\nseed: 2", "A second document begins, in line 2"),
        ("supernet:\n\tlr: 1", "in line 2, column 1. Indent with spaces"),
        ("seed: !!int abc", "'abc' with the tag !!int in line 1"),
        ("a: !!timestamp x", "The tag 'tag:yaml.org,2002:timestamp' in line 1"),
        ("? [a]\n: 3", "A key that is no text in line 1"),
        ("a: &a [*a]", "nested too deep"),
        ("[" * 2000, "nested too deep"),
        ("{a: " * 2000, "nested too deep"),
        ("x: " + "y" * strict_yaml.MAX_BYTES, "is too large"),
        ("a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join(4 * [f'*a{n - 1}'])}]\n" for n in range(1, 12)),
         "holds too much"),
    ],
)  # fmt: skip
def test_what_is_not_meant_is_told_as_it_was_written(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):
        path.write_bytes("seed: 3".encode(encoding))
        assert load_recipe(path).seed == 3


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path, kind in ((tmp_path / "pipe.yaml", "pipe"), (Path("/dev/zero"), "device"), (tmp_path, "directory")):
        with pytest.raises(RecipeError, match=rf"cannot be read. It is a {kind}"):
            load_recipe(path)


def test_every_number_has_a_largest_value() -> None:
    for path, model in _models():
        for name, field in model.model_fields.items():
            if field.annotation in (int, float):
                assert "at most" in limits(field) or "below" in limits(field), (path, name)


def test_a_name_at_the_start_keeps_its_spelling(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_text("seed: x")
    with contextlib.chdir(tmp_path), pytest.raises(RecipeError, match=r"^The recipe recipe has a wrong value"):
        load_recipe(Path("recipe"))
