"""A target outside of any run: described, measured, studied, with a latency predictor of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from spaceevo import plugins
from spaceevo.artifacts import RunFolder, write_atomically
from spaceevo.errors import ArtifactError, EncodingError, TargetError
from spaceevo.measure.campaign import (
    Precision,
    export_program,
    measure_files,
    measure_programs,
    stale_measurements,
)
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.session import Plan
from spaceevo.measure.store import Store
from spaceevo.measure.study import study
from spaceevo.measure.target import RUNTIMES, connect, describe, parse
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import (
    MachineState,
    Measured,
    Measurement,
    PredictorAssessment,
    Record,
    Study,
    TargetDescription,
    read_record,
)
from spaceevo.report.html import render_target
from spaceevo.runtimes import profile_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.named import named_subnet
from spaceevo.spaces.operators import operators
from spaceevo.spaces.subnet import Subnet, network_layers

TARGETS = Path("targets")
STUDY, PREDICTOR, ASSESSMENT, PAGE = "study.json", "predictor.json", "assessment.json", "target.html"


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
    target = describe(name, threads, cores)
    words = [name.replace("/", "-"), *([f"{threads}-threads"] if threads > 1 else [])]
    words += [f"cores-{'-'.join(map(str, cores))}"] if cores else []
    return Device(target, folder or TARGETS / "_".join(words))


class About(Record):
    """A target, its state, and what was measured there.

    Attributes:
        target: The target.
        profile: Of its processor, see docs/quantization.md.
        num_cores: Logical cores.
        state: Now.
        num_measurements: In its folder, those of this target as it is now.
        stale: Sentences about those that are not.
    """

    target: TargetDescription
    profile: str
    num_cores: int
    state: MachineState
    num_measurements: int
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
    num_measurements, stale = 0, ()
    if device.store_path.exists():
        with device.store() as store:
            old = stale_measurements(store, target)
            num_measurements, stale = len(store) - sum(one.count for one in old), tuple(map(str, old))
    return About(
        target=target,
        profile=profile_of(target.machine, target.flags).name,
        num_cores=processor.num_cores,
        state=MachineState(**asdict(state)),
        num_measurements=num_measurements,
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
        device: Where.
        names: What: paths of model files, names of the zoo, encodings.
        space: Search space of the encodings.
        num_classes: Of the networks.
        precisions: Of the networks, which have random weights; a file is what it is.
        metrics: Names of further metrics.
        progress: Called as work goes on.

    Raises:
        ArtifactError: A file is missing or damaged.
        EncodingError: An encoding is malformed, or not in the space.
        TargetError: The device is lost, or unstable. A metric that it cannot tell is `missing`.
    """
    rooms = {name: plugins.load(METRICS, name) for name in metrics}
    files = [name for name in names if _is_file(name, device.target.runtime)]
    subnets = {name: named_subnet(name, space, num_classes) for name in names if name not in files}
    jobs = [
        (name, operators(network_layers(subnet)), precision)
        for name, subnet in subnets.items()
        for precision in precisions
    ]
    with RunFolder(device.folder).locked(), device.store() as store:
        own = measure_files(device.target, [Path(name) for name in files], store, Plan(), part(progress, 0, 0.4))
        networks = measure_programs(device.target, jobs, store, device.work_dir, Plan(), part(progress, 0.4, 0.8))
        rows: list[tuple[str, str, Measurement]] = []
        rows += [(name, "file", one) for name, one in zip(files, own, strict=True)]
        rows += [(name, precision, one) for (name, _, precision), one in zip(jobs, networks, strict=True)]
        found = []
        for number, (name, precision, measurement) in enumerate(rows):
            values = {
                metric: _value(device, room, name, precision, subnets.get(name), measurement.latency_ms)
                for metric, room in rooms.items()
            }
            told = {metric: value for metric, value in values.items() if not isinstance(value, str)}
            missing = {metric: value for metric, value in values.items() if isinstance(value, str)}
            one = Measured(name=name, precision=precision, measurement=measurement, metrics=told, missing=missing)
            found.append(one)
            part(progress, 0.8, 1)(number + 1, len(rows))
    return found


