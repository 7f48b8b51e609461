"""Where verbs write: the user's files are safe, places are checked before the work, nothing is half written."""

from pathlib import Path
from typing import Any

import pytest

from spaceevo.measure.transports import fake

TARGET = "onnxruntime@fake"
FILES = {"work/notes.txt": "mine", "recipe.yaml": "soup: leek", "report.html": "mine", "study/thesis.txt": "mine",
         "export/models/a-int8.onnx": "mine", "blocks/x": "mine", "data.csv": "mine"}  # fmt: skip


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's project, which is the current folder."""
    folder = tmp_path / "mine"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.chdir(folder)
    fake.reset()
    return folder


def _state(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


TINY = str(Path(__file__).parents[1] / "tiny" / "tiny.yaml")


@pytest.mark.parametrize(
    "words",
    [
        *(
            (verb, TINY, "--out", ".")
            for verb in ("run", "study", "predict", "blocks", "space", "export", "compare", "plan")
        ),
        ("run", TINY, "--out", "../mine"),
        ("blocks", "distill", "--hyperspace", "tiny", "--data", "digits", "--out", "."),
        ("target", "fit", TARGET, "--folder", "."),
        ("target", "study", TARGET, "--folder", "."),
        ("measure", TARGET, "MobileNetV2", "--folder", "."),
    ],
    ids=" ".join,
)
def test_a_folder_that_is_no_run_is_refused(mine: Path, cli: Any, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "is not empty, and not" in said
    assert "Nothing was touched" in said
    assert words[-2] in said, "the option that the user gave"
    assert "Traceback" not in said
    assert _state(mine) == FILES


def test_outputs_of_predictions(mine: Path, cli: Any, tmp_path: Path) -> None:
    fit = ("target", "fit", TARGET, "--num-fit", 10, "--hyperspace", "micro", "--folder", tmp_path / "fit")
    assert cli(*fit).returncode == 0
    listed = tmp_path / "names.txt"
    words = ("predict", TARGET, "--folder", tmp_path / "fit", "--file", listed)
    for content in (b"\xef\xbb\xbfMobileNetV2\n", "MobileNetV2\n".encode("utf-16")):
        listed.write_bytes(content)
        done = cli(*words, "--out", "data.csv")
        assert done.returncode == 1
        assert "data.csv exists already" in done.stderr
        assert _state(mine) == FILES
        for _ in range(2):  # its own it replaces
            done = cli(*words, "--out", tmp_path / "new" / "p.csv")
            assert done.returncode == 0, done.stderr
        assert (tmp_path / "new" / "p.csv").read_text().splitlines()[1].startswith("MobileNetV2,")
    for out, said in ((tmp_path, "is a folder"), ("data.csv/p.csv", "cannot be written")):
        done = cli(*words, "--out", out)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    done = cli(*words, "--out", "data.csv", "--force")
    assert done.returncode == 0
    assert (mine / "data.csv").read_text().startswith("network,latency_ms")


@pytest.mark.parametrize("out", ["data.csv", ".", "/proc/nowhere.parquet"])
def test_a_wrong_place_is_told_before_anything_is_measured(
    mine: Path, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr("spaceevo.tools.targets.measure_all", lambda *_: pytest.fail("measured"))
    done = cli("measure", TARGET, "MobileNetV2", "--folder", tmp_path / "fit", "--export", out)
    assert done.returncode == 1, done.stderr
    assert out in done.stderr
    assert "Traceback" not in done.stderr
    assert _state(mine) == FILES
