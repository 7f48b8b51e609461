"""What a stage of a run is: its inputs, the stages that it needs, how its result is made, kept and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from spaceevo.artifacts import write_atomically
from spaceevo.errors import PluginError
from spaceevo.plugins import Registry
from spaceevo.progress import ProgressCallback
from spaceevo.records import Record, read_record
from spaceevo.report.data import Section
from spaceevo.run.context import Context
from spaceevo.run.planning import Planning, StageWork

T = TypeVar("T")
R = TypeVar("R", bound=Record)


class Artifact(Protocol[T]):
    """How a stage's result becomes files, and comes back."""

    def save(self, value: T, folder: Path) -> list[Path]:
        """Write what lasts; what the work itself has left in the folder needs no writing.

        Args:
            value: The result.
            folder: Of the stage.

        Returns:
            All lasting files, inside the folder.
        """
        ...

    def load(self, folder: Path, context: Context, given: Given) -> T:
        """The result of a finished stage.

        Args:
            folder: Of the stage.
            context: Of the run.
            given: What the stage was given.

        Raises:
            ArtifactError: A file is damaged.
        """
        ...


@dataclass(frozen=True)
class RecordFile(Generic[R]):
    """A result that is one record, kept as one JSON file.

    Attributes:
        name: Of the file.
        record: Its type.
    """

    name: str
    record: type[R]

    def save(self, value: R, folder: Path) -> list[Path]:
        """See `Artifact.save`."""
        write_atomically(folder / self.name, value.model_dump_json(indent=1))
        return [folder / self.name]

    def load(self, folder: Path, context: Context, given: Given) -> R:
        """See `Artifact.load`."""
        return read_record(self.record, folder / self.name)


