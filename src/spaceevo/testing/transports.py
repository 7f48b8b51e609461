"""What every transport keeps (`spaceevo.measure.transports`), and every runtime on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import ClassVar

import pytest

from spaceevo.errors import ArtifactError, PluginError, SpaceEvoError, TargetError
from spaceevo.graph.tensors import square
from spaceevo.graph.trace import Tracer
from spaceevo.measure.random_graphs import random_integer_graph
from spaceevo.measure.target import TargetName, connect, describe, parse
from spaceevo.measure.transports import TRANSPORTS, Processor, Transport
from spaceevo.runtimes import RUNTIMES


class Models:
    """Files of small networks: two convolutions and a classifier, quantized, in the form of a runtime.

    Args:
        folder: Takes the files; each is written once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, runtime: str, width: int = 8) -> Path:
        """The file of a runtime (a plug-in name) and a number of channels."""
        plugin = RUNTIMES.load(runtime)
        path = self.folder / f"net{width}{plugin.SUFFIX}"
        if not path.exists():
            net = Tracer(square(3, 16))
            x = net.conv("a", net.input, width, kernel_size=3, activation="relu")
            x = net.pool("pool", net.conv("b", x, width, kernel_size=1, activation="relu"))
            net.linear("classes", x, 4)
            plugin.export_int8(random_integer_graph(net.program, 0, 63), path, {})
        return path


class TargetSuite:
    """Laws of one runtime on one device.

    Attributes:
        TARGET: Its name, for example "my-runtime@local". A target that has to be set up first overrides the fixture
            `target`, which returns the name.
        OPERATORS: How it tells the times of single operators: "named", only as "kinds", or "refused".
    """

    TARGET: ClassVar[str]
    OPERATORS: ClassVar[str] = "named"

    @pytest.fixture
    def target(self) -> str:
        return self.TARGET

    @pytest.fixture
    def operators(self, target: str) -> str:
        return self.OPERATORS

    @pytest.fixture
    def runtime(self, target: str) -> str:
        return parse(target).runtime

    @pytest.fixture
    def device(self, target: str) -> Iterator[Transport]:
        connected = connect(target)
        yield connected
        connected.close()

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls, tmp_path_factory: pytest.TempPathFactory) -> Models:
        return Models(tmp_path_factory.mktemp("models"))

    def test_models_are_timed_side_by_side(self, runtime: str, device: Transport, models: Models) -> None:
        small, large = (device.load(runtime, models(runtime, width), threads=1) for width in (8, 512))
        for repeats in (1, 2, 3, 7):
            for model in (small, large):
                samples = model.time(repeats)
                assert len(samples) == repeats
                assert all(isinstance(sample, float) and 0 < sample < 1e4 for sample in samples)
        assert min(large.time(20)) > min(small.time(20))
        small.close()
        assert len(large.time(2)) == 2
        large.close()
        large.close()

    def test_description(self, target: str) -> None:
        described = describe(target, cores=(0,))
        assert described.name == target
        assert described.device
        assert described.machine
        assert described.runtime_version
        assert described.w_qmax in (63, 127)
        assert described.cores == (0,)

    def test_operators_are_timed_or_refused(
        self, operators: str, runtime: str, device: Transport, models: Models
    ) -> None:
        if operators == "refused":
            with pytest.raises(TargetError, match="profile"):
                device.profile(runtime, models(runtime), 1, 3)
            return
        times = device.profile(runtime, models(runtime), 1, 3)
        assert all(isinstance(ms, float) and 0 <= ms < 1e4 for ms in times.values())
        assert sum(times.values()) > 0
        named = {name for name in times if not name.startswith("~")}
        if operators == "kinds":
            assert not named
        else:
            assert {"a", "b", "classes"} <= named <= {"input", "a", "b", "pool", "classes"}


class TransportSuite(TargetSuite):
    """Laws of a transport, tried with one runtime: those of its target, and more.

    Attributes:
        NAME: Of the plug-in.
        DEVICE: What it reaches in these tests, as after the colon of a target's name; empty for none.
        RUNTIME: That is there. A device that has to be set up first overrides the fixture `target`, which returns the
            name of the target.
    """

    NAME: ClassVar[str]
    DEVICE: ClassVar[str] = ""
    RUNTIME: ClassVar[str] = "onnxruntime"

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    @pytest.fixture
    def target(self, name: str) -> str:
        return str(TargetName(self.RUNTIME, name, self.DEVICE))

    def test_processor_and_state(self, device: Transport) -> None:
        processor = device.processor()
        assert isinstance(processor, Processor)
        assert processor.num_cores >= 1
        assert device.processor() == processor
        for state in (device.state(), device.state((0,))):
            assert all(value is None or (isinstance(value, float) and math.isfinite(value)) for value in astuple(state))
            assert state.load is None or state.load >= 0
            assert state.frequency_mhz is None or state.frequency_mhz > 1

    def test_a_pinned_model_is_timed(self, runtime: str, device: Transport, models: Models) -> None:
        assert len(device.load(runtime, models(runtime), 1, (0,)).time(2)) == 2

    def test_a_core_that_is_not_there(self, target: str, runtime: str, device: Transport, models: Models) -> None:
        with pytest.raises(TargetError, match="core"):
            device.load(runtime, models(runtime), 1, (900,)).time(1)
        assert device.load(runtime, models(runtime), 1).time(1)
        with pytest.raises(TargetError, match="cores"):
            describe(target, cores=(900,))

    def test_a_file_that_is_no_model(self, runtime: str, device: Transport, models: Models, tmp_path: Path) -> None:
        bad = tmp_path / f"bad{RUNTIMES.load(runtime).SUFFIX}"
        for content in (b"", b"no model at all", models(runtime).read_bytes()[:100]):
            bad.write_bytes(content)
            with pytest.raises(ArtifactError):
                device.load(runtime, bad, 1).time(1)
        with pytest.raises(ArtifactError):
            device.load(runtime, tmp_path / "missing", 1)
        assert device.load(runtime, models(runtime), 1).time(1)

    def test_an_unknown_runtime(self, device: Transport, models: Models) -> None:
        with pytest.raises(PluginError, match="onnxrunntime"):
            device.runtime_version("onnxrunntime")
        with pytest.raises(PluginError, match="onnxrunntime"):
            device.load("onnxrunntime", models("onnxruntime"), 1)

    def test_memory_is_told(self, runtime: str, device: Transport, models: Models) -> None:
        assert 1 < device.peak_memory_mib(runtime, models(runtime), 1) < 1e4

    def test_energy_is_told_or_refused(self, device: Transport) -> None:
        try:
            before = device.energy_uj()
        except TargetError as error:
            refused = error
        else:
            assert before <= device.energy_uj()
            return
        assert refused.found, "what was looked for"

    def test_a_closed_model_or_connection_is_told(self, target: str, runtime: str, models: Models) -> None:
        device = connect(target)
        model = device.load(runtime, models(runtime), 1)
        model.close()
        with pytest.raises(TargetError, match="closed"):
            model.time(1)
        device.load(runtime, models(runtime), 1)
        device.close()
        device.close()

    @pytest.mark.parametrize("device_name", ["-oProxyCommand=touch /tmp/x", "a b", "\n"])
    def test_a_name_that_is_no_device_of_it(self, name: str, device_name: str) -> None:
        with pytest.raises(SpaceEvoError):
            TRANSPORTS.load(name).connect(device_name)
