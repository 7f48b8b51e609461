"""Trained networks: quantized, written for devices, and verified there and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spaceevo.artifacts import RunFolder
from spaceevo.config import run_name
from spaceevo.errors import SpaceEvoError, TargetError
from spaceevo.ownership import at_home, claim_folder, kind_of
from spaceevo.progress import Display, Logged
from spaceevo.records import FolderCheck, Verification
from spaceevo.run.context import note_files
from spaceevo.runtimes import RUNTIMES
from spaceevo.settings import Settings, parse
from spaceevo.tools import handout, quantize as quantization
from spaceevo.tools.handout import HandedOut
from spaceevo.tools.integrity import check_folder
from spaceevo.tools.quantize import FinetuningSettings, InputSettings, QuantizedResult
from spaceevo.tools.weight_source import NetworkSettings
from spaceevo.train.ptq import PtqSettings

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, eq=False)
class QuantizedFiles:
    """A network that was quantized.

    Attributes:
        folder: Of its files, which `verify` and `export` take.
        files: All that is of use: the float and the quantized network, the extracted one, the models, the figures.
        result: Accuracies, and what they were reached with.
    """

    folder: Path
    files: tuple[Path, ...]
    result: QuantizedResult


def quantize(
    weights: Path | str,
    data: Path | str,
    *,
    network: str = "",
    space: str = "",
    resolution: int | None = None,
    image_size: int | None = None,
    flip: bool | None = None,
    target: str = "onnxruntime@local",
    ptq: PtqSettings | Mapping[str, object] | None = None,
    finetuning: FinetuningSettings | Mapping[str, object] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    display: Display | None = None,
) -> QuantizedFiles:
    """Quantize a trained FP32 network: ranges from training images, bias correction, fine-tuning if asked.

    Args:
        weights: A safetensors file with FP32 weights.
        data: A built-in data set, a folder of images, or a recipe whose data are taken.
        network: A name of the zoo, or an encoding; not needed where the file tells it.
        space: Search space of the encoding; hand-made for a baseline's.
        resolution: Input resolution of a network of the zoo, if not its own.
        image_size: Images are brought to this size, in pixels; the resolution without it.
        flip: Mirror images at random in fine-tuning; as the recipe says, else yes.
        target: runtime@transport; decides the largest weight code.
        ptq: Settings of the quantization; `PtqSettings` names them.
        finetuning: LSQ+ after it, for example {"epochs": 2}; none without it.
        seed: All that is random follows from it.
        folder: For all files; runs/quantize-NAME without it. An interrupted fine-tuning goes on there.
        display: Where it tells how it goes; without one, to the logger `spaceevo`.

    Raises:
        SpaceEvoError: Whatever is wrong with the arguments; what is finished is kept.
    """
    which = parse(
        NetworkSettings,
        {"network": network, "weights": str(weights), "space": space, "resolution": resolution},
        "The call of quantize",
    )
    inputs = parse(
        InputSettings,
        {"data": str(data), "image_size": image_size, "flip": flip, "target": target, "seed": seed},
        "The call of quantize",
    )
    name = run_name(Path(weights).stem if space or not network else network)
    settings, steps = _settings(PtqSettings, ptq), _settings(FinetuningSettings, finetuning)
    display = display or Logged()
    claimed = claim_folder(Path(folder or Path("runs") / f"quantize-{name}"), "quantize")
    display.line(f"Output folder: {claimed}")
    with RunFolder(claimed).locked():
        quantized = quantization.quantize(which, inputs, settings, steps, claimed, display)
        result, files = quantization.write(quantized, name, display)
        note_files(quantized.context, [file.relative_to(claimed).as_posix() for file in files])
    return QuantizedFiles(claimed, tuple(files), result)


def _settings(model: type[S], given: S | Mapping[str, object] | None) -> S:
    return given if isinstance(given, model) else parse(model, dict(given or {}), "The call of quantize")


@dataclass(frozen=True, eq=False)
class Failure:
    """A file that was not handed out.

    Attributes:
        network: Path of the extracted network.
        runtime: That it was to be written for.
        error: Why not.
    """

    network: Path
    runtime: str
    error: SpaceEvoError


@dataclass(frozen=True, eq=False)
class Exports:
    """What an export came to.

    Attributes:
        handed_out: The models, each verified.
        failures: What was not handed out.
    """

    handed_out: tuple[HandedOut, ...]
    failures: tuple[Failure, ...]


def export(
    source: Path | str,
    *,
    runtimes: Sequence[str] = (),
    data: Path | str | None = None,
    folder: Path | str | None = None,
    force: bool = False,
    display: Display | None = None,
) -> Exports:
    """Write INT8 models and their FP32 twins for one or more runtimes, and verify each before it is handed out.

    Args:
        source: A run folder, for all its networks; or an extracted network (`.safetensors`).
        runtimes: Names of runtimes; all that are installed without it.
        data: A built-in data set, a folder of images, or a recipe whose data are taken; the run's without it.
        folder: For the files; without it, that of each network.
        force: Overwrite files that spaceevo did not write.
        display: Where it tells how it goes; without one, to the logger `spaceevo`.

    Returns:
        What was handed out, and why other files were not.

    Raises:
        ArtifactError: A network is missing or damaged, or a file is in the way.
        DataError: There is no data, or it has other classes.
        TargetError: A runtime that was named is not installed.
    """
    display = display or Logged()
    networks = handout.networks_of(Path(source))
    names = _installed(runtimes, display)
    handed_out, failures = [], []
    for path in networks:
        home = at_home(Path(folder or path.parent))
        for name in names:
            with display.task(f"{path.stem} for {name}") as progress:
                try:
                    images = None if data is None else str(data)
                    handed_out.append(handout.export_network(path, name, home, images, progress, display.say, force))
                except handout.FAILURES as error:
                    failures.append(Failure(path, name, error))
    return Exports(tuple(handed_out), tuple(failures))


def _installed(wanted: Sequence[str], display: Display) -> list[str]:
    installed = []
    for name in wanted or RUNTIMES.names():
        try:
            RUNTIMES.load(name).version()
            installed.append(name)
        except TargetError as error:
            if wanted:
                raise
            display.say(f"Left out: {error}")
    return installed


@dataclass(frozen=True, eq=False)
class Verified:
    """What a verification came to.

    Attributes:
        models: Each INT8 model against the network that it was exported from.
        folders: Each folder's files against their digests.
    """

    models: tuple[Verification, ...]
    folders: tuple[FolderCheck, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged, and every model computes what was trained."""
        return not any(one.problems for one in self.models) and not any(one.faults for one in self.folders)