class Given:
    """The results that a stage is given: those of the stages that it names, each read when it is asked for.

    Args:
        stage: Who asks.
        values: Reads the result of a finished stage.
        with_itself: Whether its own result is there, too.
    """

    def __init__(self, stage: Stage[Any], values: Callable[[Stage[Any]], object], *, with_itself: bool = False) -> None:
        self._values, self._needs = values, needs_of(stage)
        self._stage, self._named = stage, (*self._needs, *stage.through, *((stage,) if with_itself else ()))
        self._read: dict[str, object] = {}

    def __getitem__(self, stage: Stage[T]) -> T:
        """The result of a stage.

        Raises:
            LookupError: It is none of those that are named: what a stage depends on is what it names.
        """
        if stage not in self._named:
            raise LookupError(f"The stage {self._stage.name!r} does not name {stage.name!r} in what it needs")
        if stage.name not in self._read:
            self._read[stage.name] = self._values(stage)
        value: T = self._read[stage.name]  # type: ignore[assignment]
        return value

    @property
    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages that the one which asks needs, gathered ones included, in order."""
        return self._needs

    def sections(self) -> tuple[Section, ...]:
        """What the stages that are given add to the report, in order."""
        return tuple(stage.section(self[stage]) for stage in self._needs if stage.section is not None)

    def notes(self, context: Context) -> tuple[str, ...]:
        """What people should know of the results that are given, in order."""
        found = (stage.notes(context, Given(stage, self._values, with_itself=True)) for stage in self._needs)
        return tuple(note for notes in found for note in notes)


def _pass(context: Context) -> None:
    """Nothing to check."""


def _no_sentence(context: Context) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Checks:
    """What can be told before anything is measured, trained or written, for stages that are wanted and not finished.

    Each raises what is wrong.

    Attributes:
        names: Whether what the recipe names exists; at once, without the data.
        here: Whether this machine has what the stage wants of it.
        elsewhere: Whether the target and the machines of the engine have it.
        data: Whether the images are enough; sentences on settings that ask for more than there is.
        trains: Whether the stage trains networks with the supernet's settings.
    """

    names: Callable[[Context], None] = _pass
    here: Callable[[Context], None] = _pass
    elsewhere: Callable[[Context], None] = _pass
    data: Callable[[Context], Iterable[str]] = _no_sentence
    trains: Callable[[Context], bool] = lambda context: False


def _no_notes(context: Context, given: Given) -> list[str]:
    return []


@dataclass(frozen=True, eq=False)
class Stage(Generic[T]):
    """One stage: a value, the only thing that a file of `stages/` must have (as `STAGE`).

    Attributes:
        name: Of the stage, of its folder and of its verb.
        title: What it does, for people; the file's docstring begins with the verb's help.
        needs: The stages whose results it is given, and whose hashes are part of its own.
        inputs: Everything beside them that the result depends on, JSON-serialisable; by context and own folder.
        make: Does the work, continuing what an interrupted attempt left in its folder: (context, given, folder,
            progress) -> result.
        artifact: How the result is kept.
        files: Patterns of all files that it writes in its folder, finished or not; what else is there is the user's.
        version: Of its code: raised where the same inputs give another result, so that it is made anew.
        through: Further stages whose results it is given: a need of it needs them, so that their changes reach it.
        own_digests: By pattern, files that carry their digests themselves: a function tells whether one that is whole
            lacks some, as earlier versions wrote it, and raises `ArtifactError` for one that is damaged.
        notes: What people should know of the result: (context, what `make` is given and the stage itself) -> sentences.
        checks: What can be told before the run.
        work: What a recipe asks of it, for `spaceevo plan`; None where the recipe does not ask for it, and for a stage
            that takes no time worth planning.
        published: Names of files that are copied to the run folder itself at the end of a run, where people look.
        help_make: What the other processes of `torchrun` do for it; None where the first one needs no help.
        section: What it adds to the report. A stage that has it is part of every whole run.
        gathers: Whether it needs every stage that has a section, too.
    """

    name: str
    title: str
    needs: tuple[Stage[Any], ...]
    inputs: Callable[[Context, Path], Mapping[str, object]]
    make: Callable[[Context, Given, Path, ProgressCallback], T]
    artifact: Artifact[T]
    files: tuple[str, ...]
    version: int = 1
    through: tuple[Stage[Any], ...] = ()
    own_digests: Mapping[str, Callable[[Path], bool]] = field(default_factory=dict)
    notes: Callable[[Context, Given], list[str]] = _no_notes
    checks: Checks = Checks()
    work: Callable[[Planning], StageWork | None] | None = None
    published: tuple[str, ...] = ()
    help_make: Callable[[Context, Given, Path], None] | None = None
    section: Callable[[T], Section] | None = None
    gathers: bool = False


class StageModule(Protocol):
    """A file of `stages/`; the first line of its docstring is the help of its verb."""

    @property
    def STAGE(self) -> Stage[Any]:
        """The stage, whose name is the file's."""
        ...


STAGES = Registry("spaceevo.stages", StageModule)
#: The last stage of a whole run.
LAST = "report"


def load_stage(name: str) -> Stage[Any]:
    """A stage by its name.

    Raises:
        PluginError: There is none, or the file is named otherwise.
    """
    stage = STAGES.load(name).STAGE
    if stage.name != name:
        raise PluginError(
            f"The stage of the file {name!r} is named otherwise",
            found=stage.name,
            remedy="Give both the same name: it is that of the verb and of the folder, too",
        )
    return stage


def all_stages() -> tuple[Stage[Any], ...]:
    """Every stage: those of a whole run in their order, then what it does not need."""
    further = [stage for name in STAGES.names() for stage in in_order(name)]
    return tuple(dict.fromkeys((*in_order(LAST), *further)))


def in_order(until: str) -> tuple[Stage[Any], ...]:
    """A stage and all that it needs, each after what it needs.

    Args:
        until: Name of the last stage.

    Raises:
        PluginError: There is no such stage.
    """
    found: dict[Stage[Any], None] = {}

    def add(stage: Stage[Any]) -> None:
        for need in needs_of(stage):
            add(need)
        found.setdefault(stage)

    add(load_stage(until))
    return tuple(found)


def needs_of(stage: Stage[Any]) -> tuple[Stage[Any], ...]:
    """The stages that a stage needs itself, gathered ones included."""
    if not stage.gathers:
        return stage.needs
    others = (load_stage(name) for name in STAGES.names() if name != stage.name)
    return tuple(dict.fromkeys((*stage.needs, *(other for other in others if other.section is not None))))
