"""What lies beside the models for people without spaceevo: labels, a program that classifies pictures, a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from spaceevo.records import ModelResult, Preprocessing, TargetDescription
from spaceevo.report import words
from spaceevo.runtimes import RUNTIMES

LABELS, CARD = "labels.txt", "MODEL_CARD.md"
MOST_NAMES = 20


def predict_file(runtime: str) -> str:
    """Name of the program for a runtime's files."""
    return f"predict_{runtime.replace('-', '_')}.py"


def labels_text(class_names: Sequence[str]) -> str:
    """One name per line, in the order of the logits; a line break in a name is a blank."""
    return "\n".join(" ".join(name.splitlines()) for name in class_names) + "\n"


def predict_text(runtime: str, preprocessing: Preprocessing) -> str | None:
    """A program that classifies pictures with a runtime's files.

    Args:
        runtime: Name of the plug-in.
        preprocessing: Of the files; the size that a file reads is read from it.

    Returns:
        None where the runtime does not tell how its files are run.
    """
    module = RUNTIMES.load(runtime)
    if module.SNIPPET is None:
        return None
    _, _, snippet = module.SNIPPET.read_text(encoding="utf-8").partition('"""\n')
    lines = (line for line in snippet.splitlines() if line.startswith(("import", "from")))
    imported = next(lines).split()[1].split(".")[0]
    return _template("predict.py.j2").render(
        file=predict_file(runtime),
        suffix=module.SUFFIX,
        package=imported.replace("_", "-"),
        snippet=snippet.strip() + "\n",
        p=preprocessing,
        layout=module.LAYOUT,
    )


def companions(runtime: str, class_names: Sequence[str], preprocessing: Preprocessing) -> dict[str, str]:
    """Names and contents of the labels and of the program for a runtime.

    Args:
        runtime: Name of the plug-in.
        class_names: In the order of the logits.
        preprocessing: Of the files.
    """
    program = predict_text(runtime, preprocessing)
    return {LABELS: labels_text(class_names)} | ({predict_file(runtime): program} if program else {})


def model_card(
    title: str,
    models: Sequence[ModelResult],
    target: TargetDescription,
    class_names: Sequence[str],
    data: str,
    license_name: str,
    num_train_images: int,
    num_val_images: int,
    seed: int,
    versions: Mapping[str, str],
) -> str:
    """A card in Markdown, its head in the YAML that model hubs read.

    Args:
        title: Name of the run.
        models: The found ones, in the order of their budgets; at least one.
        target: That they were measured on.
        class_names: In the order of the logits.
        data: Name of the data set.
        license_name: Of the models; "" where none is given, which is told.
        num_train_images: Training images.
        num_val_images: Images that decided the accuracies.
        seed: Of the run.
        versions: Of the packages that numbers depend on.
    """
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": "accuracy", "value": round(model.top1_int8, 6), "name": f"top-1, INT8, {file}"}],
        }
        for model in models
        for file in [Path(model.int8_file).name]
    ]
    head = {
        "license": license_name or "unknown",
        "library_name": target.runtime,
        "pipeline_tag": "image-classification",
        "tags": ["int8", "quantized", "image-classification", "spaceevo"],
        "model-index": [{"name": title, "results": results}],
    }
    names = ", ".join(class_names[:MOST_NAMES])
    few = f"{len(class_names)} classes" if len(class_names) > 3 else " and ".join(class_names)
    return _template("model_card.md.j2").render(
        front=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
        title=title,
        classes=few,
        models=models,
        target=target,
        budgets=" and ".join(words.budget(model.budget_ms) for model in models),
        version=version("spaceevo"),
        predict=predict_file(target.runtime),
        preprocessing=models[0].preprocessing,
        class_names=class_names,
        names=names + (f" and {len(class_names) - MOST_NAMES} more" if len(class_names) > MOST_NAMES else ""),
        data=data,
        num_train_images=num_train_images,
        num_val_images=num_val_images,
        seed=seed,
        versions=", ".join(f"{name} {number}" for name, number in versions.items()),
    )


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("spaceevo.report", "."),
        autoescape=False,  # no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        ms=words.ms, budget=words.budget, percent=words.percent, times=words.times,
        count=lambda number: f"{number:,}", file=lambda path: Path(path).name,
    )  # fmt: skip
    return environment.get_template(name)
