"""The latency predictor of a target outside of any run: fitted, assessed, asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

from spaceevo.artifacts import RunFolder, write_atomically
from spaceevo.errors import EncodingError, SpaceEvoError, TargetError
from spaceevo.measure.campaign import (
    Precision,
)
from spaceevo.ownership import claim_folder
from spaceevo.predict.assess import assess_networks
from spaceevo.predict.batch import BatchPredictor
from spaceevo.predict.fit import fit_networks, fit_subnets, random_pairs
from spaceevo.predict.lists import NamedNetwork
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.progress import ProgressCallback
from spaceevo.records import (
    Predicted,
    PredictorAssessment,
    Record,
    read_record,
)
from spaceevo.spaces.encoding import encode, is_encoding
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.named import named_space, named_subnet
from spaceevo.spaces.subnet import Subnet, network_program
from spaceevo.tools.targets import ASSESSMENT, Device, write_page

HELD, TABLES = 20_000, 8  # networks and tables in memory at a time
LOOK_UP = 500  # a table of a space's blocks takes about as long as so many of its networks one by one


class FitNotes(Record):
    """What a predictor was fitted on.

    Attributes:
        hyperspaces: Names of presets.
        num_fit: Networks in all.
        seed: Drew them.
        num_classes: Number of classes, that is of logits.
        precision: "int8" or "fp32".
    """

    hyperspaces: tuple[str, ...]
    num_fit: int
    seed: int
    num_classes: int
    precision: Precision


def fit_device(
    device: Device,
    hyperspaces: Sequence[str],
    precision: Precision,
    num_fit: int,
    seed: int,
    num_classes: int,
    progress: ProgressCallback,
) -> Path:
    """Measure random networks of hyperspaces and fit a latency predictor on them.

    Args:
        device: Target that is measured or predicted for, with its folder.
        hyperspaces: Names of presets.
        precision: In which the networks are measured or predicted.
        num_fit: Networks in all.
        seed: Decides which networks are drawn.
        num_classes: Number of classes, that is of logits.
        progress: Called as work goes on.

    Returns:
        The predictor's file.

    Raises:
        PluginError: There is no such preset.
        TargetError: The device is lost, or too unstable.
    """
    notes = FitNotes(
        hyperspaces=tuple(hyperspaces), num_fit=num_fit, seed=seed, num_classes=num_classes, precision=precision
    )
    path = predictor_path(device, precision)
    with RunFolder(claim_folder(device.folder, "target", "folder")).locked(), device.store() as store:
        predictor = fit_networks(
            _fit_subnets(notes), device.target, store, device.work_dir, progress, precision=precision
        )
        write_atomically(path, predictor.to_json())
        write_atomically(path.with_suffix(".notes.json"), notes.model_dump_json(indent=1))
    return path


def assess_device(
    device: Device, precision: Precision, num_unseen: int, seed: int, progress: ProgressCallback
) -> PredictorAssessment:
    """Measure networks that the device's predictor has not seen, of every hyperspace that it was fitted on.

    Raises:
        TargetError: There is no predictor, it is of another state of the target, or the device is unstable.
    """
    predictor = load_predictor(device, precision)
    notes = read_record(FitNotes, predictor_path(device, precision).with_suffix(".notes.json"))
    seen = _fit_subnets(notes)
    pairs = [
        pair
        for name in notes.hyperspaces
        for pair in random_pairs(load_hyperspace(name), num_unseen, seed, "assess", notes.num_classes, exclude=seen)
    ]
    with RunFolder(claim_folder(device.folder, "target", "folder")).locked(), device.store() as store:
        found = assess_networks(predictor, pairs, device.target, store, device.work_dir, progress, precision=precision)
        write_atomically(device.folder / ASSESSMENT, found.model_dump_json(indent=1))
        write_page(device)
    return found


def predict_all(
    device: Device, networks: Iterable[NamedNetwork], space: str, num_classes: int, precision: Precision
) -> Iterator[Predicted]:
    """Predict networks with the device's predictor; many of one search space are looked up in a table of its blocks.

    Args:
        device: Target that is measured or predicted for, with its folder.
        networks: Any number: so many are held at a time.
        space: Search space of encodings without one.
        num_classes: Number of classes, that is of logits.
        precision: In which the networks are measured or predicted.

    Yields:
        One for each, in order.

    Raises:
        EncodingError: An encoding is malformed, not in its space, or without one.
        PluginError: There is no such network or hyperspace.
        TargetError: There is no predictor, it is of another state of the target, or it knows nothing about an operator.
    """
    predictor = load_predictor(device, precision)

    @lru_cache(maxsize=TABLES)
    def table(encoding: str) -> BatchPredictor:
        return BatchPredictor(predictor, named_space(encoding, num_classes))

    left = iter(networks)
    while some := list(islice(left, HELD)):
        by_space: dict[str, list[int]] = {}
        for number, one in enumerate(some):
            by_space.setdefault(one.space or (space if is_encoding(one.word) else ""), []).append(number)
        found: dict[int, Predicted] = {}
        for own_space, numbers in by_space.items():
            own = [some[number] for number in numbers]
            if own_space and len(own) >= LOOK_UP and all(is_encoding(one.word) for one in own):
                values = _looked_up(table, own_space, own)
            else:
                values = _predicted(predictor, own_space, num_classes, own)
            for number, (latency_ms, num_outside) in zip(numbers, values, strict=True):
                found[number] = Predicted(name=some[number].text, latency_ms=latency_ms, num_outside=num_outside)
        yield from (found[number] for number in range(len(some)))


def predict_subnets(device: Device, subnets: Iterable[Subnet], precision: Precision) -> Iterator[Predicted]:
    """Predict subnets with the device's predictor.

    Args:
        device: Target that is predicted for, with its folder.
        subnets: Any number.
        precision: In which they are predicted.

    Yields:
        One for each, in order, named by its encoding.

    Raises:
        TargetError: There is no predictor, it is of another state of the target, or it knows nothing about an operator.
    """
    predictor = load_predictor(device, precision)
    for subnet in subnets:
        program = network_program(subnet)
        predictor.prepare(program)
        yield Predicted(
            name=encode(subnet),
            latency_ms=predictor.program_ms(program),
            num_outside=predictor.num_extrapolated(program),
        )


def _looked_up(
    table: Callable[[str], BatchPredictor], space: str, networks: Sequence[NamedNetwork]
) -> Iterable[tuple[float, int]]:
    with _told(networks[0]):
        batch = table(space)
    try:
        rows = batch.decode([one.word for one in networks])
    except EncodingError:
        for one in networks:
            with _told(one):
                batch.decode([one.word])
        raise
    return zip(batch.latencies_ms(rows).tolist(), batch.num_extrapolated(rows).tolist(), strict=True)


def _predicted(
    predictor: LatencyPredictor, space: str, num_classes: int, networks: Sequence[NamedNetwork]
) -> Iterable[tuple[float, int]]:
    programs = []
    for one in networks:
        with _told(one):
            programs.append(network_program(named_subnet(one.word, space, num_classes)))
            predictor.prepare(programs[-1])
    return [(predictor.program_ms(program), predictor.num_extrapolated(program)) for program in programs]


@contextmanager
def _told(network: NamedNetwork) -> Iterator[None]:
    """Put into an error where the network is named."""
    try:
        yield
    except SpaceEvoError as error:
        if not network.where:
            raise
        problem = f"{network.where}: {error.problem}"
        raise type(error)(problem, found=error.found, remedy=error.remedy) from error


def _fit_subnets(notes: FitNotes) -> list[Subnet]:
    each = -(-notes.num_fit // len(notes.hyperspaces))
    return [
        subnet
        for name in notes.hyperspaces
        for subnet in fit_subnets(load_hyperspace(name), each, notes.seed, notes.num_classes)
    ]


def predictor_path(device: Device, precision: Precision) -> Path:
    """The file of a device's predictor."""
    return device.folder / f"predictor-{precision}.json"


def load_predictor(device: Device, precision: Precision) -> LatencyPredictor:
    """The predictor that was fitted for a target as it is now.

    Raises:
        TargetError: There is none, or the target has changed since.
    """
    path, target = predictor_path(device, precision), device.target
    remedy = f"Fit one with: {device.command('fit', precision)}"
    if not path.exists():
        raise TargetError(f"There is no latency predictor for {target.name} at {path}", remedy=remedy)
    predictor = LatencyPredictor.from_json(path.read_text(encoding="utf-8"))
    if predictor.target != target:
        differences = [
            f"{key} was {value}, is {getattr(target, key)}"
            for key, value in predictor.target
            if value != getattr(target, key)
        ]
        raise TargetError(
            f"The target has changed since {path} was fitted", found="; ".join(differences), remedy=remedy
        )
    return predictor
