"""What docs/python.md and the notebook show, run as it stands there."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from spaceevo.measure.transports import fake
from spaceevo.train.datasets import DATASETS

DOCS = Path(__file__).parents[2] / "docs"
CLASSES = ("rose", "tulip", "daisy")


def draw_flowers(folder: Path) -> None:
    """Digits that are called flowers: something that the tiny run learns within seconds."""
    data = DATASETS.load("digits")
    digits = data.load(data.Settings(), 24, folder / "cache")
    for split, pixels, labels, most in (
        ("train", digits.train_images, digits.train_labels, 130),
        ("val", digits.val_images, digits.val_labels, 20),
    ):
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index, image in enumerate(pixels[labels == number][:most]):
                Image.fromarray(image.transpose(1, 2, 0)).save(folder / split / name / f"{index}.png")


def shown(code: str, names: dict[str, object]) -> object:
    """Run a cell; the value of its last line, as a notebook shows it."""
    body = ast.parse(code).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.usefixtures("plugin", "one_thread")
def test_from_a_folder_of_pictures_to_a_verified_model(tiny, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    draw_flowers(tmp_path / "flowers")
    content = yaml.safe_load(tiny.recipe.read_text())
    content["data"] = {"name": "folder", "image_size": 24, "options": {"path": str(tmp_path / "flowers")}}
    content["blocks"] |= {"num_images": 96}
    content["subnets"]["num_images"] = 16
    content["supernet"]["batch_size"] = content["blocks"]["teacher"]["batch_size"] = 16
    (tmp_path / "flowers.yaml").write_text(yaml.safe_dump(content))
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr()
    assert len(re.findall(r"ms: .* ms, .*%, .*x faster than FP32", printed.out)) == 2
    assert "[10/10] Write the report" in printed.err
    assert names["found"].class_names == tuple(sorted(CLASSES))
    assert len(names["found"]) == 2


def test_the_notebook(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    fake.reset()
    notebook = json.loads((DOCS / "notebooks" / "predict.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    names: dict[str, object] = {}
    values = [shown(cell, names) for cell in cells]
    fake.reset()
    printed = capsys.readouterr().out
    assert values[0].target.name == "onnxruntime@fake:phone"
    assert "INT8" in printed
    assert "unseen networks within 10 %" in printed
    assert [value._repr_html_().startswith("<iframe") for value in (values[1], values[3])] == [True, True]
    assert len(values[3]) == 1000
