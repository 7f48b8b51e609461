"""The plug-ins of CONTRIBUTING.md, typed off as they stand: found by an entry point, checked, and used."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from spaceevo import plugins
from spaceevo.cli import VERBS
from spaceevo.measure.metrics import METRICS
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.run.stage import STAGES
from spaceevo.runtimes import RUNTIMES, Runtime
from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import PRESETS
from spaceevo.spaces.named import named_subnet
from spaceevo.spaces.subnet import network_program
from spaceevo.testing import BlockSuite, DatasetSuite, MetricSuite, PresetSuite, RuntimeSuite, TargetSuite
from spaceevo.train.datasets import DATASETS

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
ROOMS: dict[str, plugins.Registry[Any]] = {
    "spaces/blocks": BLOCKS, "spaces/presets": PRESETS, "train/datasets": DATASETS, "runtimes": RUNTIMES,
    "measure/metrics": METRICS, "cli": VERBS, "stages": STAGES,
}  # fmt: skip


def examples() -> dict[str, str]:
    """Source by path, as the first line of an example tells it."""
    sources = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(sources)


@pytest.fixture
def typed_off(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every example as a module of a third party, with its entry point."""
    entries: dict[str, list[EntryPoint]] = {}
    folder = tmp_path_factory.mktemp("typed-off")
    for path, source in examples().items():
        room, _, name = path.removesuffix(".py").rpartition("/")
        (folder / f"of_a_third_party_{name}.py").write_text(source)
        group = ROOMS[room].package
        entry = EntryPoint(name.replace("_", "-"), f"of_a_third_party_{name}", group)
        entries.setdefault(group, []).append(entry)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries.get(group, []))
    plugins._locations.cache_clear()
    yield
    plugins._locations.cache_clear()
    for name in [name for name in sys.modules if name.startswith("of_a_third_party_")]:
        del sys.modules[name]


def test_every_room_has_one() -> None:
    assert {path.rpartition("/")[0] for path in examples()} == set(ROOMS)


@pytest.mark.usefixtures("typed_off")
def test_each_has_what_its_room_asks_for() -> None:
    for path in examples():
        room, _, name = path.removesuffix(".py").rpartition("/")
        assert ROOMS[room].load(name.replace("_", "-")).__name__ == f"of_a_third_party_{name}"


@pytest.mark.usefixtures("typed_off")
def test_the_data_set(tmp_path: Path) -> None:
    stripes = DATASETS.load("stripes")
    data = stripes.load(stripes.Settings(num_images=6), 8, tmp_path)
    assert data.class_names == ("horizontal", "vertical")
    assert data.train_images.shape == data.val_images.shape == (6, 3, 8, 8)
    assert np.ptp(data.train_images[0], axis=2).max() == 0, "horizontal stripes do not vary along a row"


@pytest.mark.usefixtures("typed_off")
def test_the_metric() -> None:
    subnet = named_subnet("ResNet-18")
    assert METRICS.load("weights-mib").features(subnet) == (11_689_512 / 2**20,)


@pytest.mark.usefixtures("typed_off")
def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    VERBS.load("spaces").register(app)
    app([], standalone_mode=False)
    assert capsys.readouterr().out == "12,500\n"


@pytest.mark.usefixtures("typed_off")
def test_the_runtime(tmp_path: Path) -> None:
    runtime = RUNTIMES.load("onnx-reference")
    program = network_program(named_subnet("d1#1#1#1_k3#3#3#3_w16#16#24#48_e0#0#0#0_r32", "micro-000-000", 10))
    path = tmp_path / f"net{runtime.SUFFIX}"
    runtime.export_fp32(random_float_graph(program, 0), path, {"name": "net"})
    assert runtime.Session(path).run(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 10)
    assert min(runtime.load(path).time(2)) > 0
    runtime.export_int8(random_integer_graph(program, 0), path, {})
    assert runtime.float_operators(path)


@pytest.mark.usefixtures("typed_off")
class TestStripes(DatasetSuite):
    NAME = "stripes"
    OPTIONS = {"num_images": 6}  # noqa: RUF012


@pytest.mark.usefixtures("typed_off")
class TestDepthwiseMlp(BlockSuite):
    NAME = "depthwise-mlp"


@pytest.mark.usefixtures("typed_off")
class TestNano(PresetSuite):
    NAME = "nano"


@pytest.mark.usefixtures("typed_off")
class TestWeights(MetricSuite):
    NAME = "weights-mib"


@pytest.mark.usefixtures("typed_off")
class TestReference(RuntimeSuite):
    NAME = "onnx-reference"
    test_rectangle = None  # it computes in float

    def test_file_computes_what_the_reference_does(self, runtime: Runtime, file: Path) -> None:
        """In float, as it says."""
        assert runtime.float_operators(file)


@pytest.mark.usefixtures("typed_off")
class TestReferenceHere(TargetSuite):
    TARGET, OPERATORS = "onnx-reference@local", "refused"
