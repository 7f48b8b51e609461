"""Standard streams of any encoding, readers that go away, and how the command line ends."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from spaceevo import plugins
from spaceevo.cli import _terminal, main
from spaceevo.errors import TrainingError

ENCODINGS = ("utf-8", "latin-1", "ascii", "cp1252", "shift_jis")
TEXT = "1.2 – 1.4 ms ± 0.1, 2.1× → 95 %, café, \udce9"


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Standard output and error of an encoding, as Python makes them."""

    def make(encoding: str) -> tuple[io.BytesIO, io.BytesIO]:
        buffers = io.BytesIO(), io.BytesIO()
        for name, buffer in zip(("stdout", "stderr"), buffers, strict=True):
            stream = io.TextIOWrapper(buffer, encoding, errors="strict", write_through=True)
            monkeypatch.setattr(sys, name, stream)
        return buffers

    return make


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes `spaceevo try` do something, and runs it; the exit code."""

    def run(do: Any) -> Any:
        class Verb:
            @staticmethod
            def register(app: typer.Typer) -> None:
                app.callback()(lambda: None)
                app.command("try")(lambda: do())

        monkeypatch.setattr(plugins, "names", lambda _: ["try"])
        monkeypatch.setattr(plugins, "load", lambda *_: Verb)
        monkeypatch.setattr(sys, "argv", ["spaceevo", "try"])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0

    before = signal.getsignal(signal.SIGINT)
    yield run
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_takes_any_text(streams: Any, verb: Any, encoding: str) -> None:
    out, _ = streams(encoding)
    assert verb(lambda: Console().print(TEXT, highlight=False, soft_wrap=True)) == 0
    told = out.getvalue()
    assert b"\xe9" in told, "a file name is told by its own bytes"
    if encoding == "utf-8":
        assert told == TEXT.encode(errors="surrogateescape") + b"\n"
    if encoding == "ascii":
        assert told == b"1.2 - 1.4 ms +- 0.1, 2.1x -> 95 %, caf\\u00e9, \xe9\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_stays_json_in_any_encoding(streams: Any, verb: Any, encoding: str) -> None:
    """Of what an encoding lacks, letters are escaped as JSON does."""
    content = {"name": "Ωmega 😀 \x80"}
    out, _ = streams(encoding)
    assert verb(lambda: typer.echo(json.dumps(content, ensure_ascii=False))) == 0
    told = out.getvalue()
    assert json.loads(told.decode("utf-8" if encoding == "ascii" else encoding)) == content


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_are_told_in_any_encoding(streams: Any, verb: Any, encoding: str) -> None:
    def fail() -> None:
        raise TrainingError(TEXT, found="\x1b]0;title\x07\x1b[1mbold\x1b[0m\x00")

    _, err = streams(encoding)
    assert verb(fail) == 1
    assert err.getvalue().startswith(b"Error: 1.2 ")
    assert err.getvalue().endswith(b" bold.\n")
    assert b"\x1b" not in err.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_run_ends_well_in_any_encoding(tiny: Any, encoding: str, words: list[str]) -> None:
    env = {**tiny.env, "PYTHONIOENCODING": encoding}
    done = tiny.command("run", tiny.recipe, "--out", tiny.folder, *words, env=env, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert '"speedup"' in done.stdout if words else "x" in done.stdout.split("speed-up")[1]


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. Run the same command again"),
        (EOFError("ended too early"), 70, "EOFError: ended too early"),
        (BrokenPipeError(errno.EPIPE, "to a process of ours"), 70, "bug of spaceevo"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (OSError(errno.ELOOP, "Too many levels", "my folder"), 1, "my folder cannot be used. Too many levels."),
        (OSError(errno.EACCES, "Permission denied"), 70, "bug of spaceevo"),
    ],
)
def test_how_it_ends(
    raised: BaseException, code: int, told: str, verb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise raised

    assert verb(fail) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Aborted" not in err


def _start(script: str, **options: Any) -> subprocess.Popen[str]:
    code = f"from spaceevo import plugins\nfrom spaceevo.cli import main\n{script}\nmain()"
    return subprocess.Popen([sys.executable, "-c", code, "zoo"], stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_goes_away() -> None:
    read, write = os.pipe()
    os.close(read)
    with _start("", stdout=write) as process:
        os.close(write)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (141, "")


def test_a_closed_standard_output_is_no_place_for_files(tmp_path: Path) -> None:
    script = f"import atexit, os; os.close(1); atexit.register(lambda: open({str(tmp_path / 'fd')!r}, 'w').write(\n\
        str(open({str(tmp_path / 'own')!r}, 'w').fileno())))"
    with _start(script, stdout=subprocess.DEVNULL) as process:
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (0, "")
    assert int((tmp_path / "fd").read_text()) > 2


def test_control_characters() -> None:
    assert _terminal.without_control("a\tb\nc\x1b[31mred\x1b[0m\x1b]2;x\x1b\\\x9b") == "a\tb\ncred"
