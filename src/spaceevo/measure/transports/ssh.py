"""A Linux machine behind the system's `ssh`, with Python and the runtime's package: `runtime@ssh:[user@]host[:port]`.

Keys, aliases and jump hosts are those of the user's own configuration of ssh, where the host may be an alias.
`runtime@ssh:host/path/to/python` names the Python to run there, for example that of a virtual environment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spaceevo.errors import TargetError
from spaceevo.measure.transports import Transport
from spaceevo.measure.transports._program import Machine, Place, Timeouts

TIMEOUTS = Timeouts()
_DEVICE = re.compile(
    r"(?:(?P<user>[^@/\s]+)@)?(?P<host>\[[^\]\s]+\]|[^@:/\s\[\]]+)(?::(?P<port>\d+))?(?P<python>/\S+)?"
)
#: What ssh says, what it means, what to do.
_REASONS = (
    (
        r"identification has changed|host key verification failed|no .*host key is known",
        "The host key of {host} is not the known one",
        "Look whether it is the right machine. A new one: connect by hand once, with 'ssh {host}'; one that was set up"
        " anew: remove its old key first, with 'ssh-keygen -R HOST'",
    ),
    (
        r"permission denied|too many authentication failures|no supported authentication",
        "{host} does not let this user in",
        "Give it a key, with 'ssh-copy-id {host}' (one with a passphrase must be in ssh-agent): spaceevo never asks for"
        " a password",
    ),
    (
        r"could not resolve|connection refused|timed out|timeout|no route to host|unreachable|connection closed"
        r"|connection reset|name or service|bad configuration|kex_exchange",
        "{host} cannot be reached",
        "Look whether it is on and 'ssh {host}' works",
    ),
)


def connect(device: str) -> Transport:
    """The machine that `device` names, as [user@]host[:port], and the path of a Python after it.

    Raises:
        TargetError: Malformed, unreachable, does not let the user in, or has no Python.
    """
    login = parse(device)
    options = {
        "BatchMode": "yes",  # never asks
        "ConnectTimeout": "15",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ClearAllForwardings": "yes",
        "LogLevel": "ERROR",
    }
    words = ["ssh", "-T", *(f"-o{name}={value}" for name, value in options.items())]
    words += ["-p", login.port] if login.port else []
    words += ["-l", login.user] if login.user else []
    where = device.partition("/")[0]
    place = Place(where, (*words, "--", login.host), login.python, lambda code, said: _why(where, code, said), TIMEOUTS)
    return Machine(place)


@dataclass(frozen=True, slots=True)
class Login:
    """Where to log in; empty parts are left to ssh."""

    user: str
    host: str
    port: str
    python: str


def parse(device: str) -> Login:
    """Take [user@]host[:port][/path/to/python] apart.

    Raises:
        TargetError: Malformed.

    >>> parse("pi@board:2222/opt/venv/bin/python")
    Login(user='pi', host='board', port='2222', python='/opt/venv/bin/python')
    >>> parse("[::1]:22").host
    '::1'
    """
    match = _DEVICE.fullmatch(device)
    parts = {key: value or "" for key, value in match.groupdict().items()} if match else {}
    if not match or parts["host"].startswith("-") or parts["user"].startswith("-"):
        raise TargetError(
            "The transport 'ssh' takes a machine",
            found=f"{device!r} after the colon" if device else "none is named",
            remedy="Write runtime@ssh:[user@]host[:port], for example 'onnxruntime@ssh:pi@raspberrypi.local'",
        )
    return Login(parts["user"], parts["host"].strip("[]"), parts["port"], parts["python"] or "python3")


def _why(host: str, code: int, output: str) -> TargetError:
    """Why the program does not run, from ssh's exit code and what was said."""
    found = " ".join(output.split())[-300:] or f"Nothing was said; exit code {code}"
    if code == 255:  # of ssh itself
        for pattern, problem, remedy in _REASONS:
            if re.search(pattern, output, flags=re.IGNORECASE):
                return TargetError(problem.format(host=host), found=found, remedy=remedy.format(host=host))
        return TargetError(f"{host} cannot be reached", found=found, remedy=f"Look whether 'ssh {host}' works")
    if code in (126, 127):
        remedy = "Install Python 3.8 or newer, or name one: runtime@ssh:host/path/to/python3"
        return TargetError(f"There is no Python on {host}", found=found, remedy=remedy)
    return TargetError(
        f"Python on {host} does not run the program",
        found=f"Exit code {code}: {found}",
        remedy="Look at what python3 is there, or name one: runtime@ssh:host/path/to/python3",
    )
