"""The assessment of a predictor."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from spaceevo.errors import TargetError
from spaceevo.measure.campaign import Program, reference_subject
from spaceevo.measure.store import Store
from spaceevo.predict import assess as assessing
from spaceevo.predict.assess import assess, judge
from spaceevo.predict.fit import fit_measured, fit_subnets
from spaceevo.records import AssessedNetwork, Measurement, PredictorAssessment, TargetDescription
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import network_program

TARGET = TargetDescription(
    name="fake@fake",
    runtime="onnxruntime",
    runtime_version="1",
    device="d",
    machine="m",
    flags=(),
    threads=1,
    w_qmax=127,
)
MICRO = load_hyperspace("micro")


def network(measured_ms: float, predicted_ms: float) -> AssessedNetwork:
    return AssessedNetwork(encoding="e", measured_ms=measured_ms, predicted_ms=predicted_ms)


def test_figures_of_known_errors() -> None:
    found = judge(50, [network(1, 1.05), network(2, 2.4), network(4, 3.6), network(8, 8)])
    assert found.num_fit == 50
    assert found.num_unseen == 4
    assert found.within_10_percent == pytest.approx(0.75)
    assert found.mape == pytest.approx((0.05 + 0.2 + 0.1 + 0.0) / 4)
    assert found.spearman == pytest.approx(1.0)


def test_rank_correlation() -> None:
    assert judge(1, [network(1, 3), network(2, 2), network(3, 1)]).spearman == pytest.approx(-1.0)
    assert judge(1, [network(1, 1), network(2, 4), network(3, 2)]).spearman == pytest.approx(0.5)


@pytest.mark.parametrize("pairs", [[(1, 1)], [(1, 1), (1, 2)], [(1, 2), (2, 2)]], ids=["one", "measured", "predicted"])
def test_a_rank_correlation_that_is_undefined_is_none(pairs: list[tuple[float, float]]) -> None:
    found = judge(1, [network(*pair) for pair in pairs])
    assert found.spearman is None
    assert PredictorAssessment.model_validate_json(found.model_dump_json()) == found


def test_assessments_of_version_0_2_0_are_read() -> None:
    found = judge(1, [network(1, 1)])
    assert PredictorAssessment.model_validate(found.model_dump() | {"spearman": 0.0}).spearman == 0.0


def test_nothing_to_judge_on() -> None:
    with pytest.raises(TargetError, match="unseen"):
        judge(1, [])


def test_unseen_networks_are_unseen_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, num_fit = 3, 60
    fitted_on = fit_subnets(MICRO, num_fit, seed, 10)
    programs = [network_program(subnet) for subnet in fitted_on]
    costs = [sum(node.macs for node in program) * 1e-6 for program in programs]
    predictor = fit_measured(TARGET, programs, costs)
    measured: list[Program] = []

    def took(ms: float) -> Measurement:
        return Measurement(latency_ms=ms, low_ms=ms, high_ms=ms, samples_ms=(ms,))

    def fake(target: object, jobs: Sequence[tuple[str, Program, str]], *rest: object) -> list[Measurement]:
        measured.extend(program for _, program, _ in jobs)
        assert {precision for _, _, precision in jobs} == {"int8"}
        latencies = [predictor.program_ms(program) / 1.2 for _, program, _ in jobs]
        store.put(reference_subject(TARGET), took(0.04))  # the target turns out to be faster
        return [took(ms) for ms in latencies]

    monkeypatch.setattr(assessing, "measure_programs", fake)
    with Store(tmp_path / "m.db") as store:
        store.put(reference_subject(TARGET), took(0.05))
        found = assess(predictor, MICRO, TARGET, store, tmp_path, 25, seed, lambda done, total: None)
    assert found.num_unseen == len(found.networks) == 25
    assert found.num_fit == num_fit
    assert set(measured).isdisjoint(programs)
    assert len(set(measured)) == 25
    assert found.mape == pytest.approx(0.2)
    assert found.within_10_percent == 0.0
    assert found.reference_ms == 0.05, "of the fit"
    for assessed, program in zip(found.networks, measured, strict=True):
        space_name, encoding = assessed.encoding.split(" ")
        subnet = decode(encoding, MICRO.space(MICRO.decode(space_name), 10))
        assert encode(subnet) == encoding
        assert network_program(subnet) == program
        assert assessed.predicted_ms == predictor.network_ms(subnet)
