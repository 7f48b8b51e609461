"""Against a real sshd: faults are told for what they are, and what goes on goes on."""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.measure import target
from spaceevo.measure.transports import Transport, _program, ssh
from spaceevo.runtimes import onnxruntime

RUNTIME = "onnxruntime"
CORES = tuple(sorted(os.sched_getaffinity(0)))


@pytest.fixture
def device(loopback: Loopback) -> Iterator[Transport]:
    connected = ssh.connect(loopback.device)
    yield connected
    connected.close()


def left_there(loopback: Loopback) -> list[Path]:
    """Folders of spaceevo, once programs had a moment to end."""
    for _ in range(100):
        found = list(loopback.remote_tmp.glob("spaceevo-*"))
        if not found:
            break
        time.sleep(0.02)
    return found


def test_it_computes_there_what_it_computes_here(loopback: Loopback, device: Transport, models: Any) -> None:
    assert device.processor() == target.connect("onnxruntime@local").processor()
    assert device.runtime_version(RUNTIME) == onnxruntime.version()
    model = device.load(RUNTIME, models(RUNTIME), 1)
    (folder,) = loopback.remote_tmp.glob("spaceevo-*")
    (file,) = folder.iterdir()
    assert file.read_bytes() == models(RUNTIME).read_bytes()
    again = device.load(RUNTIME, models(RUNTIME), 1)
    assert len(list(folder.iterdir())) == 1
    model.close()
    assert file.exists()
    again.close()
    assert not file.exists()
    device.close()
    assert left_there(loopback) == []


def test_operators_are_those_of_this_machine(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path
) -> None:
    here = target.connect("onnxruntime@local").profile(RUNTIME, models(RUNTIME), 1, 2)
    assert device.profile(RUNTIME, models(RUNTIME), 1, 2).keys() == here.keys()
    (folder,) = loopback.remote_tmp.glob("spaceevo-*")
    assert list(folder.iterdir()) == []
    (tmp_path / "bad.onnx").write_bytes(models(RUNTIME).read_bytes()[:100])
    with pytest.raises(ArtifactError):
        device.profile(RUNTIME, tmp_path / "bad.onnx", 1, 2)


@pytest.mark.parametrize(
    "nodes", ["[]", "7", '[["a", "Conv", "", float("nan")]]', '[["a", "Conv", 0.1]]', "[[1, 2, 3, 4]]"]
)
def test_times_of_operators_that_are_none(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: str
) -> None:
    file = tmp_path / "on_device.py"
    file.write_text(f"{onnxruntime.ON_DEVICE.read_text()}\n\ndef profile(*_, **__):\n    return {nodes}\n")
    monkeypatch.setattr(onnxruntime, "ON_DEVICE", file)
    with pytest.raises(TargetError, match="no times of operators"):
        device.profile(RUNTIME, models(RUNTIME), 1, 2)


def test_what_a_login_prints_does_not_disturb(loopback: Loopback, models: Any) -> None:
    loopback.set_noise('Welcome!\n{"motd": 1}\n[1, 2]\n')
    device = ssh.connect(loopback.device)
    assert device.processor() == target.connect("onnxruntime@local").processor()
    assert device.load(RUNTIME, models(RUNTIME), 1).time(1)
    device.close()


def test_a_python_of_ones_own(loopback: Loopback) -> None:
    own = loopback.remote_bin / "my python3"
    shutil.copy(loopback.remote_bin / "python3", own.with_name("mine"))
    loopback.set_python("exit 1")
    device = ssh.connect(f"{loopback.device}{own.with_name('mine')}")
    assert device.runtime_version(RUNTIME)
    device.close()


def test_a_connection_that_drops_between_requests_is_opened_again(
    loopback: Loopback, device: Transport, models: Any
) -> None:
    small, large = (device.load(RUNTIME, models(RUNTIME, width), 1) for width in (8, 512))
    for _ in range(2):
        loopback.drop()
        assert min(large.time(20)) > min(small.time(20))
    small.close()
    loopback.drop()
    assert device.state().load is not None
    large.close()
    device.close()
    assert left_there(loopback) == []


