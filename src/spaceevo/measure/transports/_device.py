"""Runs on a device: answers requests, one JSON object a line after a mark, until its input ends.

Needs Python 3.8 and the standard library; what it loads models with is sent to it. Its text comes to the device on its
own standard input (see `_program`), so that nothing has to be installed or left there. What runtimes print goes to the
standard error; only answers are on the standard output, and what the login prints. Model files lie in a folder of their
own until the end.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any

CHUNK = 1 << 18
MAX_REASON = 1 << 14


class Refused(Exception):
    """A request that cannot be met; `kind` is for the host."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@contextlib.contextmanager
def pinned(cores: Any) -> Iterator[None]:
    """Hold this thread, and those that it starts, to some cores; to none in particular where none is named.

    Raises:
        Refused: There is no such core, or threads cannot be held here.
    """
    if not cores:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Refused("no_core", f"{platform.system()} cannot hold a program to cores")
    allowed = os.sched_getaffinity(0)
    if not allowed.issuperset(cores):
        raise Refused("no_core", "It may use the cores " + ", ".join(map(str, sorted(allowed))))
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def processor_name() -> str:
    """Of this machine, where no file tells it, as on macOS."""
    if sys.platform == "darwin":
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    return platform.processor()


def usable_cores() -> Any:
    """Numbers of the cores that this program may be held to; none where the system cannot hold it to some."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def read(patterns: Any) -> dict[str, Any]:
    """Texts of the files that fit some patterns, and why others cannot be read, by path."""
    texts, unreadable = {}, {}
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                texts[path] = file.read().replace("\0", "").strip()
        except OSError as error:
            unreadable[path] = error.strerror or str(error)
    return {"texts": texts, "unreadable": unreadable}


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    Raises:
        Refused: The system does not tell.
    """
    for line in read(["/proc/self/status"])["texts"].get("/proc/self/status", "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    if sys.platform == "darwin":  # elsewhere it may be that of the process which started this one
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    raise Refused("failed", "/proc/self/status does not tell the peak memory (VmHWM)")


class Device:
    """What is loaded here."""

    def __init__(self) -> None:
        self.folder = ""
        self.runtimes: dict[str, Any] = {}
        self.models: dict[int, Any] = {}  # runtime, handle, cores, inputs
        self.num_loaded = 0

    def answer(self, request: dict[str, Any], data: Any) -> Any:
        """What a request asks for; `data` is where its bytes, if any, are read from."""
        return getattr(self, "do_" + request["do"])(data=data, **request["with"])

    def do_read(self, data: Any, patterns: Any) -> Any:
        """The function `read`."""
        return read(patterns)

    def do_put(self, data: Any, name: str, size: int) -> Any:
        """Keep a file."""
        left, problem = size, None
        try:
            self.folder = self.folder or tempfile.mkdtemp(prefix="spaceevo-")
            os.makedirs(os.path.dirname(os.path.join(self.folder, name)), exist_ok=True)
            with open(os.path.join(self.folder, name), "wb") as file:
                while left:
                    chunk = data.read(min(left, CHUNK))
                    if not chunk:
                        raise SystemExit  # the host is gone
                    left -= len(chunk)
                    file.write(chunk)
        except OSError as error:
            problem = error
        while left and data.read(min(left, CHUNK)):  # what follows is the next request
            left -= min(left, CHUNK)
        if problem:
            place = self.folder or tempfile.gettempdir()
            with contextlib.suppress(OSError):
                os.remove(os.path.join(place, name))
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise Refused("no_space" if full else "failed", f"{place}: {problem.strerror or problem}")

    def do_runtime(self, data: Any, name: str, source: str) -> Any:
        """Take the file of a runtime; its version."""
        module = types.ModuleType("spaceevo_on_device_" + name)
        try:
            exec(compile(source, f"<{name}>", "exec"), module.__dict__)
            version = module.version()
        except (ImportError, AttributeError) as error:
            raise Refused("missing", f"{error}, in {sys.executable}") from error
        self.runtimes[name] = module
        return version

    def do_load(self, data: Any, runtime: str, name: str, threads: int, cores: Any, inputs: Any, options: Any) -> Any:
        """Load a file that was put here, and run it once; its number."""
        with pinned(cores):
            try:
                handle = self.runtimes[runtime].load(os.path.join(self.folder, name), threads, **options)
                self.runtimes[runtime].time(handle, inputs, 1)
            except Exception as error:  # runtimes' exceptions share no base
                raise Refused("refused", str(error)[:MAX_REASON] or type(error).__name__) from error
        self.num_loaded += 1
        self.models[self.num_loaded] = (self.runtimes[runtime], handle, cores, inputs)
        return self.num_loaded

    def do_time(self, data: Any, model: int, repeats: int) -> Any:
        """Latencies in ms."""
        runtime, handle, cores, inputs = self.models[model]
        with pinned(cores):
            return runtime.time(handle, inputs, repeats)

    def do_profile(
        self, data: Any, runtime: str, name: str, inputs: Any, repeats: int, threads: int, options: Any
    ) -> Any:
        """The nodes of a file that was put here, with their times."""
        return self.runtimes[runtime].profile(os.path.join(self.folder, name), inputs, repeats, threads, **options)

    def do_unload(self, data: Any, model: int, name: str) -> Any:
        """Free a model, and its file where one is named; the folder of the file where it has one."""
        self.models.pop(model, None)
        if os.path.dirname(name):
            shutil.rmtree(os.path.join(self.folder, os.path.dirname(name)), ignore_errors=True)
        elif name:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self.folder, name))

    def do_memory(self, data: Any) -> Any:
        """Peak memory of this process in MiB."""
        return peak_memory_mib()

    def close(self) -> None:
        """Leave nothing here."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def mark_of(word: str) -> bytes:
    """What every answer begins with: a word of the host's, framed, so that a shell which echoes it does no harm."""
    return f"<spaceevo {word}>".encode()


def serve(requests: Any, answers: Any, mark: bytes = b"") -> None:
    """Answer requests until they end."""

    def say(content: dict[str, Any]) -> None:
        answers.write(mark + json.dumps(content).encode() + b"\n")
        answers.flush()

    device = Device()
    try:
        say(
            {
                "spaceevo": platform.python_version(),
                "machine": platform.machine(),
                "processor": processor_name(),
                "cores": usable_cores(),
                "num_cores": os.cpu_count() or 1,
            }
        )
        for line in iter(requests.readline, b""):
            request = json.loads(line)
            try:
                say({"id": request["id"], "is": device.answer(request, requests)})
            except Refused as error:
                say({"id": request["id"], "kind": error.kind, "found": str(error)})
            except Exception as error:
                found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                say({"id": request["id"], "kind": "failed", "found": found})
    except BrokenPipeError:  # the host is gone
        pass
    finally:
        device.close()


def main() -> None:
    """Serve the host that started this program."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    sys.path[:] = [place for place in sys.path if place]  # not the folder that the host's login happens to start in
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, mark_of(sys.argv[-1]))


if __name__ == "__main__":
    main()
