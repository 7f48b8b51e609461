"""Measure many architectures or files, each only once: what the store has is not measured again.

More than 400 lines: sessions of programs, files and metrics share the store's keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from spaceevo.errors import ExportError, NoSpaceError, TargetError, UnstableSessionError
from spaceevo.graph.identity import canonical_json, identity, program_to_json
from spaceevo.graph.nodes import Program
from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Tracer
from spaceevo.measure.metrics import METRICS, MeasureMetric, Metric
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.measure.session import FasterReferenceError, Plan, Progress, Reference, measure
from spaceevo.measure.store import REFERENCE, Stale, Store, Subject
from spaceevo.measure.target import connect
from spaceevo.measure.versions import code_differs, how
from spaceevo.records import Measurement, TargetDescription
from spaceevo.runtimes import RUNTIMES
from spaceevo.runtimes._models import Model

Precision = Literal["int8", "fp32"]
_FOLDER = "spaceevo-models-"
_SEED = 0  # of the random weights; a latency does not depend on them
_MAX_WEIGHTS = 2**29  # that a file of 2 GiB holds in FP32: the largest in ONNX and TFLite
_MAX_PASSES = 3  # that get no further: while measurements are kept, an unstable session is followed by another one


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
        progress: Called with (steps done, steps); a program is exported in one step, or more or fewer, by its weights,
            and measured in another.

    Returns:
        One measurement per program, in order.

    Raises:
        TargetError: The target cannot be reached, or is too unstable.
        ExportError: A program cannot be written.
        NoSpaceError: The disk is full, or a folder cannot be written.
    """
    subjects = [
        Subject(identity(program), precision, target, how(plan, target.runtime), name=name, program=_as_json(program))
        for name, program, precision in programs
    ]

    check_sizes(programs)
    progress = _never_back(progress)

    def write(missing: Sequence[int], folder: Path) -> tuple[list[Path], Progress]:
        paths, done, total = [], 0, sum(_num_weights(programs[position]) for position in missing)
        for number, position in enumerate(missing):
            with _writing(work_dir):
                paths.append(export_program(target, programs[position], folder / str(number)))
            done += _num_weights(programs[position])
            progress(len(missing) * done // total, 2 * len(missing))
        return paths, _second_half(progress, len(missing))

    return _measure(target, subjects, write, store, work_dir, plan)


def measure_files(
    target: TargetDescription, paths: Sequence[Path], store: Store, plan: Plan, progress: Progress
) -> list[Measurement]:
    """Measure model files, known by the hash of their content; see `measure_programs`.

    All files that are not in the store are measured in one session.

    Raises:
        TargetError: The target cannot be reached, or is too unstable.
        ArtifactError: A file is missing or no model, or its inputs cannot be made; told before anything is measured.
        NoSpaceError: The disk is full, or the folder of temporary files cannot be written.
    """
    runtime = RUNTIMES.load(target.runtime)
    models = [runtime.open_model(path) for path in paths]
    subjects = [Subject(model.digest, "file", target, how(plan, None), name=model.path.name) for model in models]

    progress = _never_back(progress)

    def write(missing: Sequence[int], folder: Path) -> tuple[list[Path], Progress]:
        return [paths[position] for position in missing], progress

    return _measure(target, subjects, write, store, None, plan)


def note_copies(
    target: TargetDescription, measured: Sequence[Measurement], paths: Sequence[Path], store: Store, plan: Plan
) -> None:
    """Store measurements of files for files that are the same but for what they tell of themselves.

    Args:
        target: Where they were measured.
        measured: What `measure_files` returned for the first ones.
        paths: The others, in the same order.
        store: Of measurements.
        plan: How they were measured.

    Raises:
        NoSpaceError: The disk is full.
    """
    reference = store.get(reference_subject(target))
    for path, measurement in zip(paths, measured, strict=True):
        model = RUNTIMES.load(target.runtime).open_model(path)
        subject = Subject(model.digest, "file", target, how(plan, None), name=model.path.name)
        store.put(replace(subject, reference_ms=reference.latency_ms if reference else None), measurement)


def measure_metric(
    target: TargetDescription,
    metric: str,
    programs: Sequence[tuple[str, Program, float]],
    store: Store,
    work_dir: Path,
    progress: Progress,
    metadata: Mapping[str, str] | None = None,
) -> list[float]:
    """Measure a metric beside latency of INT8 architectures with random weights; what the store has is taken from it.

    Args:
        target: Where to measure.
        metric: Its name; the device decides it.
        programs: (name, program, latency in ms, which need not be exact) each.
        store: Of measurements.
        work_dir: For model files, which are removed.
        progress: Called with (programs done, programs).
        metadata: As in the files that are handed out: of a small model it is a good part of the size.

    Returns:
        One value per program, in the unit that the metric's name ends in.

    Raises:
        PluginError: There is no such metric.
        TargetError: The device is lost, or cannot tell it.
        ExportError: A program cannot be written.
        NoSpaceError: The disk is full, or a folder cannot be written.
    """
    measure = _measure_of(METRICS.load(metric))
    plan, values = how(None, target.runtime), []
    with closing(connect(target.name)) as transport, _folder(work_dir) as folder:
        for number, (name, program, latency_ms) in enumerate(programs):
            what = canonical_json([identity(program), dict(metadata or {})])
            digest = hashlib.sha256(what.encode()).hexdigest()
            subject = Subject(digest, "int8", target, plan, name=name)
            value = store.get_metric(subject, metric)
            if value is None:
                with _writing(folder):
                    path = export_program(target, (name, program, "int8"), folder / str(number), metadata)
                value = float(measure(transport, target, path, latency_ms))
                path.unlink()
                store.put_metric(subject, metric, value)
            values.append(value)
            progress(number + 1, len(programs))
    return values


def measure_metric_of_file(
    target: TargetDescription, metric: str, path: Path, store: Store, latency_ms: float
) -> float:
    """Measure a metric beside latency of one model file, known by its content; what the store has is taken from it.

    Args:
        target: Where to measure.
        metric: Name of a metric that the device decides.
        path: The file.
        store: Of measurements.
        latency_ms: Its latency, which need not be exact.

    Raises:
        TargetError: The device is lost, or cannot tell it.
    """
    measure, model = _measure_of(METRICS.load(metric)), RUNTIMES.load(target.runtime).open_model(path)
    subject = Subject(model.digest, "file", target, how(None, None), name=model.path.name)
    value = store.get_metric(subject, metric)
    if value is None:
        with closing(connect(target.name)) as transport:
            value = float(measure(transport, target, path, latency_ms))
        store.put_metric(subject, metric, value)
    return value


def _measure_of(metric: Metric) -> MeasureMetric:
    if metric.measure is None:
        raise TargetError(
            "A metric that the architecture alone decides is not measured", found=metric.ABOUT, remedy="Compute it"
        )
    return metric.measure


def reference_subject(target: TargetDescription) -> Subject:
    """Under what the store keeps how long a target's reference model took when the target was first measured."""
    program = reference_program()
    return Subject(
        identity(program), REFERENCE, target, how(None, target.runtime), name=REFERENCE, program=_as_json(program)
    )


def reference_ms(store: Store, target: TargetDescription) -> float | None:
    """What a target's reference model took when the target was first measured; None before it was.

    Another one than before: the target has turned out to be faster than it was then.
    """
    reference = store.get(reference_subject(target))
    return reference.latency_ms if reference else None


def is_busy_throughout(store: Store, target: TargetDescription) -> bool:
    """Whether a target was busy all the time when it was first measured; see `Measurement.busy`."""
    reference = store.get(reference_subject(target))
    return reference is not None and reference.busy


def stale_measurements(store: Store, target: TargetDescription) -> list[Stale]:
    """What the store has of a target that is not used any more, and why: see `Store.stale`."""
    return store.stale(target, reference_ms(store, target), code_differs)


@cache
def reference_program() -> Program:
    """A small network with a bit of everything, 3.4 million MACs."""
    net = Tracer(square(3, 32))
    x = net.conv("first", net.input, 16, kernel_size=3, stride=2, activation="relu")
    x = net.conv("expand", x, 64, activation="relu")
    x = net.depthwise("depthwise", x, kernel_size=3, activation="relu")
    x = net.conv("project", x, 32)
    x = net.conv("mix", x, 32, kernel_size=3, activation="relu")
    net.linear("logits", net.pool("pool", x), 10)
    return net.program


def _measure(
    target: TargetDescription,
    subjects: Sequence[Subject],
    write: Callable[[Sequence[int], Path], tuple[list[Path], Progress]],
    store: Store,
    work_dir: Path | None,
    plan: Plan,
) -> list[Measurement]:
    """Measure what the store lacks.

    Args:
        target: Where to measure.
        subjects: What to measure, without `reference_ms`.
        write: Given positions and a folder, returns the files of these subjects, and whom to tell of the measuring.
        store: Of measurements.
        work_dir: For files; None for the system's folder of temporary files.
        plan: How to measure.
    """
    anchor = reference_subject(target)
    num_before, num_vain, num_faster = len(subjects) + 1, 0, 0
    while num_vain < _MAX_PASSES:
        reference = store.get(anchor)
        own = [replace(one, reference_ms=reference.latency_ms) for one in subjects] if reference else list(subjects)
        found = [store.get(one) for one in own] if reference else [None] * len(own)
        missing = [position for position in _first_positions(own) if found[position] is None]
        if not missing:
            return [measurement for measurement in found if measurement is not None]
        num_vain = num_vain + 1 if len(missing) >= num_before else 0
        num_before = len(missing)
        with _folder(work_dir) as folder:
            paths, progress = write(missing, folder)
            with _writing(folder):
                path = export_program(target, (REFERENCE, reference_program(), "int8"), folder / REFERENCE)
            todo = [own[position] for position in missing]
            own_reference = Reference(path, reference.latency_ms, reference.busy) if reference else Reference(path)
            try:
                _session(target, paths, todo, own_reference, store, plan, progress)
            except FasterReferenceError as error:  # what was measured beside the old one does not hold
                num_faster += 1
                if num_faster == _MAX_PASSES:
                    raise
                store.put(anchor, error.measurement)
            except UnstableSessionError:  # what was quiet is kept; the rest may be by now
                if num_vain == _MAX_PASSES - 1:
                    raise
    raise UnstableSessionError(
        f"The measurements of {target.name} did not hold in {_MAX_PASSES} attempts",
        found="Another process kept changing what its reference model takes",
        remedy="Measure in one process at a time",
    )


def _session(
    target: TargetDescription,
    paths: Sequence[Path],
    subjects: Sequence[Subject],
    reference: Reference,
    store: Store,
    plan: Plan,
    progress: Progress,
) -> None:
    """Measure files in one session; what is measured is stored at once."""
    reference_ms = reference.latency_ms
    num_kept = 0

    def anchored(measurement: Measurement) -> float:
        nonlocal reference_ms
        store.put(reference_subject(target), measurement, replace=False)  # another process may have been faster
        reference_ms = _stored(store, reference_subject(target)).latency_ms
        return reference_ms

    def keep(position: int, measurement: Measurement) -> None:
        nonlocal num_kept
        store.put(replace(subjects[position], reference_ms=reference_ms), measurement)
        num_kept += 1

    def size_bytes(path: Path) -> int:
        opened: Model = RUNTIMES.load(target.runtime).open_model(path)
        return opened.size_bytes

    try:
        measure(target, paths, plan, progress, keep, reference=reference, anchored=anchored, size_bytes=size_bytes)
    except FasterReferenceError:
        raise
    except TargetError as error:
        kind = UnstableSessionError if isinstance(error, UnstableSessionError) else TargetError
        remedy = f"{error.remedy.rstrip('.')}. " if error.remedy else ""
        raise kind(
            error.problem,
            found=error.found,
            remedy=f"{remedy}{num_kept} of {len(paths)} measurements are kept; run it again to go on from there",
        ) from error


def clear_left_behind(work_dir: Path) -> None:
    """Delete the model files that a process left which was killed while it measured."""
    for left_behind in work_dir.glob(f"{_FOLDER}*"):
        shutil.rmtree(left_behind, ignore_errors=True)


@contextmanager
def _folder(work_dir: Path | None) -> Iterator[Path]:
    """A folder for model files, which are removed."""
    with _writing(work_dir or Path(tempfile.gettempdir())):
        if work_dir:
            work_dir.mkdir(parents=True, exist_ok=True)
            clear_left_behind(work_dir)
        folder = tempfile.TemporaryDirectory(dir=work_dir, prefix=_FOLDER, ignore_cleanup_errors=True)
    with folder:
        yield Path(folder.name)


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


def check_sizes(programs: Sequence[tuple[str, Program, Precision]]) -> None:
    """Refuse architectures that no model file holds.

    Args:
        programs: As of `measure_programs`.

    Raises:
        ExportError: One has too many weights.
    """
    for program in programs:
        if (num_weights := _num_weights(program)) > _MAX_WEIGHTS:
            raise ExportError(
                f"The network {program[0]} is too large to be measured",
                found=f"It has {num_weights:,} weights, and a model file holds {_MAX_WEIGHTS:,} at most",
                remedy="Take fewer classes (`num_classes`), or a smaller network",
            )


def _num_weights(program: tuple[str, Program, Precision]) -> int:
    """At least 1."""
    return 1 + sum(math.prod(operator.weight_shape) for operator in program[1] if operator.has_weights)


def export_program(
    target: TargetDescription,
    program: tuple[str, Program, Precision],
    stem: Path,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an architecture with random weights as a model file of the target's runtime.

    Args:
        target: Whose runtime, and whose largest weight code.
        program: (name, program, "int8" or "fp32").
        stem: Path of the file without its suffix.
        metadata: Put into the file beside the name.

    Raises:
        ExportError: The program cannot be written.
    """
    check_sizes([program])
    name, nodes, precision = program
    runtime = RUNTIMES.load(target.runtime)
    path, notes = stem.with_suffix(runtime.SUFFIX), {"name": name, **(metadata or {})}
    if precision == "int8":
        runtime.export_int8(random_integer_graph(nodes, _SEED, target.w_qmax), path, notes)
    else:
        runtime.export_fp32(random_float_graph(nodes, _SEED), path, notes)
    return path


def _never_back(progress: Progress) -> Progress:
    """Leaves out what would be a step back: a second pass may have more to do than the first."""
    best = 0.0

    def advance(done: int, total: int) -> None:
        nonlocal best
        if done >= best * total:
            best = done / max(total, 1)
            progress(done, total)

    return advance


def _second_half(progress: Progress, steps: int) -> Progress:
    def advance(done: int, total: int) -> None:
        progress(steps + done * steps // max(total, 1), 2 * steps)

    return advance


def _first_positions(subjects: Sequence[Subject]) -> list[int]:
    """Position of the first occurrence of every key."""
    first: dict[str, int] = {}
    for position, subject in enumerate(subjects):
        first.setdefault(subject.key, position)
    return list(first.values())


def _stored(store: Store, subject: Subject) -> Measurement:
    measurement = store.get(subject)
    assert measurement is not None
    return measurement


def _as_json(program: Program) -> str:
    """Nodes as objects, without what has its default."""
    return json.dumps(program_to_json(program), separators=(",", ":"))