def test_a_connection_that_drops_in_the_middle_is_told(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _slow_runtime(
        monkeypatch, tmp_path, f"import os, signal; os.kill({loopback.connection()}, signal.SIGKILL); sleep(1)"
    )
    model = device.load(RUNTIME, models(RUNTIME), 1)
    with pytest.raises(TargetError, match="was dropped while it worked"):
        model.time(3)
    # The next request connects anew, and is told again: the connection of that number is gone
    with pytest.raises(TargetError, match="cannot do what it was asked for"):
        model.time(3)
    device.close()
    assert left_there(loopback) == []


def test_a_server_that_is_gone_is_told_and_comes_back(loopback: Loopback, device: Transport, models: Any) -> None:
    model = device.load(RUNTIME, models(RUNTIME), 1)
    connections = loopback.connections()
    loopback.stop()
    for pid in connections:
        os.kill(pid, 9)
    time.sleep(0.3)
    with pytest.raises(TargetError, match="cannot be reached"):
        model.time(1)
    with pytest.raises(TargetError, match="cannot be reached"):
        device.state()
    loopback.start()
    assert len(model.time(2)) == 2


def test_a_model_whose_file_is_gone_is_not_loaded_again(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    shutil.copy(models(RUNTIME), path)
    other = device.load(RUNTIME, models(RUNTIME, 64), 1)
    model = device.load(RUNTIME, path, 1)
    path.unlink()
    loopback.drop()
    for _ in range(2):  # nor is another one timed in its place
        with pytest.raises(ArtifactError, match=r"net\.onnx"):
            model.time(1)
    model.close()
    assert other.time(1)


def _slow_runtime(monkeypatch: pytest.MonkeyPatch, folder: Path, time_body: str) -> None:
    """ONNX Runtime's file, but for `time`."""
    source = onnxruntime.ON_DEVICE.read_text()
    file = folder / "on_device.py"
    file.write_text(f"{source}\n\ndef time(session, repeats):\n    from time import sleep\n    {time_body}\n")
    monkeypatch.setattr(onnxruntime, "ON_DEVICE", file)


def test_a_device_that_hangs_is_told_in_time(
    loopback: Loopback, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "TIMEOUTS", _program.Timeouts(time=0.4))
    _slow_runtime(monkeypatch, tmp_path, "sleep(3)")
    device = ssh.connect(loopback.device)
    model = device.load(RUNTIME, models(RUNTIME), 1)
    start = time.monotonic()
    with pytest.raises(TargetError, match=r"did not answer within 0\.4 s"):
        model.time(1)
    assert time.monotonic() - start < 4
    assert device.state().load is not None  # on a new connection
    device.close()


def test_what_is_no_latency_is_told(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = (
        "None, [0.0], [1.0], ['1', 1.0, 1.0], [float('nan')] * 4, [float('inf')] * 5, [-1.0] * 6, [True] * 7, [1.0] * 8"
    )
    _slow_runtime(monkeypatch, tmp_path, f"return ({answers})[repeats]")
    model = device.load(RUNTIME, models(RUNTIME), 1)
    for repeats in range(8):
        with pytest.raises(TargetError, match="what is no latency"):
            model.time(repeats)
    assert model.time(8) == [1.0] * 8


def test_what_a_runtime_prints_is_no_answer(
    loopback: Loopback, device: Transport, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _slow_runtime(monkeypatch, tmp_path, "print('INFO: hello', flush=True); import os; os.write(1, b'x'); return [1.0]")
    assert device.load(RUNTIME, models(RUNTIME), 1).time(1) == [1.0]


@pytest.mark.parametrize("garbage", ["garbage!", '{"id": 0, "is": [1.0]}', "[1.0]", '{"id": 5}'])
def test_garbage_in_the_middle(
    loopback: Loopback,
    device: Transport,
    models: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    garbage: str,
) -> None:
    """It is passed over, unless it bears the mark of an answer."""
    line = f"{garbage}\n".encode()
    body = (
        "import os, sys; mark = f'<spaceevo {sys.argv[-1]}>'.encode() * (repeats > 1); "
        f"[os.write(fd, mark + {line!r}) for fd in range(3, 10) if os.path.exists(f'/dev/fd/{{fd}}')]; "
        "return [1.0] * repeats"
    )
    _slow_runtime(monkeypatch, tmp_path, body)
    model = device.load(RUNTIME, models(RUNTIME), 1)
    assert model.time(1) == [1.0]
    with pytest.raises(TargetError, match=rf"no answer.*{re.escape(garbage)}"):
        model.time(2)
    assert device.state().load is not None


@pytest.mark.parametrize("cores", [(), CORES[:1], CORES[-1:]])
def test_it_is_pinned_there(
    loopback: Loopback,
    device: Transport,
    models: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: tuple[int, ...],
) -> None:
    _slow_runtime(monkeypatch, tmp_path, "import os; return [1.0 + core for core in sorted(os.sched_getaffinity(0))]")
    model = device.load(RUNTIME, models(RUNTIME), 1, cores)
    assert model.time(len(cores or CORES)) == [1.0 + core for core in cores or CORES]


def test_ssh_is_told_not_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[_program.Place] = []
    monkeypatch.setattr(ssh, "Machine", places.append)
    ssh.connect("pi@board:2222")
    assert "-oBatchMode=yes" in places[0].command
    assert places[0].command[-6:] == ("-p", "2222", "-l", "pi", "--", "board")


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("echo garbage; echo more garbage", r"does not run the program.*Exit code 0: garbage more garbage"),
        ("while echo garbage garbage garbage; do :; done", r"with what is no answer.*garbage"),
        ("head -c 20000000 /dev/zero", r"with what is no answer"),
        ("echo Traceback >&2; exit 1", r"does not run the program.*Exit code 1: Traceback"),
        ("exit 127", r"There is no Python on .*Install Python 3\.8"),
        ("kill -9 $$", r"does not run the program.*Exit code 137"),
    ],
)
def test_a_python_that_is_none(loopback: Loopback, python: str, told: str) -> None:
    loopback.set_python(python)
    with pytest.raises(TargetError, match=told):
        ssh.connect(loopback.device)


def test_no_python(loopback: Loopback) -> None:
    with pytest.raises(TargetError, match=r"There is no Python.*not found.*ssh:host/path/to/python3"):
        ssh.connect(f"{loopback.device}/opt/nothing/python3")


def test_a_login_that_hangs(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "TIMEOUTS", _program.Timeouts(start=0.8))
    loopback.set_python("echo waiting; exec sleep 3")
    with pytest.raises(TargetError, match=r"did not answer within 0\.8 s"):
        ssh.connect(loopback.device)


def test_a_runtime_that_is_not_installed_there(loopback: Loopback, device: Transport, models: Any) -> None:
    loopback.set_python(f'exec {shutil.which("python3", path="/usr/bin:/usr/local/bin") or "/usr/bin/python3"} -S "$@"')
    bare = ssh.connect(loopback.device)
    for attempt in (lambda: bare.runtime_version(RUNTIME), lambda: bare.load(RUNTIME, models(RUNTIME), 1)):
        with pytest.raises(TargetError, match=r"not installed on .*No module named.*Install"):
            attempt()
    bare.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_there(loopback: Loopback, models: Any, tmp_path: Path, number: int) -> None:
    """The program's `open` is replaced there: what it writes to is full."""
    full = tmp_path / "sitecustomize.py"
    full.write_text(
        "import builtins, io, os\nreal = builtins.open\n"
        "class Full(io.RawIOBase):\n"
        "    def writable(self): return True\n"
        f"    def write(self, data): raise OSError({number}, os.strerror({number}))\n"
        "def full_open(path, mode='r', **k):\n"
        "    return Full() if mode == 'wb' and 'spaceevo-' in str(path) and not os.path.exists("
        f"'{tmp_path}/space') else real(path, mode, **k)\n"
        "builtins.open = full_open\n"
    )
    loopback.restore_python(f"export PYTHONPATH={tmp_path}\n")
    device = ssh.connect(loopback.device)
    with pytest.raises(TargetError, match=r"disk of .* is full.*TMPDIR"):
        device.load(RUNTIME, models(RUNTIME), 1)
    (tmp_path / "space").touch()
    assert device.load(RUNTIME, models(RUNTIME), 1).time(1)
    device.close()


def test_a_file_that_the_system_there_does_not_take(loopback: Loopback, models: Any) -> None:
    loopback.restore_python("ulimit -f 1\n")  # no file grows beyond 512 or 1024 bytes
    device = ssh.connect(loopback.device)
    with pytest.raises(TargetError, match=r"disk of .* is full"):
        device.load(RUNTIME, models(RUNTIME, 64), 1)
    assert device.state().load is not None
    device.close()


def test_an_unreachable_host(loopback: Loopback) -> None:
    with pytest.raises(TargetError, match=r"cannot be reached.*refused"):
        ssh.connect("root@127.0.0.1:1")


def test_a_refused_key(loopback: Loopback) -> None:
    loopback.use_key("other_key")
    with pytest.raises(TargetError, match=r"does not let this user in.*Permission denied.*ssh-copy-id.*never asks"):
        ssh.connect(loopback.device)


@pytest.mark.parametrize("known", ["", "other_key"])
def test_a_host_key_that_is_not_known(loopback: Loopback, known: str) -> None:
    loopback.trust(known)
    with pytest.raises(TargetError, match=r"host key of .* is not the known one.*ssh-keygen -R"):
        ssh.connect(loopback.device)


def test_no_ssh(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetError, match="The program ssh cannot be started"):
        ssh.connect(loopback.device)


@pytest.mark.parametrize(
    "device", ["", "@board", "board:", "board:port", "a@b@c", "-oX=1", "-l@board", "a b", "board:22:33"]
)
def test_what_names_no_machine(device: str) -> None:
    with pytest.raises(TargetError, match="ssh:"):
        ssh.connect(device)


def test_names_of_machines() -> None:
    assert ssh.parse("board") == ssh.Login("", "board", "", "python3")
    assert ssh.parse("pi@10.0.0.7:2222") == ssh.Login("pi", "10.0.0.7", "2222", "python3")
    assert ssh.parse("pi@[fe80::1%eth0]:22").host == "fe80::1%eth0"
    assert ssh.parse("board/opt/bin/python3.12").python == "/opt/bin/python3.12"
    assert target.parse("onnxruntime@ssh:pi@board:2222").device == "pi@board:2222"
