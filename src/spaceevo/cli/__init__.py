"""The command line: one file per verb, and one verb per stage of the pipeline.

A verb is a module with `register(app)`; heavy imports wait until it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer
from rich.console import Console

from spaceevo import interrupts, plugins
from spaceevo.errors import EXIT_BUG, SpaceEvoError


def main() -> None:
    """Run the command line; expected errors are told in one paragraph, without a traceback."""
    # Torch's threads wait for each other by spinning. On a busy machine a long spin makes every step many times
    # slower, and a short spin is enough. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    interrupts.remember()
    app = typer.Typer(
        help="Find, train and export the INT8 image classifiers that your device runs best.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for verb in plugins.names("spaceevo.cli"):
        plugins.load("spaceevo.cli", verb).register(app)
    console = Console(stderr=True)
    try:
        app(prog_name="spaceevo")
    except SpaceEvoError as error:
        console.print(f"[bold red]Error:[/bold red] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            console.print("Interrupted. Run the same command again to go on where it stood.")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        console.print(_escaped(traceback.format_exc()), highlight=False, soft_wrap=True)
        console.print("This is a bug of spaceevo. Please report it with the lines above.")
        sys.exit(EXIT_BUG)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
