"""Devices to test with, and small models."""

from collections.abc import Iterator
from pathlib import Path

import loopback as ssh_loopback
import pytest
from fake_adb import Phone
from loopback import Loopback

from spaceevo.testing.transports import Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """(runtime, width) -> model file, written once."""
    return Models(tmp_path_factory.mktemp("models"))


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
