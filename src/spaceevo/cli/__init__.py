"""The command line: one file per verb, and one verb per stage of a run."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from typing import Any, Protocol

import typer
from rich.console import Console
from typer.core import TyperGroup

from spaceevo import interrupts
from spaceevo.cli import _terminal
from spaceevo.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_NO_READER, NoSpaceError, SpaceEvoError, StorageError
from spaceevo.plugins import Registry

#: What is wrong with a path, not with the program.
_UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS)


class Verb(Protocol):
    """A module of this folder; heavy imports wait until it runs, so that `--help` answers at once."""

    def register(self, app: typer.Typer) -> None:
        """Add the verb."""
        ...


VERBS = Registry("spaceevo.cli", Verb)


def main() -> None:
    """Run the command line; expected errors are told in one paragraph, without a traceback."""
    # Torch's threads wait for each other by spinning. On a busy machine a long spin makes every step many times
    # slower, and a short spin is enough. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _terminal.prepare()
    console = Console(stderr=True)
    try:
        interrupts.remember()
        _verbs()(prog_name="spaceevo")
    except (KeyboardInterrupt, SystemExit) as end:  # typer ends with a code, also where the reader is gone
        code = end.code if isinstance(end, SystemExit) else EXIT_INTERRUPTED
        if not _terminal.has_reader(end.__context__):
            code = EXIT_NO_READER
        elif code == EXIT_INTERRUPTED:
            console.print("Interrupted. Run the same command again to go on where it stood.")
        sys.exit(code)
    except Exception as raised:
        error = raised.__cause__ if isinstance(raised, _Raised) else raised
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Make room, then run the same command again: what is finished is kept"
            error = NoSpaceError("What should be written has no room", found=str(error), remedy=remedy)
        elif isinstance(error, OSError) and isinstance(error.filename, str) and error.errno in _UNUSABLE:
            found, remedy = error.strerror or "", "Check the path, and who may read and write there"
            error = StorageError(f"{error.filename} cannot be used", found=found, remedy=remedy)
        if isinstance(error, SpaceEvoError):
            told = _escaped(in_options(error))
            console.print(f"[bold red]Error:[/bold red] {told}", highlight=False, soft_wrap=True)
            sys.exit(error.exit_code)
        console.print(_escaped("".join(traceback.format_exception(error))), highlight=False, soft_wrap=True)
        console.print("This is a bug of spaceevo. Please report it with the lines above.")
        sys.exit(EXIT_BUG)


class _Raised(Exception):
    """What a verb raised, where typer would take it for something else.

    That is a file which ends too early, for Ctrl-D, or a lost process, for the reader of the output.
    """


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (EOFError, BrokenPipeError) as error:
            if isinstance(error, BrokenPipeError) and _terminal.reader_is_gone():
                raise
            raise _Raised from error


def _verbs() -> typer.Typer:
    app = typer.Typer(
        cls=_Verbs,
        help="Find, train and export the INT8 image classifiers that your device runs best.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for verb in VERBS.names():
        VERBS.load(verb).register(app)
    return app


#: Settings that remedies name, by the options that stand for them.
_OPTIONS = {
    "place": "--out",
    "folder": "--folder",
    "data": "--data",
    "network": "--network",
    "space": "--space",
    "resolution": "--resolution",
    "num_classes": "--num-classes",
    "file": "--file",
    "force": "--force",
    "fp32": "--fp32",
}


def in_options(error: SpaceEvoError) -> str:
    """An error with the options of the command line where its remedy names settings.

    >>> in_options(NoSpaceError("The disk is full", remedy="Choose another folder with `place`"))
    'The disk is full. Choose another folder with --out.'
    """
    remedy = re.sub(r"`(\w+)`", lambda word: _OPTIONS.get(word[1], word[0]), error.remedy)
    return str(SpaceEvoError(error.problem, found=error.found, remedy=remedy))


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(_terminal.without_control(text))
