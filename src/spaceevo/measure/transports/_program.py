"""A device that runs Python: the program `_device` is started there by a command, and asked over its pipes.

Everything goes over one channel: the program itself, model files, requests and answers. Answers begin with a mark of
their own, so that they are found among whatever a login prints, before or between them. A channel that was dropped
between two requests is opened again once, and the models are loaded again; one that is dropped while a request is
answered is told, for a measurement was disturbed. The request after that opens a new one.

More than 400 lines: it goes to the device as one file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import selectors
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.measure.transports import DeviceState, LoadedModel, Processor, _device, _linux
from spaceevo.processors import profile_of
from spaceevo.runtimes import RUNTIMES
from spaceevo.runtimes._models import Model

_BOOTSTRAP = (
    "import sys;v=sys.version_info;v>=(3,8) or sys.exit('Python 3.8 or newer is needed, this is %d.%d'%v[:2]);"
    "exec(compile(sys.stdin.buffer.read({size}),'spaceevo','exec'))"
)
_PEAK_RUNS = 3
_MAX_NOISE = 1 << 22  # of a login that prints something
_MAX_ANSWER = 1 << 22
_LAST_WORDS = 2000
_GRACE = 5  # seconds that a program has to end
_STEP = 1 << 16


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a device may be silent.

    Attributes:
        start: Until the program runs there.
        request: Until an answer, or until the next part of a file was taken.
        load: Until a model is loaded.
        time: Until the first inferences of a model are timed; later ones may take `slower` times as long as before.
        slower: See `time`.
    """

    start: float = 45
    request: float = 45
    load: float = 300
    time: float = 300
    slower: float = 50


@dataclass(frozen=True, slots=True)
class Place:
    """How to run Python somewhere.

    Attributes:
        where: For people.
        command: That runs the words which follow it there.
        python: The Python there.
        explain: Turns (exit code, last output) of a program that never answered into an error.
        timeouts: How long to wait.
        quoted: Whether the command takes the words as one, for a shell.
    """

    where: str
    command: tuple[str, ...]
    python: str
    explain: Callable[[int, str], TargetError]
    timeouts: Timeouts = field(default_factory=Timeouts)
    quoted: bool = True


class Dropped(Exception):
    """The channel has ended."""


