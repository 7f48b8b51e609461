"""Devices to test with, and small models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import loopback as ssh_loopback
import pytest
from fake_adb import Phone
from loopback import Loopback

from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Tracer
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.runtimes import RUNTIMES


def write_model(runtime: str, folder: Path, width: int = 8, seed: int = 0) -> Path:
    """A network of two convolutions and a classifier, quantized, in the form of a runtime."""
    net = Tracer(square(3, 16))
    x = net.conv("a", net.input, width, kernel_size=3, activation="relu")
    x = net.pool("pool", net.conv("b", x, width, kernel_size=1, activation="relu"))
    net.linear("classes", x, 4)
    plugin = RUNTIMES.load(runtime)
    path = folder / f"net{width}-{seed}{plugin.SUFFIX}"
    plugin.export_int8(random_integer_graph(net.program, seed, 63), path, {})
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(runtime, width) -> model file, written once."""
    folder, known = tmp_path_factory.mktemp("models"), {}

    def get(runtime: str, width: int = 8) -> Path:
        if (runtime, width) not in known:
            known[runtime, width] = write_model(runtime, folder, width)
        return known[runtime, width]

    return get


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A server for all tests."""
    if reason := ssh_loopback.missing():
        pytest.skip(reason)
    server = Loopback(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture
def loopback(sshd: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The server as it should be, and its ssh on the PATH; afterwards nothing is left there."""
    monkeypatch.setenv("PATH", sshd.path)
    yield sshd
    sshd.trust("host_key")
    sshd.use_key("user_key")
    sshd.set_noise("")
    sshd.restore_python()


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """A phone that is attached, and its adb on the PATH."""
    made = Phone(tmp_path / "phone-and-adb")
    monkeypatch.setenv("PATH", made.path)
    return made
