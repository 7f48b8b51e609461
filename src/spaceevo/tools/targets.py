"""A target outside of any run: described, measured, studied, with a latency predictor of its own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from spaceevo.artifacts import RunFolder, write_atomically
from spaceevo.errors import TargetError
from spaceevo.measure.campaign import (
    Precision,
    check_sizes,
    export_program,
    is_busy_throughout,
    measure_files,
    measure_metric_of_file,
    measure_programs,
    stale_measurements,
)
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.measure.study import study
from spaceevo.measure.target import connect, describe
from spaceevo.ownership import at_home, claim_folder
from spaceevo.processors import profile_of
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import (
    MachineState,
    Measured,
    Measurement,
    PredictorAssessment,
    R,
    Record,
    Study,
    TargetDescription,
    read_record,
)
from spaceevo.report.html import render_target
from spaceevo.runtimes import RUNTIMES
from spaceevo.runtimes._models import MODEL_SUFFIXES
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.named import named_subnet
from spaceevo.spaces.subnet import Subnet, network_program

TARGETS = Path("targets")
_Network = tuple[Subnet, Precision]
STUDY, ASSESSMENT, PAGE = "study.json", "assessment.json", "target.html"


@dataclass(frozen=True)
class Device:
    """A target and the folder of what is known about it.

    Attributes:
        target: The target as it is now.
        folder: With the measurements, the study, the predictor and its assessment, and a page that shows them.
    """

    target: TargetDescription
    folder: Path

    @property
    def store_path(self) -> Path:
        """The file of its measurements."""
        return self.folder / "measurements.sqlite"

    def store(self) -> Store:
        """Its measurements."""
        return Store(self.store_path)

    @property
    def work_dir(self) -> Path:
        """For files that are needed for a while only."""
        return self.folder / "work"

    def command(self, verb: str, precision: Precision) -> str:
        """What a user types to do something with it, as `spaceevo target fit`."""
        name, threads, cores = self.target.name, self.target.threads, self.target.cores
        words = ["spaceevo", "target", verb, name]
        words += ["--fp32"] if precision == "fp32" else []
        words += ["--threads", str(threads)] if threads > 1 else []
        words += ["--cores", ",".join(map(str, cores))] if cores else []
        words += ["--folder", str(self.folder)] if self.folder != _folder_of(name, threads, cores) else []
        return shlex.join(words)


def open_device(name: str, threads: int, cores: Sequence[int], folder: Path | None) -> Device:
    """The device behind the name of a target.

    Args:
        name: runtime@transport or runtime@transport:device.
        threads: Threads that the runtime may use.
        cores: Logical cores that it is pinned to.
        folder: Of what is known about it; without it, one under `targets/` named after all three.

    Raises:
        TargetError: The device cannot be reached.
        PluginError: There is no such runtime or transport.
    """
    return Device(describe(name, threads, cores), at_home(folder or _folder_of(name, threads, cores)))


def _folder_of(name: str, threads: int, cores: Sequence[int]) -> Path:
    words = [name.replace("/", "-"), *([f"{threads}-threads"] if threads > 1 else [])]
    words += [f"cores-{'-'.join(map(str, cores))}"] if cores else []
    return TARGETS / "_".join(words)


class About(Record):
    """A target, its state, and what was measured there.

    Attributes:
        target: Device, runtime, threads and cores.
        profile: Of its processor, see docs/quantization.md.
        num_cores: Logical cores.
        state: Load, frequency and temperature now.
        num_measurements: In its folder, those of this target as it is now.
        busy: Whether it was busy all the time when it was first measured; see `Measurement.busy`.
        stale: Sentences about those that are not.
    """

    target: TargetDescription
    profile: str
    num_cores: int
    state: MachineState
    num_measurements: int
    busy: bool
    stale: tuple[str, ...]


def describe_device(device: Device) -> About:
    """What a target is.

    Raises:
        TargetError: It cannot be reached.
        ArtifactError: Its measurements cannot be read.
    """
    target = device.target
    with closing(connect(target.name)) as transport:
        processor, state = transport.processor(), transport.state(target.cores)
    num_measurements, busy = 0, False
    stale: tuple[str, ...] = ()
    if device.store_path.exists():
        with device.store() as store:
            old = stale_measurements(store, target)
            num_measurements, stale = len(store) - sum(one.count for one in old), tuple(map(str, old))
            busy = is_busy_throughout(store, target)
    return About(
        target=target,
        profile=profile_of(target.machine, target.flags).name,
        num_cores=processor.num_cores,
        state=MachineState(**asdict(state)),
        num_measurements=num_measurements,
        busy=busy,
        stale=stale,
    )


def export_measurements(device: Device, path: Path) -> None:
    """Write all measurements of a device's folder as parquet.

    Raises:
        NoSpaceError: The file cannot be written.
    """
    with device.store() as store:
        store.export_parquet(path, device.target.name)


def measure_all(
    device: Device,
    names: Sequence[str],
    space: str,
    num_classes: int,
    precisions: Sequence[Precision],
    metrics: Sequence[str],
    progress: ProgressCallback,
) -> list[Measured]:
    """Measure model files, networks of the zoo and encodings.

    Args:
        device: Target that is measured or predicted for, with its folder.
        names: What: paths of model files, names of the zoo, encodings.
        space: Search space of the encodings.
        num_classes: Number of classes that networks have logits for.
        precisions: Of the networks, which have random weights; a file is what it is.
        metrics: Names of further metrics.
        progress: Called as work goes on.

    Raises:
        ArtifactError: A file is missing or damaged.
        EncodingError: An encoding is malformed, or not in the space.
        ExportError: A network has more weights than a file holds.
        TargetError: The device is lost, or unstable. A metric that it cannot tell is `missing`.
    """
    for metric in metrics:
        METRICS.load(metric)  # an unknown one is told before anything is measured
    files = [name for name in names if is_file(name, device.target.runtime)]
    subnets = {name: named_subnet(name, space, num_classes) for name in names if name not in files}
    jobs = [(name, network_program(subnet), precision) for name, subnet in subnets.items() for precision in precisions]
    check_sizes(jobs)
    with RunFolder(claim_folder(device.folder, "target", "folder")).locked(), device.store() as store:
        own = measure_files(device.target, [Path(name) for name in files], store, Plan(), part(progress, 0, 0.4))
        networks = measure_programs(device.target, jobs, store, device.work_dir, Plan(), part(progress, 0.4, 0.8))
        rows: list[tuple[str, _Network | None, Measurement]] = []
        rows += [(name, None, one) for name, one in zip(files, own, strict=True)]
        rows += [(name, (subnets[name], p), one) for (name, _, p), one in zip(jobs, networks, strict=True)]
        found = []
        for number, (name, network, measurement) in enumerate(rows):
            values = {
                metric: _value(device, metric, name, network, store, measurement.latency_ms) for metric in metrics
            }
            told = {metric: value for metric, value in values.items() if not isinstance(value, str)}
            missing = {metric: value for metric, value in values.items() if isinstance(value, str)}
            batch = 1 if network else RUNTIMES.load(device.target.runtime).open_model(Path(name)).batch
            found.append(
                Measured(
                    name=name,
                    precision=network[1] if network else "file",
                    measurement=measurement,
                    batch=batch,
                    ms_per_image=measurement.latency_ms / batch,
                    metrics=told,
                    missing=missing,
                )
            )
            part(progress, 0.8, 1)(number + 1, len(rows))
    return found


def profile(
    device: Device, name: str, space: str, num_classes: int, precision: Precision, repeats: int
) -> dict[str, float]:
    """Milliseconds per operator of a model file or a network, in the context of the whole, as the runtime counts.

    Raises:
        ArtifactError: The runtime refuses the file.
        EncodingError: An encoding is malformed, or not in the space.
        TargetError: The device is lost, or the runtime has no such counters there, or counted nothing.
    """
    target = device.target
    network = None if is_file(name, target.runtime) else (named_subnet(name, space, num_classes), precision)
    with _model(device, name, network) as path, closing(connect(target.name)) as transport:
        times = transport.profile(target.runtime, path, target.threads, repeats)
    if not sum(times.values()) > 0:
        raise TargetError(
            f"{target.runtime} counts no time in the operators of {name}",
            found="Each takes less than it counts in, a microsecond",
            remedy="Measure the model as a whole with: spaceevo measure",
        )
    return times


def study_device(
    device: Device, hyperspace: str, widths: Sequence[int], sizes: Sequence[int], progress: ProgressCallback
) -> Study:
    """Which operators, widths and block types gain from INT8.

    Raises:
        TargetError: The device is lost, or too unstable.
    """
    with RunFolder(claim_folder(device.folder, "target", "folder")).locked(), device.store() as store:
        found = study(
            device.target,
            store,
            device.work_dir,
            hyperspace=load_hyperspace(hyperspace),
            widths=widths,
            sizes=sizes,
            progress=progress,
        )
        write_atomically(device.folder / STUDY, found.model_dump_json(indent=1))
        write_page(device)
    return found


def page_of(device: Device) -> Path:
    """The page that shows what is known about a device."""
    return device.folder / PAGE


def write_page(device: Device) -> None:
    """Write the page of what is known about a device: its study, and the assessment of its predictor."""

    def known(record: type[R], name: str) -> R | None:
        path = device.folder / name
        return read_record(record, path) if path.exists() else None

    study_, assessment = known(Study, STUDY), known(PredictorAssessment, ASSESSMENT)
    write_atomically(page_of(device), render_target(device.target, study_, assessment))


def is_file(name: str, runtime: str) -> bool:
    """Whether a name is that of a model file, be it there or not, and no network's."""
    suffixes = (*MODEL_SUFFIXES, RUNTIMES.load(runtime).SUFFIX)
    return os.path.isfile(name) or os.sep in name or name.endswith(suffixes)


@contextmanager
def _model(device: Device, name: str, network: _Network | None) -> Iterator[Path]:
    """A model file: the one of that name, or a network's with random weights, for a while."""
    if network is None:
        yield Path(name)
        return
    subnet, precision = network
    device.work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=device.work_dir) as folder:
        program = (name, network_program(subnet), precision)
        yield export_program(device.target, program, Path(folder) / "model")


def _value(
    device: Device, metric: str, name: str, network: _Network | None, store: Store, latency_ms: float
) -> float | str:
    """The value, or why there is none."""
    room = METRICS.load(metric)
    if room.measure is None:
        if network is None:
            return "What an architecture alone decides is told of networks that are named, not of files"
        subnet, precision = network
        return float(sum(room.features(subnet))) * (1 if precision == "int8" else 4)
    try:
        with _model(device, name, network) as path:
            return measure_metric_of_file(device.target, metric, path, store, latency_ms)
    except TargetError as error:
        return str(error)
