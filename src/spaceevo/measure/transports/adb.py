"""An Android phone behind `adb`: `runtime@adb:SERIAL`, or `runtime@adb` where one device is attached.

There is no Python there: models are timed by the runtime's own benchmark program, which the user has pushed to
`FOLDER` once. One process of it is one row of inferences. It prints statistics; the runtime says how they read.

More than 400 lines: one transport, with what phones answer.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.measure.transports import DeviceState, LoadedModel, Processor, Transport, _linux
from spaceevo.runtimes import RUNTIMES, Benchmark

FOLDER = "/data/local/tmp"
TIMEOUT = 60.0  # seconds of a command
TRANSFER_TIMEOUT = 600.0  # of a file
TIMING_TIMEOUT = 650.0  # of a benchmark
_BEGIN = "spaceevo-begin"  # before it stands what the login prints
_END = "spaceevo-exit:"  # what is missing where a command was cut off
_PEAK_RUNS = 3
#: What adb says, what it means, what to do.
_REASONS = (
    (
        r"more than one device",
        "Several devices are attached",
        "Name one: runtime@adb:SERIAL",
    ),
    (
        r"unauthorized",
        "{device} does not trust this machine yet",
        "Unlock it and accept this machine's key for USB debugging",
    ),
    (
        r"offline|device still (?:connecting|authorizing)",
        "{device} is offline",
        "Plug it in anew, or run 'adb reconnect offline'",
    ),
    (
        r"no permissions|insufficient permissions",
        "This user may not talk to {device}",
        "Give the user access to USB devices (udev rules), then run 'adb kill-server'",
    ),
    (
        r"not found|no devices|closed|protocol fault|connection reset|cannot connect|failed to connect",
        "{device} is not attached (any more)",
        "Plug it in, switch USB debugging on, and look at 'adb devices'",
    ),
)


def connect(device: str) -> Transport:
    """A phone.

    Args:
        device: Its serial, as `adb devices` prints it; "" for the only one.

    Raises:
        TargetError: adb is not installed, or there is no such device, or it does not let this machine in.
    """
    if device.startswith("-") or re.search(r"\s", device):
        raise TargetError(
            "The transport 'adb' takes a serial",
            found=repr(device),
            remedy="Write runtime@adb:SERIAL, of 'adb devices'",
        )
    return _Adb(_find(device))


def _find(device: str) -> str:
    """The serial of an attached device."""
    done = _run(["adb", "devices"], TIMEOUT, "adb")
    rows = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    states = {serial: state.strip() for serial, state in (row for row in rows if len(row) == 2)}
    if done.returncode or "List of devices" not in done.stdout:
        raise _lost("adb", _said(done))
    attached = ", ".join(f"{serial} ({state})" for serial, state in states.items()) or "none"
    if not device and len(states) > 1:
        raise _lost("adb", f"more than one device: {attached}")
    if not states or (device and device not in states):
        raise _lost(device or "A device", f"not found; attached: {attached}")
    serial = device or next(iter(states))
    if states[serial] != "device":
        raise _lost(serial, states[serial])
    return serial


class _Adb:
    def __init__(self, serial: str) -> None:
        self._serial = serial
        self._folder = f"{FOLDER}/spaceevo-{secrets.token_hex(6)}"
        self._has_folder = False
        self._programs: set[str] = set()  # that are there
        self._files: dict[str, int] = {}  # there, with the number of models that need them
        self._energy = _linux.EnergyCounter()

    def processor(self) -> Processor:
        questions = ("getprop ro.product.manufacturer", "getprop ro.product.model", "getprop ro.soc.model", "uname -m")
        maker, model, chip, machine = (self._shell(question).strip() for question in questions)
        name = model if model.lower().startswith(maker.lower()) else f"{maker} {model}"
        board = f"{name} ({chip})" if chip else name
        return _linux.processor(self._read([_linux.CPUINFO, _linux.STATUS]), machine, board.strip())

    def runtime_version(self, runtime: str) -> str:
        """The benchmark program does not tell its version: its hash."""
        program = self._program(_benchmark(runtime))
        digest = self._shell(f"sha256sum {shlex.quote(program)}").split(" ")[0]
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise self._garbage("sha256sum", digest)
        return f"{Path(program).name} {digest[:16]}"

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        return _linux.state(self._read(_linux.STATE), cores)

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> LoadedModel:
        benchmark = _benchmark(runtime)
        opened = RUNTIMES.load(runtime).open_model(path)  # refuses what is refused everywhere
        model = _Model(self, benchmark, path, self._push(path), threads, cores, opened.is_ours)
        try:
            model.try_once()
        except BaseException:
            model.close()
            raise
        return model

    def peak_memory_mib(self, runtime: str, path: Path, threads: int) -> float:
        """Of the benchmark program, as it watches itself."""
        benchmark = _benchmark(runtime)
        output = self._watched(runtime, path, threads, _PEAK_RUNS, memory=True)
        with self._told("the peak memory", benchmark, ", or leave this metric out for this target"):
            return float(benchmark.peak_memory_mib(output))

    def profile(self, runtime: str, path: Path, threads: int, repeats: int) -> dict[str, float]:
        """As the benchmark program counts."""
        benchmark = _benchmark(runtime)
        output = self._watched(runtime, path, threads, repeats, profile=True)
        with self._told("how long operators take", benchmark):
            return dict(benchmark.operator_times(output))

    def energy_uj(self) -> float:
        return self._energy.read_uj(self._read(_linux.ENERGY), self._serial)

    def close(self) -> None:
        """Remove the model files."""
        if self._has_folder:
            self._has_folder = False
            self._files.clear()
            with suppress(TargetError):  # it is gone
                self._shell(f"rm -rf {self._folder}")

    def benchmark(
        self,
        program: Benchmark,
        path: Path,
        file: str,
        repeats: int,
        threads: int,
        cores: Sequence[int],
        **watch: bool,
    ) -> str:
        """Run the benchmark program on a file, here `path`; `watch` what is more than times (see its `command`).

        Returns:
            What it printed.

        Raises:
            ArtifactError: It refuses the file.
            TargetError: It cannot run there, or the device is lost.
        """
        words = program.command(self._program(program), f"{self._folder}/{file}", repeats, threads, **watch)
        if cores:
            words = ["taskset", f"{sum(1 << core for core in cores):x}", *words]
        output, code = self._shell_code(f"{shlex.join(words)} 2>&1", TIMING_TIMEOUT)
        complaints = [line for line in output.splitlines() if line.strip()]
        complaints = list(program.complaints(output)) or complaints[-3:]
        found = f"exit code {code}: {' '.join(complaints)[:300]}"
        if cores and "taskset" in found:
            raise TargetError(
                f"{self._serial} cannot pin a program to the cores {', '.join(map(str, cores))}",
                found=found,
                remedy="Name cores that are online there, or none",
            )
        if code in (126, 127) or code > 128 or "CANNOT LINK" in output or "not executable" in output:
            raise TargetError(
                f"{program.PROGRAM} does not run on {self._serial}",
                found=found,
                remedy=f"Push one that is built for this device. {program.HOW_TO_GET}",
            )
        if code:
            remedy = f"Export it again, or push a newer {program.PROGRAM}"
            problem = f"The runtime on {self._serial} cannot load {path}"
            raise ArtifactError(problem, found=found, remedy=remedy)
        return output

    def check_delegated(self, program: Benchmark, output: str) -> None:
        """Refuse a benchmark program that does not run a file of spaceevo's as LiteRT does elsewhere."""
        if not program.delegated(output):
            raise TargetError(
                f"{program.PROGRAM} on {self._serial} does not run a model with the kernels that count",
                found=" ".join(program.complaints(output))[:300],
                remedy=f"Push a newer one. {program.HOW_TO_GET}",
            )

    def unneeded(self, file: str) -> None:
        """A model that needed a file is closed."""
        self._files[file] = self._files.get(file, 1) - 1
        if self._has_folder and self._files[file] <= 0:
            del self._files[file]
            with suppress(TargetError):
                self._shell(f"rm -f {self._folder}/{shlex.quote(file)}")

    def _watched(self, runtime: str, path: Path, threads: int, repeats: int, **watch: bool) -> str:
        """What the benchmark program prints of a file, watching more than times."""
        opened = RUNTIMES.load(runtime).open_model(path)
        model = _Model(self, _benchmark(runtime), path, self._push(path), threads, (), opened.is_ours)
        try:
            return model.run(repeats, **watch)
        finally:
            model.close()

    @contextmanager
    def _told(self, what: str, benchmark: Benchmark, or_else: str = "") -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise TargetError(
                f"{self._serial} does not tell {what}",
                found=str(error),
                remedy=f"Push a newer {benchmark.PROGRAM}{or_else}",
            ) from error

    def _program(self, benchmark: Benchmark) -> str:
        program = f"{FOLDER}/{benchmark.PROGRAM}"
        if program in self._programs:
            return program
        _, code = self._shell_code(f"[ -x {program} ]")
        if code:
            to_phone = f"adb -s {self._serial}"
            raise TargetError(
                f"There is no {benchmark.PROGRAM} on {self._serial}",
                found=f"Nothing that can be run at {program}",
                remedy=f"{benchmark.HOW_TO_GET}; then: {to_phone} push {benchmark.PROGRAM} {FOLDER}/ &&"
                f" {to_phone} shell chmod 755 {program}",
            )
        self._programs.add(program)
        return program

    def _push(self, path: Path) -> str:
        """Have a file there; its name."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{path} cannot be read", found=error.strerror or str(error), remedy="Export it again"
            ) from error
        file = hashlib.sha256(content).hexdigest()[:32] + path.suffix
        if file not in self._files:
            if not self._has_folder:
                self._shell(f"mkdir -p {self._folder}")
                self._has_folder = True
            done = self._adb("push", str(path.absolute()), f"{self._folder}/{file}", timeout=TRANSFER_TIMEOUT)
            if done.returncode:
                raise _lost(self._serial, _said(done))
        self._files[file] = self._files.get(file, 0) + 1
        return file

    def _read(self, patterns: Sequence[str]) -> _linux.Texts:
        """Files there; what cannot be read is missing, with the reason where it is told."""
        output, _ = self._shell_code(f"grep -H '' {' '.join(patterns)} 2>&1")
        texts: dict[str, str] = {}
        unreadable: dict[str, str] = {}
        for line in output.splitlines():
            path, colon, text = line.partition(":")
            if colon and path.startswith("/"):
                texts[path] = f"{texts[path]}\n{text}" if path in texts else text
            elif match := re.match(r"grep: (/[^:*]+): (.*)", line):
                unreadable[match[1]] = match[2]
        return _linux.Texts({path: text.replace("\0", "").strip() for path, text in texts.items()}, unreadable)

    def _shell(self, line: str) -> str:
        output, code = self._shell_code(line)
        if code:
            reason = output.strip()[-300:]
            if "No space left" in reason:
                raise _lost(self._serial, reason)
            raise TargetError(f"A command fails on {self._serial}", found=f"{line}: exit code {code}: {reason}")
        return output

    def _shell_code(self, line: str, timeout: float = TIMEOUT) -> tuple[str, int]:
        """What a line printed there, and its exit code, which old devices do not pass on."""
        done = self._adb("shell", f"echo {_BEGIN}; {line}; echo {_END}$?", timeout=timeout)
        output, end, code = done.stdout.rpartition(_END)
        output = output.rpartition(f"{_BEGIN}\n")[2]
        if not end or not code.strip().isdigit():
            if done.returncode:
                cut = f"Closed in the middle; last words: {done.stdout[-200:]!r}"
                raise _lost(self._serial, done.stderr.strip() or cut)
            raise self._garbage(line, done.stdout)
        return output, int(code)

    def _adb(self, *words: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return _run(["adb", "-s", self._serial, *words], timeout, self._serial)

    def _garbage(self, line: str, output: str) -> TargetError:
        return TargetError(
            f"{self._serial} answered with what is no answer",
            found=f"{line[:60]!r} gave {output[-200:]!r}",
            remedy="Look whether 'adb shell' works there",
        )


class _Model:
    """A file on the phone; every row of inferences is a process of its own."""

    def __init__(
        self,
        phone: _Adb,
        program: Benchmark,
        path: Path,
        file: str,
        threads: int,
        cores: tuple[int, ...],
        is_ours: bool,
    ) -> None:
        self._phone, self._program, self._is_ours = phone, program, is_ours
        self._path, self._file = path, file  # here, there
        self._threads, self._cores = threads, cores
        self._closed = False

    def time(self, repeats: int) -> list[float]:
        """Latencies in ms, as far as the program tells them."""
        if self._closed:
            raise TargetError("A model is timed that was closed", found=str(self._path))
        output = self.run(repeats)
        try:
            samples: list[float] = self._program.samples_ms(output, repeats)
        except ValueError as error:
            raise TargetError(
                f"{self._program.PROGRAM} printed no latencies",
                found=f"{error}; last words: {' '.join(output.split())[-200:]}",
                remedy=f"Look whether it is the program that it should be. {self._program.HOW_TO_GET}",
            ) from error
        return samples

    def try_once(self) -> None:
        """Refuse what cannot be run."""
        self.time(1)

    def run(self, repeats: int, **watch: bool) -> str:
        """What the benchmark program prints."""
        output = self._phone.benchmark(
            self._program, self._path, self._file, repeats, self._threads, self._cores, **watch
        )
        if self._is_ours:  # of others' models, LiteRT runs elsewhere, too, what XNNPACK does not
            self._phone.check_delegated(self._program, output)
        return output

    def close(self) -> None:
        """Remove it."""
        if not self._closed:
            self._closed = True
            self._phone.unneeded(self._file)


def _benchmark(runtime: str) -> Benchmark:
    """The benchmark program of a runtime."""
    benchmark = RUNTIMES.load(runtime).BENCHMARK
    if benchmark is None:
        having = [name for name in RUNTIMES.names() if RUNTIMES.load(name).BENCHMARK]
        raise TargetError(
            f"The runtime {runtime!r} has no benchmark program for phones",
            found=f"These have: {', '.join(having)}",
            remedy=f"Take {having[0]}@adb" if having else "Take another transport",
        )
    return benchmark


def _run(words: list[str], timeout: float, device: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        remedy = "Install it (Android's platform-tools) and put it on the PATH"
        raise TargetError("adb is not installed", found=str(error), remedy=remedy) from error
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"{device} did not answer within {timeout:g} s",
            found=" ".join(words)[:200],
            remedy="Unlock it, look whether it hangs, then try again: what was measured is kept",
        ) from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(f"{done.stderr} {done.stdout}".split())[-300:] or f"nothing; exit code {done.returncode}"


def _lost(device: str, output: str) -> TargetError:
    """Why adb failed, from what it said."""
    if "No space left" in output:
        remedy = f"Free space in {FOLDER} there"
        return TargetError(f"The disk of {device} is full", found=output, remedy=remedy)
    for pattern, problem, remedy in _REASONS:
        if re.search(pattern, output, flags=re.IGNORECASE):
            return TargetError(problem.format(device=device), found=output, remedy=remedy)
    return TargetError(f"adb cannot reach {device}", found=output, remedy="Look at 'adb devices'")
