"""Bad input at the real command line: one paragraph on standard error, an exit code, no traceback, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from spaceevo.artifacts import RunFolder
from spaceevo.config import Recipe, load_recipe
from spaceevo.records import SubnetSearchResult
from spaceevo.run.stage import LAST, in_order

STAGES = tuple(stage.name for stage in in_order(LAST))


def _refused(done: Any, *words: str, code: int = 1) -> str:
    """Check how an error is told; returns what was told."""
    text: str = done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text + done.stdout
    assert "bug of spaceevo" not in text
    if code == 1:
        assert text.startswith("Error: ")
        assert text.count("\n") == 1, "one paragraph"
    for word in words:
        assert word in text
    return text


def _recipe(tmp_path: Path, tiny: Any, **changes: object) -> Path:
    """The tiny run's recipe with other values at the top level."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(tiny.recipe.read_text()), **changes}))
    return path


def _own(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _images(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 20), "red").save(root / split / name / "0.png")
    return root


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


# --- recipes


def test_unknown_key(cli: Any, tmp_path: Path) -> None:
    recipe = _own(tmp_path, {"blocks": {"step_fp32": 3}})
    _refused(cli("run", recipe, "--out", tmp_path / "run"), str(recipe), "'blocks.step_fp32'", "'steps_fp32'?")
    assert not (tmp_path / "run").exists()


def test_missing_recipe(cli: Any, tmp_path: Path) -> None:
    _refused(cli("run", tmp_path / "none.yaml", "--out", tmp_path / "run"), "none.yaml", "spaceevo init")
    assert not (tmp_path / "run").exists()


def test_markup_in_a_recipe_is_told_as_it_stands(cli: Any, tmp_path: Path) -> None:
    _refused(cli("run", _own(tmp_path, {"name": "[bold]x[/bold]"})), "[bold]x[/bold]")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"hyperspace": "mikro"}, ("spaces.presets", "'mikro'", "Available: micro", "Did you mean 'micro'?")),
        ({"data": {"name": "digit"}}, ("train.datasets", "'digit'", "folder", "Did you mean 'digits'?")),
        ({"data": {"name": "digits", "options": {"val_shar": 1}}}, ("data.options", "'val_shar'", "'val_share'?")),
        ({"target": {"name": "onxruntime@local"}}, ("runtimes", "'onxruntime'", "Did you mean 'onnxruntime'?")),
        ({"target": {"name": "onnxruntime@locale"}}, ("transports", "'locale'", "Did you mean 'local'?")),
        ({"target": {"name": "onnxruntime"}}, ("runtime@transport", "onnxruntime@local")),
    ],
)
def test_unknown_names(cli: Any, tmp_path: Path, content: object, words: tuple[str, ...]) -> None:
    _refused(cli("run", _own(tmp_path, content), "--out", tmp_path / "run"), *words)


# --- data


def _run_on(cli: Any, tmp_path: Path, root: Path) -> Any:
    recipe = _own(tmp_path, {"data": {"name": "folder", "options": {"path": str(root)}}})
    return cli("run", recipe, "--out", tmp_path / "run")


def test_missing_data_folder(cli: Any, tmp_path: Path) -> None:
    _refused(_run_on(cli, tmp_path, tmp_path / "nowhere"), str(tmp_path / "nowhere"))


def test_empty_data_folder(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "val").mkdir()
    _refused(_run_on(cli, tmp_path, tmp_path / "images"), str(tmp_path / "images"), "no image")


def test_one_class(cli: Any, tmp_path: Path) -> None:
    _refused(_run_on(cli, tmp_path, _images(tmp_path / "images", ("cat",))), "only one class", "'cat'")


def test_unreadable_image(cli: Any, tmp_path: Path) -> None:
    root = _images(tmp_path / "images")
    (root / "train" / "cat" / "1.jpg").write_bytes(b"no image")
    _refused(_run_on(cli, tmp_path, root), "1 of 5 images", "train/cat/1.jpg")


def test_no_path_to_the_data(cli: Any, tmp_path: Path) -> None:
    _refused(cli("run", _own(tmp_path, {"data": {"name": "folder"}}), "--out", tmp_path / "run"), "'path'")


# --- budgets