class Channel:
    """The program, running.

    Raises:
        TargetError: It does not come to run.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._number = 0
        self._unread = b""
        self._noise, self._num_noise = b"", 0  # its end; since the last request
        word = secrets.token_hex(8)
        self._mark = _device.mark_of(word)
        # Shared with the program, which goes on writing at its end
        self._said = tempfile.TemporaryFile("a+b")  # noqa: SIM115
        source = Path(_device.__file__).read_bytes()
        words = [place.python, "-u", "-c", _BOOTSTRAP.format(size=len(source)), word]
        words = [*place.command, shlex.join(words)] if place.quoted else [*place.command, *words]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            self._said.close()
            problem = f"The program {words[0]} cannot be started"
            raise TargetError(problem, found=str(error), remedy="Install it here") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        try:
            self.hello = self._start(source)
        except BaseException:
            self.close(at_once=True)
            raise

    def dropped(self) -> bool:
        """Whether it ended by itself since the last answer."""
        if self._process.poll() is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._output, selectors.EVENT_READ)
                if not selector.select(0):
                    return False
            try:
                self._unread += self._read()
            except Dropped:
                return True
            return False
        return True

    def request(self, do: str, timeout: float, data: bytes = b"", **content: Any) -> Any:
        """What the program answers.

        Raises:
            Dropped: The channel ended before the answer.
            TargetError: Too late, or not an answer; the channel is closed then.
            _device.Refused: The program says why not.
        """
        self._number += 1
        line = json.dumps({"id": self._number, "do": do, "with": content}).encode() + b"\n"
        self._unread, self._noise, self._num_noise = b"", b"", 0
        said = self._exchange(line + data, timeout)
        answer = self._answer(said)
        if answer is None or answer.get("id") != self._number or not {"is", "kind"} & answer.keys():
            self._garbage(said)
        if "kind" in answer:
            raise _device.Refused(str(answer["kind"]), str(answer.get("found", "")))
        return answer["is"]

    def close(self, at_once: bool = False) -> None:
        """End the program, which cleans up behind itself; `at_once`: also where it is busy."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if at_once:
            self._process.terminate()
        self._end()
        self._said.close()

    def _end(self) -> int:
        """Wait a little for the program's end; its exit code."""
        try:
            return self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _start(self, source: bytes) -> dict[str, Any]:
        """Send the program; its first words."""
        try:
            said = self._exchange(source, self._place.timeouts.start)
        except Dropped:
            code = self._end()
            noise = (self._noise + self._unread).decode(errors="replace")
            raise self._place.explain(code, f"{self._last_said()}\n{noise}".strip()) from None
        hello = self._answer(said)
        if hello is None or "spaceevo" not in hello:
            self._garbage(said)
        return hello

    def _exchange(self, data: bytes, timeout: float) -> bytes:
        """Write, and read one answer; the time counts from the last progress in writing."""
        left, deadline = memoryview(data), time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            if left:
                selector.register(self._input, selectors.EVENT_WRITE)
            while left or (answer := self._found()) is None:
                events = selector.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    self._too_late(timeout)
                for key, _ in events:
                    if key.fd == self._output:
                        self._unread += self._read()
                        continue
                    try:
                        left = left[os.write(self._input, left[:_STEP]) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        raise Dropped from None
                    deadline = time.monotonic() + timeout
                    if not left:
                        selector.unregister(self._input)
        return answer

    def _found(self) -> bytes | None:
        """The next answer in what was read, if it is whole; what stands before it is noise."""
        noise, mark, rest = self._unread.partition(self._mark)
        if not mark:  # the end may be its beginning
            noise, rest = self._unread[: -len(self._mark)], self._unread[-len(self._mark) :]
        self._noise, self._num_noise = (self._noise + noise)[-_LAST_WORDS:], self._num_noise + len(noise)
        answer, end, after = rest.partition(b"\n")
        if mark and end:
            self._unread = after
            return answer
        self._unread = mark + rest
        if self._num_noise > _MAX_NOISE or len(rest) > _MAX_ANSWER:
            self._garbage()
        return None

    def _read(self) -> bytes:
        try:
            data = os.read(self._output, _STEP)
        except BlockingIOError:
            return b""
        if not data:
            raise Dropped
        return data

    @staticmethod
    def _answer(line: bytes) -> dict[str, Any] | None:
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def _garbage(self, what: bytes = b"") -> NoReturn:
        said = (what or self._noise + self._unread).decode(errors="replace")
        self.close(at_once=True)
        raise TargetError(
            f"The program on {self._place.where} answered with what is no answer",
            found=" ".join(said.split())[:200] or "nothing that can be read",
            remedy=f"Look at what {self._place.python} is there, and whether its login prints without end",
        )

    def _too_late(self, timeout: float) -> NoReturn:
        noise = (self._noise + self._unread).decode(errors="replace")
        found = " ".join(f"{self._last_said()} {noise}".split())[-200:]
        self.close(at_once=True)
        raise TargetError(
            f"{self._place.where} did not answer within {timeout:g} s",
            found=f"Its last words: {found}" if found else "It said nothing",
            remedy="Look whether it hangs or is overloaded, then try again: what was measured is kept",
        )

    def _last_said(self) -> str:
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - 2000))
        return self._said.read().decode(errors="replace").strip()


class _Unloadable(Exception):
    """The runtime refuses a model, in its own words."""


