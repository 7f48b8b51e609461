"""The predictor on a simulated device whose operators have known costs."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from spaceevo.errors import ArtifactError, TargetError
from spaceevo.graph.nodes import HEAD, Node, Program, Role
from spaceevo.graph.ops import Add, Conv, Depthwise, Op, Quantize, Relabel
from spaceevo.graph.tensors import Quantizer, Shape, Tensor, square
from spaceevo.measure.store import Store
from spaceevo.predict import fit as fitting
from spaceevo.predict.features import features, kernel
from spaceevo.predict.fit import fit, fit_measured, fit_subnets, random_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.predict.regression import START
from spaceevo.records import Measurement, TargetDescription
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import Subnet, network_program, stage_program

TARGET = TargetDescription(
    name="fake@fake",
    runtime="fake",
    runtime_version="1",
    device="d",
    machine="m",
    flags=(),
    threads=1,
    w_qmax=127,
)
MICRO = load_hyperspace("micro")
BASE_MS = 0.02


def true_node_ms(node: Node) -> float:
    """A device of its own kind: a price per call, per padded MAC (depthwise is slow) and per element."""
    if isinstance(node.op, Relabel):
        return 0.0
    width = node.out_shape.channels
    channels = -(-width // 16) * 16
    is_large = isinstance(node.op, Conv) and node.op.kernel_size > 1
    speed = 2e-8 if isinstance(node.op, Depthwise) else 3e-9 if is_large else 2e-9
    macs = node.macs / width * channels
    return 0.002 + macs * speed + node.out_shape.num_elements * (4e-7 if isinstance(node.op, Add) else 2e-7)


def true_ms(program: Program) -> float:
    return BASE_MS + sum(map(true_node_ms, program))


def program_of(subnet: Subnet) -> Program:
    return network_program(subnet)


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    programs = [program_of(subnet) for subnet in fit_subnets(MICRO, 120, 0, 10)]
    return fit_measured(TARGET, programs, [true_ms(program) for program in programs])


UNSEEN = random_subnets(MICRO, 40, 1, "test", 10)


def test_a_device_of_known_costs_is_recovered(predictor: LatencyPredictor) -> None:
    errors = [predictor.network_ms(subnet) / true_ms(program_of(subnet)) - 1 for subnet in UNSEEN]
    assert np.abs(errors).max() < 0.02


def test_noisy_measurements_average_out() -> None:
    rng = np.random.default_rng(0)
    programs = [program_of(subnet) for subnet in fit_subnets(MICRO, 120, 0, 10)]
    noisy = [true_ms(program) * (1 + 0.02 * float(rng.standard_normal())) for program in programs]
    fitted = fit_measured(TARGET, programs, noisy)
    errors = [fitted.network_ms(subnet) / true_ms(program_of(subnet)) - 1 for subnet in UNSEEN]
    assert np.abs(errors).mean() < 0.02


def test_a_network_is_the_sum_of_its_stages_and_the_rest(predictor: LatencyPredictor) -> None:
    for subnet in UNSEEN[:10]:
        total, shape = predictor.base_ms, subnet.in_shape
        for stage in subnet.stages:
            program = stage_program(stage, shape)
            total += predictor.stage_ms(program)
            shape = program[-1].out_shape
        rest = [node for node in program_of(subnet) if isinstance(node.op, Quantize) or node.role.stage == HEAD]
        total += sum(predictor.kernel_ms(kernel(node)) for node in rest)
        assert predictor.network_ms(subnet) == pytest.approx(total)
        assert predictor.program_ms(program_of(subnet)) == pytest.approx(total)


def test_predictions_are_positive_and_grow(predictor: LatencyPredictor) -> None:
    rng = random.Random(0)
    for _ in range(10):
        space = MICRO.space(MICRO.sample(rng), 10)
        assert 0 < predictor.network_ms(space.smallest()) < predictor.network_ms(space.largest())


def test_json_round_trip(predictor: LatencyPredictor) -> None:
    read = LatencyPredictor.from_json(predictor.to_json())
    assert read.target == TARGET
    assert read.num_fit == predictor.num_fit == 120
    assert [read.network_ms(s) for s in UNSEEN] == [predictor.network_ms(s) for s in UNSEEN]
    assert read.to_json() == predictor.to_json()


def test_damaged_or_foreign_text_is_told(predictor: LatencyPredictor) -> None:
    text = predictor.to_json()
    other = json.loads(text) | {"format": "spaceevo latency predictor 99"}
    lacking = {name: value for name, value in json.loads(text).items() if name != "settings"}
    foreign = json.loads(text) | {"blocks": [[[9999, 1]]]}
    earlier = json.loads(text) | {"format": "spaceevo latency predictor 2"}
    kernels = json.loads(text)["kernels"]
    damaged = [
        json.loads(text) | {"kernels": [{**kernels[0], **change}, *kernels[1:]]}
        for change in ({"op": {"op": "Teleport"}}, {"op": 3}, {"in_shape": "wide"}, {"out": {}}, {"colour": "red"})
    ]
    others = map(json.dumps, (other, lacking, foreign, earlier, *damaged, {**json.loads(text), "kernels": [{}]}))
    for wrong in ("", text[: len(text) // 2], "[]", *others):
        with pytest.raises(ArtifactError, match="Fit it again"):
            LatencyPredictor.from_json(wrong)


def test_the_file_holds_measurements_and_settings_and_refitting_gives_the_same(predictor: LatencyPredictor) -> None:
    content = json.loads(predictor.to_json())
    assert set(content) == {"format", "target", "settings", "kernels", "blocks", "networks", "latencies_ms"}
    programs = [program_of(subnet) for subnet in fit_subnets(MICRO, 120, 0, 10)]
    assert content["latencies_ms"] == [true_ms(program) for program in programs]
    again = fit_measured(TARGET, programs, content["latencies_ms"])
    assert again.settings == predictor.settings
    assert [again.network_ms(s) for s in UNSEEN] == [predictor.network_ms(s) for s in UNSEEN]


def test_operators_asked_for_together_or_one_by_one_cost_the_same(predictor: LatencyPredictor) -> None:
    fresh = LatencyPredictor.from_json(predictor.to_json())
    program = [node for subnet in UNSEEN for node in program_of(subnet)]
    fresh.prepare(program)
    kernels = [kernel(node) for node in program]
    assert list(map(fresh.kernel_ms, kernels)) == pytest.approx(list(map(predictor.kernel_ms, kernels)))
    assert min(fresh.kernel_ms(one) for one in kernels if not isinstance(one.op, Relabel)) > 0


def test_what_features_do_not_tell_is_learnt_from_near_kernels() -> None:
    def odd_ms(program: Program) -> float:
        """Wide 1x1 convolutions on small maps are three times as slow as all others."""
        odd = [
            node
            for node in program
            if isinstance(node.op, Conv | Depthwise) and node.in_shape.height <= 10 and node.in_shape.channels >= 128
        ]
        return true_ms(program) + 2 * sum(map(true_node_ms, odd))

    programs = [program_of(subnet) for subnet in fit_subnets(MICRO, 150, 0, 10)]
    latencies = [odd_ms(program) for program in programs]
    unseen = [program_of(subnet) for subnet in UNSEEN]
    measured = np.array([odd_ms(program) for program in unseen])

    def error(fitted: LatencyPredictor) -> float:
        return float(np.abs(np.array([fitted.program_ms(program) for program in unseen]) / measured - 1).mean())

    features_only = fit_measured(
        TARGET, programs, latencies, settings=START.model_copy(update={"shared": 0.0, "own": 0.0})
    )
    fitted = fit_measured(TARGET, programs, latencies)
    assert fitted.settings.shared > 0
    assert error(fitted) < 0.75 * error(features_only)


def test_a_block_may_have_an_error_of_its_own() -> None:
    programs = [program_of(subnet) for subnet in fit_subnets(MICRO, 60, 0, 10)]
    settings = START.model_copy(update={"block": 0.3, "noise": 0.002})
    rng = np.random.default_rng(0)
    latencies = [true_ms(program) * float(rng.uniform(0.8, 1.2)) for program in programs]
    fitted = fit_measured(TARGET, programs, latencies, settings=settings)
    errors = [fitted.program_ms(program) / ms - 1 for program, ms in zip(programs, latencies, strict=True)]
    assert np.abs(errors).max() < 0.03
    assert fitted.solution.blocks


def test_a_prediction_tells_what_it_extrapolated(predictor: LatencyPredictor) -> None:
    program = program_of(UNSEEN[0])
    found = predictor.predict(program)
    assert found.latency_ms == predictor.program_ms(program)
    assert found.num_operators == sum(not isinstance(op.op, Relabel) for op in program)
    assert found.num_extrapolated == predictor.num_extrapolated(program) <= found.num_operators


def test_extrapolation_is_counted(predictor: LatencyPredictor) -> None:
    assert sum(predictor.num_extrapolated(program_of(s)) for s in fit_subnets(MICRO, 120, 0, 10)) == 0
    within = sum(predictor.num_extrapolated(program_of(subnet)) for subnet in UNSEEN)
    num_operators = sum(len(program_of(subnet)) for subnet in UNSEEN)
    assert within < 0.02 * num_operators
    free = node_of(Relabel(), square(999, 1), "gate")
    assert predictor.num_extrapolated((node_of(Conv(999), square(999, 64)), UNKNOWN, free)) == 2


def node_of(op: Op, x: Shape, quantizer: Quantizer = "relu") -> Node:
    return Node("y", op, ("x",), x, Tensor(op.out_shape(x), quantizer), Role("", None, "y"))


UNKNOWN = node_of(Depthwise(9), square(16, 8))


def test_a_kind_never_measured_is_an_error_not_a_number(predictor: LatencyPredictor) -> None:
    with pytest.raises(TargetError, match="depthwise9x9"):
        predictor.kernel_ms(kernel(UNKNOWN))
    with pytest.raises(TargetError, match="depthwise9x9"):
        predictor.prepare([UNKNOWN])


@pytest.mark.parametrize("latencies", [[], [0.0], [-1.0], [float("nan")], [float("inf")]])
def test_nothing_to_fit_on(latencies: list[float]) -> None:
    programs = [program_of(UNSEEN[0])] * len(latencies)
    with pytest.raises(TargetError, match="positive"):
        fit_measured(TARGET, programs, latencies)


def test_networks_to_fit_on_are_distinct_and_the_same_every_time() -> None:
    subnets = fit_subnets(MICRO, 60, 5, 10)
    assert subnets == fit_subnets(MICRO, 60, 5, 10)
    assert len(set(subnets)) == len(subnets) == 60
    assert subnets != fit_subnets(MICRO, 60, 6, 10)
    assert {subnet.num_classes for subnet in fit_subnets(MICRO, 20, 5, 7)} == {7}


@pytest.mark.parametrize("hyperspace", [MICRO])
def test_even_few_networks_have_every_kind_of_operator(hyperspace: object) -> None:
    def groups(subnets: Sequence[Subnet]) -> set[str]:
        return {features(kernel(node))[0] for subnet in subnets for node in program_of(subnet)}

    assert groups(fit_subnets(MICRO, 1, 0, 10)) >= groups(UNSEEN)


def test_fit_measures_whole_int8_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[tuple[str, Program, str]] = []

    def fake(target: object, programs: Sequence[tuple[str, Program, str]], *rest: object) -> list[Measurement]:
        jobs.extend(programs)
        latencies = [true_ms(program) for _, program, _ in programs]
        return [Measurement(latency_ms=ms, low_ms=ms, high_ms=ms, samples_ms=(ms,)) for ms in latencies]

    monkeypatch.setattr(fitting, "measure_programs", fake)
    with Store(tmp_path / "m.db") as store:
        fitted = fit(MICRO, TARGET, store, tmp_path, 100, 0, lambda done, total: None, num_classes=7)
    assert fitted.num_fit == len(jobs) == 100
    assert {precision for _, _, precision in jobs} == {"int8"}
    assert {program[-1].out_shape.channels for _, program, _ in jobs} == {7}
    errors = [fitted.network_ms(subnet) / true_ms(program_of(subnet)) - 1 for subnet in UNSEEN]
    assert np.abs(errors).max() < 0.03
