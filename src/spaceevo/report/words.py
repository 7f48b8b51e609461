"""Numbers as people read them, and the sentences that the report derives from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spaceevo.records import (
    ClassScores,
    DistilledCell,
    ModelResult,
    SpaceSearchResult,
    StageChoice,
    Summary,
    TargetDescription,
)

TOLERANCE = 0.10  # predictions are called right within this, as in the paper
NO_VALUE = "–"
BUSY = (
    "The target was busy with other work all the time: latencies are medians of what it took so, and hold only while "
    "it is as busy."
)


def ms(value: float) -> str:
    """A latency with three significant digits.

    >>> ms(1.2345), ms(0.04567), ms(123.4)
    ('1.23 ms', '0.0457 ms', '123 ms')
    """
    return f"{_three_digits(value)} ms" if math.isfinite(value) else NO_VALUE


def budget(value: float) -> str:
    """A latency budget as written in the recipe.

    >>> budget(1.20)
    '1.2 ms'
    """
    return f"{value:g} ms"


def percent(share: float) -> str:
    """A share (0 to 1) with one decimal.

    >>> percent(0.8431)
    '84.3 %'
    """
    return f"{100 * share:.1f} %" if math.isfinite(share) else NO_VALUE


def signed_percent(share: float) -> str:
    """A relative difference with its sign.

    >>> signed_percent(-0.052)
    '−5.2 %'
    """
    return f"{_signed(100 * share)} %" if math.isfinite(share) else NO_VALUE


def points(difference: float) -> str:
    """A difference of two shares, in percentage points with its sign.

    >>> points(0.034)
    '+3.4 points'
    """
    return f"{_signed(100 * difference)} points"


def times(ratio: float) -> str:
    """A ratio, for example a speed-up.

    >>> times(2.125)
    '2.1×'
    """
    return f"{ratio:.{1 if ratio >= 1 else 2}f}×" if math.isfinite(ratio) else NO_VALUE


def count(value: int) -> str:
    """A count with three significant digits and a prefix.

    >>> count(12_345_678), count(52_345), count(999)
    ('12.3 M', '52.3 k', '999')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # what rounds to 1000 takes the next prefix
            return f"{_three_digits(value / size)} {unit}"
    return str(value)


