"""The first recipe for pictures of one's own."""

from pathlib import Path

import pytest
from PIL import Image

import spaceevo
from spaceevo.errors import DataError, RecipeError
from spaceevo.run.context import load_data


def draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        draw(tmp_path / "pets" / name, 60)
    return tmp_path / "pets"


def test_a_folder_in_one_part(pets: Path, tmp_path: Path) -> None:
    recipe = spaceevo.recipe_for(pets, [3, 6], image_size=16, val_share=0.2)
    assert recipe.name == "pets"
    assert recipe.budgets_ms == (3, 6)
    assert recipe.supernet.batch_size <= 32, "as few pictures as there are"
    data = load_data(recipe.data, tmp_path / "cache")
    assert (len(data.train_labels), len(data.val_labels)) == (96, 24)
    with pytest.raises(DataError, match="no folder 'train'"):
        spaceevo.recipe_for(pets)


def test_a_table(pets: Path, tmp_path: Path) -> None:
    rows = [f"{file.relative_to(pets)},{file.parent.name}" for file in sorted(pets.rglob("*.png"))]
    (pets / "list.csv").write_text("\n".join(["path,label", *rows]))
    recipe = spaceevo.recipe_for(pets / "list.csv", image_size=16, val_share=0.5)
    assert recipe.data.name == "listing"
    data = load_data(recipe.data, tmp_path / "cache")
    assert (len(data.train_labels), len(data.val_labels)) == (60, 60)


def test_built_in_pictures_and_a_wrong_share(pets: Path) -> None:
    assert spaceevo.recipe_for().data.name == "procedural"
    with pytest.raises(RecipeError, match=r"data\.options.*val_share"):
        spaceevo.recipe_for(pets, val_share=1.5)


def test_by_verb(cli, pets: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    done = cli("init", path, "--data", pets, "--val-share", 0.2, "--budget-ms", 3, 6)
    assert done.returncode == 0, done.stderr
    recipe = spaceevo.load_recipe(path)
    assert recipe.data.options["val_share"] == 0.2
    assert recipe.name == "mine"
