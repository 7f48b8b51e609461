"""A real sshd of this user on the loopback, with a host key and a user's key of its own."""

import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path


def missing() -> str:
    """What is not installed here; "" where nothing is missing."""
    programs = {"sshd": _sshd(), "ssh": shutil.which("ssh"), "ssh-keygen": shutil.which("ssh-keygen")}
    absent = [name for name, path in programs.items() if not path]
    return f"not installed: {', '.join(absent)} (Debian: openssh-server, openssh-client)" if absent else ""


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Loopback:
    """The server, and in `folder/bin` an `ssh` that knows its keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.remote_bin, self.remote_tmp = folder / "remote-bin", folder / "remote-tmp"
        for path in (folder / "bin", self.remote_bin, self.remote_tmp):
            path.mkdir()
        for name in ("host_key", "user_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        self.restore_python()
        _script(folder / "bin/ssh", f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"')
        _script(
            folder / "login",
            f"export PATH={self.remote_bin}:/usr/bin:/bin TMPDIR={self.remote_tmp}\n"
            f'[ -e {folder}/noise ] && cat {folder}/noise\nexec sh -c "$SSH_ORIGINAL_COMMAND"',
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"ForceCommand {folder}/login\n"
        )
        self.trust("host_key")
        self.use_key("user_key")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd parts privileges there
        self.start()

    def start(self) -> None:
        """Listen, and wait until it does."""
        config = str(self.folder / "sshd_config")
        with (self.folder / "sshd.log").open("ab") as log:
            self._server = subprocess.Popen([str(_sshd()), "-D", "-e", "-f", config], stderr=log)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "sshd.log").read_text())

    def stop(self) -> None:
        """Listen no more; connections stay."""
        self._server.terminate()
        self._server.wait()

    @property
    def device(self) -> str:
        """As it follows `ssh:`."""
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def path(self) -> str:
        """A PATH on which this ssh comes first."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def set_python(self, lines: str) -> None:
        """What `python3` does there."""
        _script(self.remote_bin / "python3", lines)

    def restore_python(self, before: str = "") -> None:
        """`python3` is this Python again, after some lines."""
        self.set_python(f'{before}exec {sys.executable} "$@"')

    def set_noise(self, text: str) -> None:
        """What the login prints."""
        (self.folder / "noise").write_text(text)

    def use_key(self, name: str) -> None:
        """What the user has."""
        folder = self.folder
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/{name}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )

    def trust(self, name: str = "") -> None:
        """Whose host key is known; none without a name."""
        text = f"[127.0.0.1]:{self.port} {(self.folder / f'{name}.pub').read_text()}" if name else ""
        (self.folder / "known_hosts").write_text(text)

    def connections(self) -> list[int]:
        """The processes that serve connections."""
        return _children(self._server.pid)

    def connection(self) -> int:
        """The only one."""
        (pid,) = self.connections()
        return pid

    def drop(self) -> None:
        """Kill the processes that serve connections, and wait until they are gone."""
        connections = self.connections()
        assert connections
        for pid in connections:
            os.kill(pid, signal.SIGKILL)
        while set(connections) & set(_children(self._server.pid)):
            time.sleep(0.01)
        time.sleep(0.2)  # the client notices


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = path.parent.name, path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[1]) == parent and rest[0] != "Z":
            found.append(int(pid))
    return found


def _script(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
