"""The simulated device: known costs, the same answers every time, and faults that look like real ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.graph.nodes import Program
from spaceevo.graph.ops import Depthwise
from spaceevo.measure import target
from spaceevo.measure.campaign import reference_program
from spaceevo.measure.random_graphs import random_float_graph, random_integer_graph
from spaceevo.measure.transports import _simulated_costs, fake
from spaceevo.runtimes import RUNTIMES
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import network_program

NAMES = ("onnxruntime", "litert")


@pytest.fixture(autouse=True)
def new_devices() -> Iterator[None]:
    fake.reset()
    yield
    fake.reset()


def every_block() -> Program:
    """A network with every kind of operator."""
    hyperspace = load_hyperspace("micro")
    encodings = {choice.block_type.kind: number for number, choice in enumerate(hyperspace.searched[0].choices)}
    blocks = (encodings["mbv3"], encodings["fused-mbconv"], encodings["mbv2"])
    space: SearchSpace = hyperspace.space(SpaceChoice(blocks, (0, 0, 0)), 10)
    return network_program(space.smallest())


def export(runtime: str, program: Program, folder: Path, precision: str = "int8") -> Path:
    module = RUNTIMES.load(runtime)
    path = folder / f"{precision}{module.SUFFIX}"
    if precision == "int8":
        module.export_int8(random_integer_graph(program, 0), path, {})
    else:
        module.export_fp32(random_float_graph(program, 0), path, {})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return export("onnxruntime", reference_program(), tmp_path)


def loaded(device: str, path: Path) -> fake.LoadedModel:
    return fake.connect(device).load("onnxruntime", path, 1)


@pytest.mark.parametrize("runtime", NAMES)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_every_operator_of_a_file_costs_what_it_computes(runtime: str, precision: str, tmp_path: Path) -> None:
    program = every_block()
    found = _simulated_costs.kernels(export(runtime, program, tmp_path, precision))
    features = 2 * 10 if runtime == "litert" and precision == "int8" else 0  # see `litert.export_int8`
    dense, depthwise = (
        sum(kernel.work for kernel in found if kernel.kind in kinds) for kinds in (("conv", "linear"), ("depthwise",))
    )
    assert dense == sum(op.macs for op in program if not isinstance(op.op, Depthwise)) + features
    gates = runtime == "litert" and precision == "int8"  # are depthwise convolutions there
    assert (depthwise > sum(op.macs for op in program if isinstance(op.op, Depthwise))) == gates
    assert all(kernel.ms > _simulated_costs.KERNEL_MS for kernel in found)
    weights = {op.id for op in program if op.has_weights}
    assert weights <= {kernel.name for kernel in found} <= {op.id for op in program} | {"output"}
    weighty = [kernel for kernel in found if kernel.kind in ("conv", "depthwise", "linear")]
    assert {kernel.is_int8 for kernel in weighty} == {precision == "int8"}


def test_int8_gains_by_known_factors(tmp_path: Path) -> None:
    (int8, fp32) = (
        _simulated_costs.kernels(export("onnxruntime", reference_program(), tmp_path, one)) for one in ("int8", "fp32")
    )
    for kind, (rate, gain) in _simulated_costs.RATES.items():
        pairs = [[kernel for kernel in one if kernel.kind == kind and kernel.work > 10_000] for one in (int8, fp32)]
        for own, other in zip(*pairs, strict=False) if kind in ("conv", "depthwise") else ():
            assert own.work == other.work
            assert own.num_bytes * 4 == other.num_bytes
            moved = own.num_bytes / (_simulated_costs.MIB_PER_MS * 2**20)
            assert own.ms - _simulated_costs.KERNEL_MS - moved == pytest.approx(own.work / rate / gain)
            assert other.ms - _simulated_costs.KERNEL_MS - 4 * moved == pytest.approx(own.work / rate)


def test_an_exact_device_takes_the_true_time(path: Path) -> None:
    assert loaded("exact", path).time(3) == pytest.approx([fake.true_ms(path, "exact")] * 3)
    assert fake.true_ms(path, "exact,speed=2") == pytest.approx(fake.true_ms(path) / 2)
    assert fake.true_ms(path, threads=2) < fake.true_ms(path) == fake.true_ms(path, threads=2, cores=(1,))


def test_a_seed_gives_the_same_answers(path: Path) -> None:
    samples = []
    for seed in (1, 1, 2):
        fake.reset()
        samples.append(loaded(f"shared,seed={seed}", path).time(50))
    assert samples[0] == samples[1] != samples[2]


def test_a_connection_finds_the_device_as_the_last_one_left_it(path: Path) -> None:
    first = loaded("exact,throttle_after_ms=10", path).time(500)
    second = loaded("exact,throttle_after_ms=10", path).time(1)
    assert second[0] > 1.1 * first[0]


def test_noise_only_adds_time_and_busy_spells_slow_down(path: Path) -> None:
    true_ms = fake.true_ms(path)
    noisy = np.array(loaded("exact,noise=0.02", path).time(500)) / true_ms
    assert noisy.min() > 1
    assert np.median(noisy) == pytest.approx(1.02, abs=0.005)
    busy = np.array(loaded("exact,busy_ms=5,busy_every_ms=5", path).time(3000)) / true_ms
    assert set(busy.round(6)) == {1.0, 1.6}
    assert 0.3 < (busy > 1.3).mean() < 0.9


def test_a_loaded_model_starts_cold(path: Path) -> None:
    samples = loaded("exact,cold=1", path).time(40)
    assert samples[0] == pytest.approx(2 * fake.true_ms(path))
    assert samples[-1] == pytest.approx(fake.true_ms(path), rel=0.01)


def test_heat_slows_down_shows_and_goes_away(path: Path) -> None:
    device = fake.Device("exact,throttle_after_ms=100")
    connection = device.connect()
    model = connection.load("onnxruntime", path, 1)
    cool = connection.state()
    before = model.time(1)[0]
    model.time(int(400 / before))
    hot = connection.state()
    assert model.time(1)[0] == pytest.approx(before / 0.6, rel=0.02)
    assert hot.frequency_mhz == pytest.approx(0.6 * (cool.frequency_mhz or 0), rel=0.02)
    assert (hot.temperature_c or 0) > (cool.temperature_c or 0) + 30
    device._advance(1000, busy=False)
    assert model.time(1)[0] == pytest.approx(before)


def test_an_unplugged_device_is_gone_until_it_is_back(path: Path) -> None:
    name = "unplug_after=4,replug_after=2"
    model = loaded(name, path)  # two requests
    model.time(1)
    model.time(1)
    for _ in range(2):
        with pytest.raises(TargetError, match="unplugged after 4"):
            model.time(1)
    with pytest.raises(TargetError, match="no longer loaded"):
        model.time(1)
    assert loaded(name, path).time(1)


def test_faults(path: Path) -> None:
    with pytest.raises(TargetError, match="in time"):
        loaded("timeout_at=3", path).time(1)
    garbage = loaded("garbage_at=2", path)
    assert garbage.time(1)[0] > 0
    assert not any(sample > 0 for sample in garbage.time(1))
    with pytest.raises(TargetError, match=r"no space for .*MiB are free"):
        loaded("space_mib=0.001", path)
    with pytest.raises(TargetError, match="onnxruntime is not installed"):
        loaded("missing=onnxruntime", path)
    with pytest.raises(TargetError, match="no core 4"):
        fake.connect("").load("onnxruntime", path, 1, (4,))


def test_closing_makes_space(path: Path) -> None:
    size_mib = path.stat().st_size / 2**20
    connection = fake.connect(f"space_mib={1.5 * size_mib}")
    first = connection.load("onnxruntime", path, 1)
    with pytest.raises(TargetError, match="no space"):
        connection.load("onnxruntime", path, 1)
    first.close()
    first.close()
    connection.load("onnxruntime", path, 1)
    connection.close()
    assert fake.connect(f"space_mib={1.5 * size_mib}").load("onnxruntime", path, 1).time(1)


def test_memory_and_energy_grow(path: Path) -> None:
    connection = fake.connect("exact")
    assert connection.peak_memory_mib("onnxruntime", path, 1) > path.stat().st_size / 2**20
    before = connection.energy_uj()
    connection.load("onnxruntime", path, 1).time(100)
    assert connection.energy_uj() - before > 100 * fake.true_ms(path) * 3000


def test_it_is_a_target(path: Path) -> None:
    found = target.describe("onnxruntime@fake:phone,version=7")
    assert (found.runtime_version, found.machine, found.w_qmax) == ("7", "aarch64", 127)
    assert target.describe("onnxruntime@fake").name == "onnxruntime@fake"
    assert target.describe("onnxruntime@fake:machine=x86_64").w_qmax == 63


@pytest.mark.parametrize(
    ("name", "told"),
    [("quite", "Did you mean 'quiet'"), ("nois=1", "Did you mean 'noise'"), ("noise=x", "could not convert"),
     ("noise=-1", "negative"), ("cores=0", "more than 0"), ("noise=nan", "negative"),
     ("machine=vax", "aarch64 and x86_64")],
)  # fmt: skip
def test_a_malformed_name_is_told(name: str, told: str) -> None:
    with pytest.raises(TargetError, match=told):
        fake.connect(name)


def test_presets_and_keys_in_order() -> None:
    assert fake.parse_settings("phone,cores=2,seed=3") == replace(fake.parse_settings("phone"), cores=2, seed=3)
    assert fake.parse_settings("") == fake.Settings() == fake.parse_settings("quiet")


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.tflite"):
        with pytest.raises(ArtifactError, match=name):
            _simulated_costs.kernels(tmp_path / name)
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ArtifactError, match=name):
            _simulated_costs.kernels(tmp_path / name)