def duration(seconds: float) -> str:
    """A time in the units that suit it.

    >>> duration(7.25), duration(95), duration(8040)
    ('7.2 s', '1 min 35 s', '2 h 14 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def correlation(value: float | None) -> str:
    """A correlation, or why there is none.

    >>> correlation(0.98765), correlation(None)
    ('0.988', '– (undefined: one network, or equal latencies)')
    """
    return f"{NO_VALUE} (undefined: one network, or equal latencies)" if value is None else f"{value:.3f}"


def prediction_error(model: ModelResult) -> float:
    """Predicted over measured latency, minus 1."""
    return model.predicted_ms / model.int8_ms - 1


def baseline_for(model: ModelResult, baselines: Sequence[ModelResult]) -> ModelResult | None:
    """The most accurate baseline of the same budget; None where there is none."""
    same = [other for other in baselines if math.isclose(other.budget_ms, model.budget_ms)]
    return max(same, key=lambda other: other.top1_int8, default=None)


def headline_model(models: Sequence[ModelResult]) -> ModelResult | None:
    """The model of the middle budget, of two the lower: a fixed choice, not the most flattering one."""
    ordered = sorted(models, key=lambda model: model.budget_ms)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def class_cost(classes: ClassScores) -> str:
    """Which class INT8 costs most, in a sentence."""
    costs = [(one.cost, one) for one in classes.classes if one.cost is not None]
    cost, worst = max(costs, key=lambda pair: pair[0], default=(0.0, None))
    if worst is None or cost <= 0:
        return "INT8 costs no class anything."
    num = round(cost * worst.num_images)
    return (
        f"INT8 costs most in {worst.name}: {100 * cost:.1f} points of recall, {num} of {worst.num_images:,} "
        f"{'image' if worst.num_images == 1 else 'images'}."
    )


def headline_budget(num_budgets: int) -> str:
    """Which budget `headline_model` is about.

    >>> headline_budget(2), headline_budget(3), headline_budget(4)
    ('the lower of 2', 'the middle one of 3', 'the lower of the middle two of 4')
    """
    if num_budgets == 2:
        return "the lower of 2"
    return f"the middle one of {num_budgets}" if num_budgets % 2 else f"the lower of the middle two of {num_budgets}"


def sampling_error(first: float, second: float, num_images: int) -> float:
    """Half of the 95 % interval of the difference of two accuracies, 0 to 1.

    Takes the two as independent; judged on the same images, the true interval is narrower.
    """
    return 1.96 * math.sqrt((first * (1 - first) + second * (1 - second)) / max(1, num_images))


def headline(summary: Summary) -> str:
    """The result in one sentence, good or bad, for the model of the middle budget."""
    model = headline_model(summary.models)
    if model is None:
        return "This run has not exported a model."
    baseline = baseline_for(model, summary.baselines)
    faster, speed = _speed_clause(model)
    sentence = (
        f"At {ms(model.int8_ms)} the INT8 model classifies {percent(model.top1_int8)} of "
        f"{summary.num_val_images:,} validation images correctly, "
    )
    if baseline is None:
        return f"{sentence}{speed}."
    better, accuracy = _baseline_clause(model, baseline, summary.num_val_images)
    return f"{sentence}{speed} {'and' if faster == better else 'but'} {accuracy}."


def notes(summary: Summary, cells: Sequence[DistilledCell] = ()) -> tuple[str, ...]:
    """What a reader should know before trusting the numbers; empty where all is well."""
    found = [*([BUSY] if summary.busy else []), *summary.notes]
    before, now = summary.predictor.reference_ms, summary.reference_ms
    if before and now and before != now:
        found.append(
            f"The target was busy or throttled when the predictor was fitted: its reference model took {ms(before)} "
            f"then, and {ms(now)} when the models were measured. Predicted latencies are those of the slower state, "
            f"{times(before / now)} too long, and budgets are met with that much to spare. A run in a new folder, now, "
            "has both alike."
        )
    if summary.not_searched:
        found.append(
            f"The subnet search saw no image of {', '.join(summary.not_searched)}: such a class has one training image "
            "alone, or data.search_share leaves no room for it."
        )
    for model, name in named_models(summary):
        found.extend(_model_notes(model, name))
    for model in summary.models:
        rivals = [b for b in summary.baselines if b.fp32_ms <= model.int8_ms and b.top1_fp32 >= model.top1_int8]
        if rivals:
            rival = max(rivals, key=lambda other: other.top1_fp32)
            found.append(
                f"A hand-made network is as good in FP32: that of the {budget(rival.budget_ms)} baseline takes "
                f"{ms(rival.fp32_ms)} and classifies {percent(rival.top1_fp32)} correctly, "
                f"the {budget(model.budget_ms)} model {ms(model.int8_ms)} and {percent(model.top1_int8)}."
            )
        baseline = baseline_for(model, summary.baselines)
        if baseline is not None and model.top1_int8 < baseline.top1_int8:
            found.append(
                f"The {budget(model.budget_ms)} model is {_magnitude(model, baseline)} points less accurate "
                "than the hand-made baseline for the same budget."
            )
    predictor = summary.predictor
    if predictor.within_10_percent < 0.9:
        found.append(
            f"The latency predictor is within 10 % for only {percent(predictor.within_10_percent)} of "
            f"{predictor.num_unseen} networks that it has not seen."
        )
    for cell in cells:
        where = f"Block type {cell.block_type} in {cell.stage}"
        if cell.failure:
            found.append(
                f"{where} is excluded: {cell.failure.rstrip('.')} (after {_plural(cell.attempts, 'training')})."
            )
        elif cell.attempts > 1:
            found.append(f"{where} needed {_plural(cell.attempts, 'training')} until it converged.")
    return tuple(found)


def named_models(summary: Summary) -> list[tuple[ModelResult, str]]:
    """Models and baselines by ascending budget, each with a name such as "1.2 ms model"."""
    both = sorted((*summary.models, *summary.baselines), key=lambda model: model.budget_ms)  # stable: models first
    kinds = {"found": "model", "hand-made": "baseline"}
    return [(model, f"{budget(model.budget_ms)} {kinds[model.origin]}") for model in both]


def share(share: float) -> str:
    """With two decimals, and 100 % only where every image agrees."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.2f} %"


