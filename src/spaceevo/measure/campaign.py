"""Measure many architectures or files, each only once: what the store has is not measured again."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from spaceevo import plugins
from spaceevo.errors import NoSpaceError
from spaceevo.measure import store as storage
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.measure.session import Plan, Progress, measure
from spaceevo.measure.store import Store
from spaceevo.measure.target import RUNTIMES
from spaceevo.records import Measurement, TargetDescription
from spaceevo.spaces.operators import Operator

Precision = Literal["int8", "fp32"]
Program = tuple[Operator, ...]
_FOLDER = "models-"
_SEED = 0  # of the random weights; a latency does not depend on them


def measure_programs(
    target: TargetDescription,
    programs: Sequence[tuple[str, Program, Precision]],
    store: Store,
    work_dir: Path,
    plan: Plan,
    progress: Progress,
) -> list[Measurement]:
    """Measure architectures with random weights.

    Each measurement is stored as soon as its group is measured, so that a campaign that is interrupted goes
    on where it stood.

    Args:
        target: Where to measure.
        programs: (name, program, "int8" or "fp32") each; names serve error messages only, and may repeat.
        store: Of measurements.
        work_dir: Model files lie in a folder in here while they are needed; made when it is missing. One
            campaign at a time may use it: what a killed one has left there is removed.
        plan: How to measure.
        progress: Called with (steps done, steps); a program is exported in one step and measured in another.

    Returns:
        One measurement per program, in order.

    Raises:
        TargetError: The target cannot be reached, or is too unstable.
        ExportError: A program cannot be written.
        NoSpaceError: The disk is full, or a folder cannot be written.
    """
    keys = [storage.key(repr(program), precision, target, plan) for _, program, precision in programs]
    missing = [i for i in _first_positions(keys) if store.get(keys[i]) is None]
    if missing:
        with _writing(work_dir):
            work_dir.mkdir(parents=True, exist_ok=True)
            for left_behind in work_dir.glob(f"{_FOLDER}*"):  # by a process that was killed
                shutil.rmtree(left_behind, ignore_errors=True)
            folder = tempfile.TemporaryDirectory(dir=work_dir, prefix=_FOLDER, ignore_cleanup_errors=True)
        with folder:
            paths = []
            for number, i in enumerate(missing):
                with _writing(work_dir):
                    paths.append(_export(target, programs[i], Path(folder.name) / str(number)))
                progress(number + 1, 2 * len(missing))
            second_half = _second_half(progress, len(missing))
            _measure(target, paths, [keys[i] for i in missing], store, plan, second_half)
    return [_stored(store, key) for key in keys]


def measure_files(
    target: TargetDescription, paths: Sequence[Path], store: Store, plan: Plan, progress: Progress
) -> list[Measurement]:
    """Measure model files, known by the hash of their content; see `measure_programs`.

    All files that are not in the store are measured in one session, so that they can be compared.

    Raises:
        TargetError: The target cannot be reached, or is too unstable.
        ArtifactError: A file is missing or no model.
    """
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path) for path in paths]
    keys = [storage.key(digest, "file", target, plan) for digest in hashes]
    missing = [i for i in _first_positions(keys) if store.get(keys[i]) is None]
    _measure(target, [paths[i] for i in missing], [keys[i] for i in missing], store, plan, progress)
    return [_stored(store, key) for key in keys]


def _measure(
    target: TargetDescription,
    paths: Sequence[Path],
    keys: Sequence[str],
    store: Store,
    plan: Plan,
    progress: Progress,
) -> None:
    def keep(position: int, measurement: Measurement) -> None:
        store.put(keys[position], measurement)

    measure(target, paths, plan, progress, keep)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NoSpaceError(
            "Model files to measure cannot be written",
            found=f"{folder}: {error.strerror or error}",
            remedy="Free space there, or choose a folder that can be written",
        ) from error


def _export(target: TargetDescription, program: tuple[str, Program, Precision], stem: Path) -> Path:
    name, operators, precision = program
    runtime = plugins.load(RUNTIMES, target.runtime)
    path = stem.with_suffix(runtime.SUFFIX)
    if precision == "int8":
        runtime.export_int8(random_integer_graph(operators, _SEED, target.w_qmax), path, {"name": name})
    else:
        runtime.export_fp32(random_float_graph(operators, _SEED), path, {"name": name})
    return path


def _second_half(progress: Progress, steps: int) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        progress(steps + done * steps // max(total, 1), 2 * steps)

    return advance


def _first_positions(keys: Sequence[str]) -> list[int]:
    """Position of the first occurrence of every key."""
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    return list(first.values())


def _stored(store: Store, key: str) -> Measurement:
    measurement = store.get(key)
    assert measurement is not None
    return measurement