def test_a_budget_below_the_fastest_subnet_names_the_closest(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    smallest_ms = json.loads((tiny.folder / "predict" / "budgets.json").read_text())["smallest_ms"]
    text = _refused(
        cli("run", _recipe(tmp_path, tiny, budgets_ms=[0.001, 5]), "--out", folder), "0.001 ms", f"{smallest_ms:.3g} ms"
    )
    closest = float(text.split("at least ")[1].rstrip(".\n"))
    assert smallest_ms <= closest <= smallest_ms * 1.1
    assert cli("predict", _recipe(tmp_path, tiny, budgets_ms=[closest]), "--out", folder).returncode == 0
    done = cli("run", tiny.recipe, "--out", folder)  # what was finished is still there
    assert done.returncode == 0
    assert done.stdout.count("done before") == len(STAGES)


# --- the run folder


@pytest.mark.parametrize(
    "file",
    ["study/study.json", "predict/predictor.json", "blocks/table.parquet", "space/search.json",
     "supernet/supernet-int8.safetensors", "subnets/subnets.json", "report/report.html"],
)  # fmt: skip
def test_a_truncated_file_of_a_finished_stage(cli: Any, tiny: Any, tmp_path: Path, file: str) -> None:
    folder = tiny.copy(tmp_path / "run")
    os.truncate(folder / file, 10)
    text = _refused(cli("run", tiny.recipe, "--out", folder), str(folder / file), "10 bytes")
    remedy = text.split("delete the folder ")[1].split(" to have")[0]
    assert Path(remedy) == folder / file.split("/")[0]


def test_damaged_copies_of_the_report_are_written_again(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    os.truncate(folder / "report.html", 10)
    (folder / "summary.json").unlink()
    assert cli("run", tiny.recipe, "--out", folder).returncode == 0
    for name in ("report.html", "summary.json"):
        assert (folder / name).read_bytes() == (tiny.folder / name).read_bytes()


def test_the_remedy_of_a_damaged_stage_helps(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    path = folder / "subnets" / "subnets.json"
    path.write_bytes(b"x" * path.stat().st_size)
    _refused(cli("subnets", tiny.recipe, "--out", folder), str(path), "SHA-256")
    shutil.rmtree(folder / "subnets")
    done = cli("subnets", tiny.recipe, "--out", folder)
    assert done.returncode == 0
    assert done.stdout.count("done before") == 4, done.stdout
    assert SubnetSearchResult.model_validate_json(path.read_bytes()).found


@pytest.mark.parametrize("content", ["", "{}", '{"made by": "another program"}', "\x00\x01"])
def test_a_foreign_manifest(cli: Any, tiny: Any, tmp_path: Path, content: str) -> None:
    folder = tiny.copy(tmp_path / "run")
    (folder / "space" / "stage.json").write_text(content)
    _refused(cli("run", tiny.recipe, "--out", folder), str(folder / "space" / "stage.json"), "Delete the folder")


def test_a_manifest_of_another_stage(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    shutil.copy(folder / "study" / "stage.json", folder / "space" / "stage.json")
    _refused(cli("run", tiny.recipe, "--out", folder), "space/stage.json", "'study'")


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"x" * 5000])
def test_foreign_measurements(cli: Any, tiny: Any, tmp_path: Path, content: bytes) -> None:
    folder = tiny.copy(tmp_path / "run", without=("study",))
    (folder / "measurements.sqlite").write_bytes(content)
    _refused(cli("study", tiny.recipe, "--out", folder), "measurements.sqlite", "move it away")


def test_a_damaged_checkpoint_of_an_unfinished_stage(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    for path in (folder / "supernet").iterdir():
        if path.name != "inputs.json":
            path.unlink()
    checkpoint = folder / "supernet" / "supernet-checkpoint.safetensors"
    checkpoint.write_bytes(b"half of it")
    _refused(cli("supernet", tiny.recipe, "--out", folder), str(checkpoint), "delete it and run the same command again")


def test_two_runs_in_one_folder(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run")
    with RunFolder(folder).locked():
        before = _files(folder)
        _refused(tiny.command("run", tiny.recipe, "--out", folder), f"process is {os.getpid()}", "--out")
        assert _files(folder) == before


def test_out_is_a_file(cli: Any, tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        _refused(cli("run", tiny.recipe, "--out", out), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    """A disk of its own in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount") or "mount"
    try:
        subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no permission to mount a disk: {error}")

    def remount(options: str) -> None:
        subprocess.run([mount, "-o", f"remount,{options}", folder], check=True, capture_output=True)

    yield folder, remount
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_read_only_folder(cli: Any, tiny: Any, disk: Any) -> None:
    folder, remount = disk
    tiny.copy(folder / "run")
    remount("ro")
    before = _files(folder)
    _refused(cli("run", tiny.recipe, "--out", folder / "run"), str(folder), "Read-only", "--out")
    _refused(cli("run", tiny.recipe, "--out", folder / "new"), str(folder), "Read-only", "--out")
    _refused(cli("init", folder / "r.yaml"), str(folder), "Read-only")
    assert _files(folder) == before


@pytest.mark.parametrize("stage", ["predict", "blocks", "supernet", "subnets", "export", "report"])
def test_a_full_disk_and_then_room(cli: Any, tiny: Any, disk: Any, stage: str) -> None:
    folder, _ = disk
    run = tiny.copy(folder / "run", without=STAGES[STAGES.index(stage) :])
    if stage == "predict":
        (run / "measurements.sqlite").unlink()
    for path in (run / "report.html", run / "summary.json"):
        path.unlink()
    (run / stage).mkdir()  # left over; room for a few small files
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        file.write(b"\0" * (free - (20 << 10)))
    _refused(cli(stage, tiny.recipe, "--out", run), str(run))
    assert not (run / stage / "stage.json").exists()
    filler.unlink()
    done = cli(stage, tiny.recipe, "--out", run)
    assert done.returncode == 0, done.stderr


# --- usage


@pytest.mark.parametrize(
    "words",
    [("runn", "r.yaml"), ("run",), ("run", "a.yaml", "b.yaml"), ("run", "a.yaml", "--ouut", "x"), ("init",),
     ("init", "a.yaml", "--budget-ms", "fast"), ("init", "a.yaml", "--budget-ms", "3", "fast")],
)  # fmt: skip
def test_wrong_usage(cli: Any, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _refused(cli(*words), "Usage: spaceevo", code=2)
    assert not list(tmp_path.iterdir())


def test_the_installed_command_refuses_like_this_process(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("spaceevo"), "run", tmp_path / "none.yaml"]
    _refused(subprocess.run(command, capture_output=True, text=True, check=False), "none.yaml")


def test_a_bug_of_ours_is_called_one(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("spaceevo.config.load_recipe", fail)
    done = cli("run", tmp_path / "x.yaml")
    assert done.returncode == 70
    assert "ZeroDivisionError: odd" in done.stderr
    assert "bug of spaceevo" in done.stderr


# --- init


def test_init_writes_the_defaults_commented(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    done = cli("init", path)
    assert done.returncode == 0
    assert f"spaceevo run {path}" in done.stdout
    assert load_recipe(path) == Recipe(name="my")
    lines = path.read_text().splitlines()
    assert sum("#" in line for line in lines) > 30
    for section in Recipe.model_fields:
        assert any(line.startswith(f"{section}:") for line in lines)
    described = [f.description for f in Recipe.model_fields.values() if f.description]
    assert all(text in path.read_text() for text in described)


@pytest.mark.parametrize("name", ["images", "bilder ä: #1", "画像 😀", 'it\'s "odd"'])
def test_init_takes_data_and_budgets(cli: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _images(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    done = cli("init", "my.yaml", "--data", name, "--budget-ms", "6", "3", "--image-size", "48")
    assert done.returncode == 0, done.stderr
    recipe = load_recipe(tmp_path / "my.yaml")
    assert recipe.data.name == "folder"
    assert recipe.data.options == {"path": str(root)}
    assert recipe.data.image_size == 48
    assert recipe.budgets_ms == (3.0, 6.0)


def test_init_takes_repeated_budgets(cli: Any, tmp_path: Path) -> None:
    assert cli("init", tmp_path / "my.yaml", "--budget-ms", "3", "--budget-ms", "6").returncode == 0
    assert load_recipe(tmp_path / "my.yaml").budgets_ms == (3.0, 6.0)


def test_init_asks_for_no_more_images_than_there_are(cli: Any, tmp_path: Path) -> None:
    root = _images(tmp_path / "images")
    for number in range(1, 50):
        for name in ("cat", "dog"):
            shutil.copy(root / "train" / "cat" / "0.png", root / "train" / name / f"{number}.png")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    assert cli("init", tmp_path / "my.yaml", "--data", root).returncode == 0
    recipe = load_recipe(tmp_path / "my.yaml")
    assert recipe.subnets.num_images == 16  # of 15 that are held out of 100; its least
    assert recipe.blocks.num_images + recipe.blocks.score_images == 85
    assert recipe.supernet.batch_size == recipe.blocks.teacher.batch_size == recipe.blocks.batch_size == 16
    assert recipe.supernet.lr == Recipe().supernet.lr


@pytest.mark.parametrize("name", ["my run.yaml", "-x.yaml", "ä.yaml", "...yaml"])
def test_init_finds_a_name_for_any_file(cli: Any, tmp_path: Path, name: str) -> None:
    assert cli("init", tmp_path / name).returncode == 0
    assert load_recipe(tmp_path / name).name


def test_init_does_not_overwrite(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("seed: 3")
    _refused(cli("init", path), str(path), "--force")
    assert path.read_text() == "seed: 3"
    assert cli("init", path, "--force").returncode == 0
    assert load_recipe(path).seed == 0


def test_init_tells_a_command_that_works(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = cli("init", "~/my first.yaml")
    assert done.stdout == f"Wrote {tmp_path}/my first.yaml. Next: spaceevo run '{tmp_path}/my first.yaml'\n"
    assert (tmp_path / "my first.yaml").exists()
    done = cli("init", tmp_path, "--force")
    assert (done.returncode, f"{tmp_path} is a folder" in done.stderr) == (1, True)


def test_init_refuses_what_cannot_be_run(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    _refused(cli("init", path, "--data", tmp_path / "nowhere"), "nowhere")
    _refused(cli("init", path, "--data", _images(tmp_path / "one", ("cat",))), "only one class")
    _refused(cli("init", path, "--budget-ms", "0"), "budgets_ms")
    _refused(cli("init", path, "--image-size", "3"), "image_size")
    assert not path.exists()


def test_a_hand_made_space_leaves_nothing_to_search(cli, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: hand-made\nhyperspace: resnet50\n")
    done = cli("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "'resnet50'" in done.stderr
    assert "micro, mobilew or onnxw" in done.stderr
    assert "Traceback" not in done.stderr
