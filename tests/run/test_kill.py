"""Killed at any moment and started again, a run ends with what an undisturbed one ends with, and repeats nothing."""

import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from spaceevo.artifacts import Manifest
from spaceevo.run.stage import LAST, in_order

STAGES = tuple(stage.name for stage in in_order(LAST))
MEASURED = ("study", "predict")
#: Checkpoints are written every ten seconds, and measurements stored by groups of 64: too seldom for a tiny stage. As
#: `sitecustomize` it is read by the processes of the engine, too.
OFTEN = """
import dataclasses
from spaceevo.measure import session
from spaceevo.train import loop
from spaceevo.run.stage import LAST, in_order
loop.SECONDS_BETWEEN_CHECKPOINTS = 0.05
session.Plan.__init__.__defaults__ = tuple(2 if value == 64 else value for value in session.Plan.__init__.__defaults__)
"""
#: What a stage leaves on its way; it is killed within this share of its duration after that appears.
TRACES = {
    "study": ("inputs.json", 0.5),
    "predict": ("inputs.json", 0.5),
    "blocks": ("cells/*.json", 0.1),  # most of it is over then
    "space": ("inputs.json", 0.5),
    "supernet": ("supernet-checkpoint.safetensors", 0.5),
    "subnets": ("evaluated.jsonl", 0.5),
    "finetune": ("subnet?-checkpoint.safetensors", 0.5),
    "baselines": ("baseline?-checkpoint.safetensors", 0.5),
    "export": ("models/*.onnx", 0.5),
    "report": ("inputs.json", 0.5),
}
MAX_TRIES = 4


def _manifest(folder: Path, stage: str) -> Manifest:
    return Manifest.model_validate_json((folder / stage / "stage.json").read_bytes())


def _state(paths: list[Path]) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def _kill_during(tiny: Any, stage: str, folder: Path, delay: float) -> bool:
    """Whether the process was killed while the stage was running."""
    often = folder.with_name(f"{folder.name}-often")
    often.mkdir()
    (often / "sitecustomize.py").write_text(OFTEN)
    env = {**tiny.env, "PYTHONPATH": f"{often}:{tiny.env['PYTHONPATH']}"}
    with tiny.start(stage, tiny.recipe, "--out", folder, env=env) as process:
        while not list((folder / stage).glob(TRACES[stage][0])):
            assert process.poll() is None, process.communicate()
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL and not (folder / stage / "stage.json").exists()


def _num_measurements(folder: Path) -> int:
    path = folder / "measurements.sqlite"
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'measurements'").fetchall()
        return int(connection.execute("SELECT count(*) FROM measurements").fetchone()[0]) if tables else 0
    finally:
        connection.close()


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again(tiny: Any, cli: Any, stage: str, tmp_path: Path) -> None:
    rng = random.Random(f"kill {stage}")
    position = STAGES.index(stage)
    folder = tmp_path / "run"
    delay = rng.uniform(0, TRACES[stage][1]) * _manifest(tiny.folder, stage).seconds
    for number in range(MAX_TRIES):
        folder = tiny.copy(tmp_path / f"run{number}", without=STAGES[position:])
        if stage in MEASURED:
            (folder / "measurements.sqlite").unlink()
        else:
            for path in (folder / "report.html", folder / "summary.json"):
                path.unlink()
        finished = _state([folder / name / "stage.json" for name in STAGES[:position]])
        if _kill_during(tiny, stage, folder, delay):
            break
        delay /= 4  # the machine was faster this time
    else:
        pytest.fail(f"{stage} was always faster than its killer")
    cells = _state(list(folder.glob("blocks/cells/*.json")))
    assert cells or position < STAGES.index("blocks")
    stored = _num_measurements(folder)

    again = cli(stage, tiny.recipe, "--out", folder)

    assert again.returncode == 0, again.stderr
    assert _state(list(finished)) == finished
    assert _state(list(cells)) == cells
    assert not list(folder.rglob("*checkpoint*"))
    assert not list(folder.rglob("*-unverified*"))
    assert not list((folder / "work").glob("*"))
    assert _num_measurements(folder) >= stored
    undisturbed = _manifest(tiny.folder, stage)
    assert _manifest(folder, stage).input_hash == undisturbed.input_hash
    if stage in MEASURED or stage == "report":  # latencies and durations differ
        assert _manifest(folder, stage).files.keys() == undisturbed.files.keys()
    else:
        assert _manifest(folder, stage).files == undisturbed.files


def test_interrupted_by_hand_says_how_to_go_on(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.copy(tmp_path / "run", without=STAGES[STAGES.index("supernet") :])
    with tiny.start("supernet", tiny.recipe, "--out", folder) as process:
        while not (folder / "supernet" / "inputs.json").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Run the same command again to go on" in stderr
    assert "Traceback" not in stderr