def verify(
    *sources: Path | str,
    runtime: str | None = None,
    network: Path | str | None = None,
    data: Path | str | None = None,
    only_files: bool = False,
    display: Display | None = None,
) -> Verified:
    """Check that files of runs are as they were written, and that exported INT8 models compute what was trained.

    Args:
        sources: Run folders, for all their files and models; or INT8 models.
        runtime: Runs the models; without it, the one they were written for.
        network: The extracted network; without it, the one beside the model.
        data: A built-in data set, a folder of images, or a recipe whose data are taken; the run's without it.
        only_files: Check the files of run folders only, which needs no images.
        display: Where it tells how it goes; without one, to the logger `spaceevo`.

    Raises:
        ArtifactError: A file or a network is missing or foreign.
        DataError: There is no data, or it has other classes.
    """
    found = list(
        verifications(
            *sources, runtime=runtime, network=network, data=data, only_files=only_files, display=display or Logged()
        )
    )
    return Verified(
        tuple(one for one in found if isinstance(one, Verification)),
        tuple(one for one in found if isinstance(one, FolderCheck)),
    )


def verifications(
    *sources: Path | str,
    runtime: str | None,
    network: Path | str | None,
    data: Path | str | None,
    only_files: bool,
    display: Display,
) -> Iterator[FolderCheck | Verification]:
    """As `verify`, one by one: first all folders' files, then the models of those that are whole and finished."""
    paths = [Path(source) for source in sources]
    left = []
    for path in paths:
        if path.is_dir() and (only_files or kind_of(path) is not None):
            check = check_folder(path)
            yield check
            if check.faults or only_files or not (path / "export" / "models").is_dir():
                continue
        left.append(path)
    for path in (path for source in left for path in handout.int8_files_of(source)):
        with display.task(path.name) as progress:
            found = handout.verify_file(
                path,
                network=None if network is None else Path(network),
                runtime_name=runtime,
                data=None if data is None else str(data),
                progress=progress,
                say=display.say,
            )
        yield found