class Machine:
    """A transport: a place where the program runs.

    Raises:
        TargetError: It cannot be reached, or has no Python.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._energy = _linux.EnergyCounter()
        self._models: list[_Model] = []
        self._versions: dict[str, str] = {}
        self._files: dict[str, int] = {}  # on the device, with the number of models that need them
        self._processor: Processor | None = None
        self._closed = False
        self._channel: Channel | None = Channel(place)

    def processor(self) -> Processor:
        """As it describes itself."""
        if self._processor is None:
            files = self._read(_linux.PROCESSOR)
            assert self._channel is not None
            hello = self._channel.hello
            self._processor = _linux.processor(
                files,
                hello["machine"],
                "" if files.texts else hello["processor"],
                cores=hello["cores"],
                num_cores=hello["num_cores"],
            )
        return self._processor

    def runtime_version(self, runtime: str) -> str:
        """Of the package there."""
        self._connect()
        return self._prepare(runtime)

    def state(self, cores: tuple[int, ...] = ()) -> DeviceState:
        """From /proc and /sys."""
        return _linux.state(self._read(_linux.STATE), cores)

    def load(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> LoadedModel:
        """Send a model there and load it."""
        model = self._model(runtime, path, threads, cores)
        self._load(model)
        return model

    def _model(self, runtime: str, path: Path, threads: int, cores: tuple[int, ...] = ()) -> _Model:
        opened = RUNTIMES.load(runtime).open_model(path)
        return _Model(self, runtime, opened, threads, cores, self._options(runtime, path))

    def _options(self, runtime: str, path: Path) -> dict[str, Any]:
        profile = profile_of(self.processor().machine, self.processor().flags)
        make_options = RUNTIMES.load(runtime).on_device_options
        return make_options(path, profile) if make_options else {}

    def _load(self, model: _Model) -> None:
        self._connect()
        try:
            self._open_model(model)
        except ArtifactError:
            self._drop_file(model)
            raise
        self._models.append(model)

    def peak_memory_mib(self, runtime: str, path: Path, threads: int) -> float:
        """Of a program of its own."""
        return peak_memory_mib(self._place, runtime, path, threads)

    def profile(self, runtime: str, path: Path, threads: int, repeats: int) -> dict[str, float]:
        """As the runtime there counts."""
        plugin = RUNTIMES.load(runtime)
        if plugin.operator_times is None:
            raise TargetError(
                f"The runtime {runtime!r} does not tell how long operators take on {self._place.where}",
                found="There is no profiler that Python can ask",
                remedy="Measure whole networks, or profile with another runtime",
            )
        model = self._model(runtime, path, threads)
        self._load(model)
        try:
            self.time(model, 1)  # tells how long to wait
            nodes = self._ask(
                "profile",
                self._timeout(model, repeats),
                runtime=runtime,
                name=model.file,
                inputs=model.inputs,
                repeats=repeats,
                threads=threads,
                options=model.options,
            )
        finally:
            model.close()
        if not isinstance(nodes, list) or not nodes or not all(map(_is_node, nodes)):
            raise TargetError(
                f"{self._place.where} answered with what are no times of operators", found=f"{nodes!r:.200}"
            )
        return plugin.operator_times(nodes)

    def own_peak_memory_mib(self) -> float:
        """Of the program there, so far."""
        return float(self._ask("memory"))

    def energy_uj(self) -> float:
        """From powercap (RAPL)."""
        return self._energy.read_uj(self._read(_linux.ENERGY), self._place.where)

    def close(self) -> None:
        """End the program there, with all models and files."""
        self._closed = True
        self._models.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def time(self, model: _Model, repeats: int) -> list[float]:
        """Latencies of a model in ms."""
        self._connect()
        samples = self._ask("time", self._timeout(model, repeats), model=model.number, repeats=repeats)
        if not isinstance(samples, list) or len(samples) != repeats or not all(map(_is_latency, samples)):
            raise TargetError(
                f"{self._place.where} answered with what is no latency",
                found=f"{samples!r:.200} for {repeats} inferences",
            )
        model.slowest_ms = max(samples)
        return [float(sample) for sample in samples]

    def _timeout(self, model: _Model, repeats: int) -> float:
        """Seconds to wait for that many inferences."""
        timeouts, runs = self._place.timeouts, repeats + 5
        if not model.slowest_ms:
            return timeouts.time
        return max(timeouts.request, timeouts.slower * runs * model.slowest_ms / 1e3)

    def unload(self, model: _Model) -> None:
        """Free a model; its file too where no other needs it."""
        if model not in self._models:
            return
        self._models.remove(model)
        if self._channel is not None and not self._channel.dropped():
            self._files[model.file] -= 1
            self._drop_file(model)

    def _drop_file(self, model: _Model) -> None:
        """Free a model there, and its file where no other model needs it."""
        unneeded = self._files.get(model.file) == 0
        with suppress(TargetError):  # gone already
            self._ask("unload", model=model.number, name=model.file if unneeded else "")
        if unneeded:
            del self._files[model.file]

    def _read(self, patterns: Sequence[str]) -> _linux.Texts:
        self._connect()
        return _linux.Texts(**self._ask("read", patterns=list(patterns)))

    def _connect(self) -> None:
        """Open the channel again where it was dropped, with all models."""
        if self._closed:
            raise TargetError(f"The connection to {self._place.where} is closed")
        if self._channel is not None and self._channel.dropped():
            self._channel.close()
            self._channel = None
        if self._channel is None:
            self._versions.clear()
            self._files.clear()
            self._channel = Channel(self._place)
            try:
                for model in self._models:
                    self._open_model(model)
            except BaseException:
                self._lose()
                raise

    def _ask(self, do: str, timeout: float | None = None, data: bytes = b"", **content: Any) -> Any:
        if self._channel is None:
            raise TargetError(f"The connection to {self._place.where} is closed")
        try:
            return self._channel.request(do, timeout or self._place.timeouts.request, data, **content)
        except _device.Refused as refusal:
            raise self._told(refusal) from None
        except Dropped:
            self._lose()
            raise TargetError(
                f"The connection to {self._place.where} was dropped while it worked",
                found=f"Its request was {do!r}",
                remedy="Look at the device and its network, then try again: what was measured is kept",
            ) from None
        except BaseException:  # an answer that is still to come would be taken for the next one
            self._lose()
            raise

    def _lose(self) -> None:
        if self._channel is not None:
            self._channel.close(at_once=True)
            self._channel = None

    def _prepare(self, runtime: str) -> str:
        """Send what loads and times files of a runtime; the version there."""
        if runtime not in self._versions:
            plugin = RUNTIMES.load(runtime)
            if plugin.ON_DEVICE is None:
                raise TargetError(
                    f"The runtime {runtime!r} does not run on other machines",
                    found="It has no ON_DEVICE, the file that loads and times models there",
                    remedy="Take another runtime, or the transport 'local'",
                )
            source = plugin.ON_DEVICE.read_text(encoding="utf-8")
            version = self._ask("runtime", self._place.timeouts.load, name=runtime, source=source)
            self._versions[runtime] = str(version)
        return self._versions[runtime]

    def _open_model(self, model: _Model) -> None:
        self._prepare(model.runtime)
        files = _read_files(model.opened)
        model.file = next(iter(files))
        if model.file not in self._files:
            for name, content in files.items():
                self._ask("put", data=content, name=name, size=len(content))
            self._files[model.file] = 0
        try:
            number = self._ask(
                "load",
                self._place.timeouts.load,
                runtime=model.runtime,
                name=model.file,
                threads=model.threads,
                cores=list(model.cores),
                inputs=model.inputs,
                options=model.options,
            )
        except _Unloadable as refusal:
            explain = RUNTIMES.load(model.runtime).explain
            found, remedy = explain(str(refusal), self._versions[model.runtime])
            raise ArtifactError(
                f"The runtime on {self._place.where} cannot load {model.opened.path}", found=found, remedy=remedy
            ) from None
        model.number = int(number)
        self._files[model.file] += 1

    def _told(self, refusal: _device.Refused) -> TargetError | _Unloadable:
        where, found = self._place.where, str(refusal)
        match refusal.kind:
            case "missing":
                remedy = "Install the runtime's package there, for that Python"
                return TargetError(f"The runtime is not installed on {where}", found=found, remedy=remedy)
            case "refused":
                return _Unloadable(found)
            case "no_space":
                remedy = "Free space there, or set TMPDIR to a folder with more"
                return TargetError(f"The disk of {where} is full", found=found, remedy=remedy)
            case "no_core":
                remedy = "Name other cores, or none"
                return TargetError(f"{where} cannot pin a program to these cores", found=found, remedy=remedy)
            case _:
                return TargetError(f"{where} cannot do what it was asked for", found=found)


def peak_memory_mib(place: Place, runtime: str, path: Path, threads: int) -> float:
    """Largest resident memory of a fresh program that loads a model and runs it a few times, in MiB.

    Raises:
        ArtifactError: The runtime refuses the file.
        TargetError: The program does not run there, or the device does not tell.
    """
    machine = Machine(place)
    try:
        machine.load(runtime, path, threads).time(_PEAK_RUNS)
        return machine.own_peak_memory_mib()
    finally:
        machine.close()


class _Model:
    def __init__(
        self,
        machine: Machine,
        runtime: str,
        opened: Model,
        threads: int,
        cores: tuple[int, ...],
        options: dict[str, Any],
    ) -> None:
        self._machine = machine
        self.runtime, self.opened, self.threads, self.cores, self.options = runtime, opened, threads, cores, options
        self.inputs = [own.as_json() for own in opened.inputs]
        self.file, self.number, self.slowest_ms = "", 0, 0.0
        self._closed = False

    def time(self, repeats: int) -> list[float]:
        """Latencies in ms."""
        if self._closed:
            raise TargetError("A model is timed that was closed", found=str(self.opened.path))
        return self._machine.time(self, repeats)

    def close(self) -> None:
        """Free it on the device."""
        if not self._closed:
            self._closed = True
            self._machine.unload(self)


def _read_files(model: Model) -> dict[str, bytes]:
    """The files of a model by their names there, its own first; several lie in a folder, as they do here."""
    try:
        contents = {file: file.read_bytes() for file in model.files}
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or model.path} cannot be read",
            found=error.strerror or str(error),
            remedy="Check the path, or export it again",
        ) from error
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents.values())).hexdigest()
    if not model.weights:
        return {digest[:32] + "".join(model.path.suffixes[-2:]): contents[model.path]}
    return {
        f"{digest[:32]}/{file.relative_to(model.path.parent).as_posix()}": content for file, content in contents.items()
    }


def _is_latency(sample: Any) -> bool:
    return isinstance(sample, float | int) and sample is not True and 0 < sample < math.inf


def _is_node(node: Any) -> bool:
    """A name, a type, layers, milliseconds."""
    return (
        isinstance(node, list)
        and len(node) == 4
        and all(isinstance(word, str) for word in node[:3])
        and isinstance(node[3], float | int)
        and 0 <= node[3] < math.inf
    )