def profile(
    device: Device, name: str, space: str, num_classes: int, precision: Precision, repeats: int
) -> dict[str, float]:
    """Milliseconds per operator of a model file or a network, in the context of the whole, as the runtime counts.

    Raises:
        TargetError: The device is another machine, or the runtime has no such counters.
    """
    target = device.target
    if parse(target.name).transport != "local":
        raise TargetError(
            f"Operators can be profiled on this machine only, not on {target.name}",
            remedy=f"Run spaceevo on the device itself, with {target.runtime}@local",
        )
    subnet = None if _is_file(name, target.runtime) else named_subnet(name, space, num_classes)
    with _model(device, name, precision, subnet) as path:
        times: dict[str, float] = plugins.load(RUNTIMES, target.runtime).profile(path, repeats, target.threads)
    return times


def study_device(
    device: Device, hyperspace: str, widths: Sequence[int], sizes: Sequence[int], progress: ProgressCallback
) -> Study:
    """Which operators, widths and block types gain from INT8.

    Raises:
        TargetError: The device is lost, or too unstable.
    """
    with RunFolder(device.folder).locked(), device.store() as store:
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
        _write_page(device)
    return found


def page_of(device: Device) -> Path:
    """The page that shows what is known about a device."""
    return device.folder / PAGE


def _write_page(device: Device) -> None:
    study_, assessment = (
        read_record(record, device.folder / name) if (device.folder / name).exists() else None
        for record, name in ((Study, STUDY), (PredictorAssessment, ASSESSMENT))
    )
    write_atomically(page_of(device), render_target(device.target, study_, assessment))


def _is_file(name: str, runtime: str) -> bool:
    return name.endswith(plugins.load(RUNTIMES, runtime).SUFFIX) or Path(name).is_file()


@contextmanager
def _model(device: Device, name: str, precision: str, subnet: Subnet | None) -> Iterator[Path]:
    """A model file: the one of that name, or a network's with random weights, for a while."""
    if subnet is None:
        yield Path(name)
        return
    device.work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=device.work_dir) as folder:
        yield export_program(
            device.target, (name, operators(network_layers(subnet)), precision), Path(folder) / "model"
        )


def _value(
    device: Device, metric: ModuleType, name: str, precision: str, subnet: Subnet | None, latency_ms: float
) -> float | str:
    """The value, or why there is none."""
    if not metric.DEVICE:
        if subnet is None:
            return "What an architecture alone decides is told of networks that are named, not of files"
        return float(sum(metric.features(subnet))) * (1 if precision == "int8" else 4)
    try:
        with _model(device, name, precision, subnet) as path, closing(connect(device.target.name)) as transport:
            return float(metric.measure(transport, device.target, path, latency_ms))
    except TargetError as error:
        return str(error)


def named_networks(names: Sequence[str], file: Path | None, space: str, num_classes: int) -> dict[str, Subnet]:
    """Networks by the words that name them.

    Args:
        names: Of the zoo, or encodings.
        file: With more of them, one per line; a line may have a search space, a blank and an encoding.
        space: Search space of encodings without one.
        num_classes: Of their logits.

    Raises:
        EncodingError: An encoding is malformed, not in its space, or without one; or there are no networks.
        ArtifactError: The file cannot be read.
    """
    lines = list(names)
    if file is not None:
        try:
            lines += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"The list of networks {file} cannot be read", found=str(error)) from error
    if not lines:
        raise EncodingError("There are no networks to predict", remedy="Name some, or give a list with --file FILE")
    found = {}
    for line in lines:
        words = line.split()
        found[line] = named_subnet(words[-1], words[0] if len(words) > 1 else space, num_classes)
    return found
