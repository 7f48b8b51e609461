"""Logins that print anything, and shells of any kind: answers are found among it."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from spaceevo.errors import TargetError
from spaceevo.measure.transports import _program, ssh

NOISE = {
    "nothing": b"",
    "a title": b"\x1b]0;pi@box\x07",
    "a prompt": b"pi@box:~$ ",
    "whole lines": b"Welcome!\r\nLast login: today\r\n",
    "JSON": b'{"spaceevo": "3.12.0", "machine": "riscv64", "cores": [9]}\n{"id": 1, "is": "7"}',
    "a mark of another": b'<spaceevo 0123456789abcdef>{"spaceevo": "3.12.0"}\n',
    "the beginning of a mark": b"<spaceevo ",
    "no UTF-8": b"\xff\xfe\x00caf\xe9\n\xc3",
    "a long line": b"x" * 300_000,
    "many lines": b"- news -\n" * 20_000,
}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine behind an `ssh` that prints some bytes, then hands the command to a shell."""

    def script(name: str, lines: str) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def connect(noise: bytes, before: str = "") -> Any:
        (tmp_path / "noise").write_bytes(noise)
        script("ssh", f'while [ "$1" != -- ]; do shift; done; shift 2\ncat {tmp_path}/noise\n{before}\nexec sh -c "$*"')
        return ssh.connect("box")

    script("python3", f'exec {sys.executable} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return connect


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_whatever_a_login_prints(box: Any, noise: bytes) -> None:
    device = box(noise)
    processor = device.processor()
    assert (processor.machine, processor.cores) == (os.uname().machine, os.sched_getaffinity(0))
    device.close()


@pytest.mark.parametrize(
    "before",
    [
        'echo "+ $*"',
        'printf "%s\\r\\n%s" "$*" "$*"',
        'echo "$*" >&2',
        "(sleep 0.3; echo You have new mail) &",
        "exec 5>&1; (while echo chatter; do sleep 0.01; done) &",
    ],
    ids=["echoes the command", "echoes it twice", "on standard error", "between answers", "all the time"],
)
def test_shells_that_print_meanwhile(box: Any, before: str) -> None:
    device = box(b"", before)
    for _ in range(20):
        assert device.processor().cores == os.sched_getaffinity(0)
        assert device.state().load is not None
    device.close()


def test_a_login_that_never_ends_printing(box: Any) -> None:
    with pytest.raises(TargetError, match=r"with what is no answer.*chatter"):
        box(b"", "while echo chatter chatter chatter chatter chatter chatter chatter chatter chatter; do :; done")


MARK = b"<spaceevo 77>"


@given(st.lists(st.sampled_from([b"<", MARK[:-1], b"spaceevo 77>", b"\n", b"x", b"<spaceevo 78>{}\n"])), st.data())
@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_answer_is_found_however_its_bytes_arrive(noise: list[bytes], data: st.DataObject) -> None:
    """Unless the noise is a mark itself, by chance of one in 2**64."""
    channel = object.__new__(_program.Channel)
    channel._mark, channel._unread, channel._noise, channel._num_noise = MARK, b"", b"", 0
    before = b"".join(noise).replace(MARK, b"")
    stream = before + MARK + b'{"id": 1}\nmore'
    while stream:
        assert (found := channel._found()) is None
        size = data.draw(st.integers(1, len(stream)))
        channel._unread, stream = channel._unread + stream[:size], stream[size:]
        if (found := channel._found()) is not None:
            assert found == b'{"id": 1}'
            assert channel._num_noise == len(before)
            return
    raise AssertionError("not found")