def extent_of_search(search: SpaceSearchResult) -> str:
    """How many spaces were scored, and what is known of all others."""
    best, scored = search.best, search.num_evaluated
    if search.bound is not None:
        return (
            f"{best.encoding} is the best of all {scored + search.num_bounded:,} spaces: {scored:,} were scored, and "
            f"none of the {search.num_bounded:,} others scores above {search.bound:.5f}, "
            f"{percent(1 - search.bound / best.qt_score)} below."
        )
    if search.num_allowed == scored:
        return f"{best.encoding} is the best of all {scored:,} spaces: every one was scored."
    found = f"{best.encoding} is the best of {scored:,} scored spaces, of {search.num_allowed:,}."
    return f"{found} No proof: {search.why_unbounded}" if search.why_unbounded else found


def choice_name(choice: StageChoice) -> str:
    """A block type with its index, or the widths of a window."""
    return f"block {choice.index}, {choice.name}" if choice.kind == "block" else f"widths {choice.name}"


def why_w_qmax(target: TargetDescription) -> str:
    """Why weights use the codes that they use on this target."""
    if target.w_qmax >= 127:
        return f"{target.runtime} multiplies 8-bit codes exactly on this processor, so weights use all of them."
    return (
        "This processor's fast 8-bit multiplication (no VNNI) adds pairs of products in 16 bits, which full "
        f"8-bit weights overflow. Weight codes within ±{target.w_qmax} cannot overflow, at the same speed."
    )


def _speed_clause(model: ModelResult) -> tuple[bool, str]:
    if model.speedup >= 1:
        return True, f"{times(model.speedup)} faster than its FP32 twin"
    return False, f"{times(1 / model.speedup)} slower than its FP32 twin"


def _baseline_clause(model: ModelResult, baseline: ModelResult, num_images: int) -> tuple[bool, str]:
    difference = model.top1_int8 - baseline.top1_int8
    which = "the hand-made baseline of the same latency"
    if abs(baseline.int8_ms / model.int8_ms - 1) > 0.05:
        which = f"the hand-made baseline for the same budget, which takes {ms(baseline.int8_ms)}"
    magnitude = _magnitude(model, baseline)
    if magnitude == "0.0":
        return True, f"level with {which}"
    clause = f"{magnitude} points {'above' if difference > 0 else 'below'} {which}"
    if abs(difference) < sampling_error(model.top1_int8, baseline.top1_int8, num_images):
        clause += f" (within the sampling error of {num_images:,} images)"
    return difference > 0, clause


def _model_notes(model: ModelResult, name: str) -> list[str]:
    found = []
    over = model.int8_ms / model.budget_ms - 1
    if over >= 0.0005:
        found.append(f"The {name} takes {ms(model.int8_ms)}, {percent(over)} over its budget.")
    error = prediction_error(model)
    if abs(error) > TOLERANCE:
        way = "high" if error > 0 else "low"
        found.append(
            f"The latency of the {name} was predicted {percent(abs(error))} too {way}: "
            f"{ms(model.predicted_ms)} instead of {ms(model.int8_ms)}."
        )
    if model.speedup < 1:
        found.append(f"The {name} is slower in INT8 ({ms(model.int8_ms)}) than in FP32 ({ms(model.fp32_ms)}).")
    loss = model.top1_fp32 - model.top1_int8
    if loss > 0.01:
        found.append(f"Quantization costs the {name} {100 * loss:.1f} points of top-1.")
    floats, agreement = model.verification.float_operators, model.verification.integer.top1
    if floats:
        some = ", ".join(floats[:3]) + (", …" if len(floats) > 3 else "")
        number = _plural(len(floats), "operator")
        found.append(f"The {name} has {number} that the runtime computes in float: {some}.")
    if agreement < 0.99:
        found.append(
            f"The INT8 file of the {name} gives the class of the integer reference on only "
            f"{percent(agreement)} of the validation images."
        )
    return found


def _magnitude(model: ModelResult, baseline: ModelResult) -> str:
    return f"{100 * abs(model.top1_int8 - baseline.top1_int8):.1f}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _three_digits(value: float) -> str:
    exponent = int(f"{value:.2e}".split("e")[1])  # after rounding: 9.999 is 10.0
    return f"{value:.{max(0, 2 - exponent)}f}"


def _signed(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
