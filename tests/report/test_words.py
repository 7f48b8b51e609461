from __future__ import annotations

import pytest
from made_up_report import make_cells, make_model, make_search, make_summary, make_target, make_verification

from spaceevo.report import words


def test_the_sentence_is_honest_below_the_baseline() -> None:
    summary = make_summary(models=(make_model(1.2, 0.82),), baselines=(make_model(1.2, 0.853),), num_val_images=10_000)
    assert words.headline(summary).endswith(
        "2.1× faster than its FP32 twin but 3.3 points below the hand-made baseline of the same latency."
    )
    assert "The 1.2 ms model is 3.3 points less accurate than the hand-made baseline" in words.notes(summary)[0]


def test_the_sentence_tells_small_differences_and_unequal_latencies() -> None:
    baseline = make_model(1.2, 0.812, int8_ms=1.0)
    text = words.headline(make_summary(models=(make_model(1.2, 0.82),), baselines=(baseline,)))
    assert "0.8 points above the hand-made baseline for the same budget, which takes 1.00 ms" in text
    assert text.endswith("(within the sampling error of 2,000 images).")


def test_the_sentence_tells_a_model_that_int8_slows_down() -> None:
    model = make_model(1.2, 0.82, fp32_ms=0.8, speedup=0.68)
    assert "1.5× slower than its FP32 twin" in words.headline(make_summary(models=(model,), baselines=()))


def test_equal_accuracy_is_level() -> None:
    summary = make_summary(models=(make_model(1.2, 0.82),), baselines=(make_model(1.2, 0.8202),))
    assert "and level with the hand-made baseline" in words.headline(summary)


def test_the_headline_takes_the_middle_budget_and_the_best_baseline() -> None:
    models = tuple(make_model(b, 0.8) for b in (2.0, 0.8, 1.2, 3.0))
    chosen = words.headline_model(models)
    assert chosen is not None
    assert chosen.budget_ms == 1.2
    baselines = (make_model(1.2, 0.7), make_model(1.2, 0.75), make_model(2.0, 0.9))
    assert words.baseline_for(chosen, baselines) is baselines[1]


def test_a_target_that_became_faster_is_told() -> None:
    summary = make_summary()

    def told(before: float | None, now: float | None) -> list[str]:
        predictor = summary.predictor.model_copy(update={"reference_ms": before})
        both = summary.model_copy(update={"predictor": predictor, "reference_ms": now})
        return [note for note in words.notes(both) if "reference model" in note]

    (note,) = told(0.048, 0.04)
    assert "took 0.0480 ms then, and 0.0400 ms when the models were measured" in note
    assert "1.2× too long" in note
    assert not told(0.04, 0.04)
    assert not told(None, 0.04), "an older assessment"


def test_notes_say_every_fault_in_words() -> None:
    model = make_model(
        1.2, 0.80, int8_ms=1.3, fp32_ms=1.2, speedup=0.923, predicted_ms=1.1, top1_fp32=0.83,
        verification=make_verification(0.97, ("Add_1", "Mul_2", "Mul_3", "Mul_4")),
    )  # fmt: skip
    summary = make_summary(models=(model,), baselines=())
    predictor = summary.predictor.model_copy(update={"within_10_percent": 0.7})
    retrained = make_cells()[0].model_copy(update={"attempts": 2})
    text = " ".join(words.notes(summary.model_copy(update={"predictor": predictor}), (*make_cells(), retrained)))
    for part in (
        "The 1.2 ms model takes 1.30 ms, 8.3 % over its budget.",
        "predicted 15.4 % too low: 1.10 ms instead of 1.30 ms.",
        "slower in INT8 (1.30 ms) than in FP32 (1.20 ms).",
        "Quantization costs the 1.2 ms model 3.0 points of top-1.",
        "4 operators that the runtime computes in float: Add_1, Mul_2, Mul_3, ….",
        "on only 97.0 % of the validation images.",
        "within 10 % for only 70.0 % of 60 networks",
        "mbv1-dual-relu in stage3 is excluded: the loss stayed above 0.95 (after 3 trainings).",
        "mbv1-dual-relu in stage1 needed 2 trainings until it converged.",
    ):
        assert part in text
    assert words.notes(make_summary()) == ()


def test_weight_codes_are_explained() -> None:
    assert "no VNNI" in words.why_w_qmax(make_target(w_qmax=63))
    assert "±63" in words.why_w_qmax(make_target(w_qmax=63))
    assert "exactly" in words.why_w_qmax(make_target())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.ms(0.0), "0.00 ms"),
        (words.ms(9.999), "10.0 ms"),
        (words.ms(float("nan")), "–"),
        (words.points(-0.0001), "0.0 points"),
        (words.points(-0.008), "−0.8 points"),
        (words.times(0.68), "0.68×"),
        (words.count(1_234_567_890), "1.23 G"),
        (words.count(999_900), "1.00 M"),
        (words.duration(59.97), "1 min 0 s"),
        (words.duration(3599.6), "1 h 0 min"),
    ],
)
def test_numbers_for_people(text: str, expected: str) -> None:
    assert text == expected


def test_what_is_known_of_all_spaces() -> None:
    search = make_search()
    text = words.extent_of_search(search)
    assert (
        text
        == "micro-413-223 is the best of 2,000 scored spaces, of 10,000. No proof: A cell has 9 rows, fewer than 30"
    )
    complete = search.model_copy(update={"num_allowed": 2000, "why_unbounded": ""})
    assert words.extent_of_search(complete).endswith("is the best of all 2,000 spaces: every one was scored.")
    bounded = search.model_copy(update={"num_bounded": 8000, "bound": 2.3, "why_unbounded": ""})
    assert "the best of all 10,000 spaces" in words.extent_of_search(bounded)
    assert "none of the 8,000 others scores above 2.30000, 1.9 % below" in words.extent_of_search(bounded)


def test_a_hand_made_network_that_is_as_good_in_fp32_is_told() -> None:
    rival = make_model(1.2, 0.70, int8_ms=1.1, fp32_ms=0.7, top1_fp32=0.9)
    summary = make_summary(models=(make_model(1.2, 0.843),), baselines=(rival,))
    assert words.notes(summary)[1] == (
        "A hand-made network is as good in FP32: that of the 1.2 ms baseline takes 0.700 ms and classifies 90.0 % "
        "correctly, the 1.2 ms model 1.18 ms and 84.3 %."
    )
    slower = summary.model_copy(update={"baselines": (rival.model_copy(update={"fp32_ms": 1.2}),)})
    assert not any("as good in FP32" in note for note in words.notes(slower))
