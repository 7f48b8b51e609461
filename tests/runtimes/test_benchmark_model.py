"""The output of LiteRT's benchmark program, as phones print it."""

import pytest
from hypothesis import given, strategies as st

from spaceevo.runtimes.litert import benchmark as program

PRINTED = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model /data/local/tmp/net.tflite
INFO: Initialized session in 16.242ms.
INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 600 seconds.
INFO: count=5 first=360262 curr=250001 min=249999 max=360262 avg=304586 std=2325 p5=249999 median=250000 p95=360262

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 600 seconds.
INFO: count=50 first=249042 curr=250889 min=247067 max=254474 avg=2.49684e+05 std=1442 p5=1 median=2 p95=3

INFO: Inference timings in us: Init: 16242, First inference: 360262, Warmup (avg): 304586, Inference (avg): 249684
INFO: Overall peak memory footprint (MB) via periodic monitoring: 138.809
"""


def test_what_is_told_is_kept() -> None:
    samples = program.samples_ms(PRINTED, 50)
    assert len(samples) == 50
    assert samples[0] == 249.042
    assert {250.889, 247.067, 254.474} <= set(samples)
    assert (min(samples), max(samples)) == (247.067, 254.474)
    assert sum(samples) / 50 == pytest.approx(249.684)
    assert program.peak_memory_mib(PRINTED) == 138.809


def statistics(times: list[int]) -> str:
    if len(set(times)) == 1:
        line = f"count={len(times)} curr={times[-1]}" + ("(all same)" if len(times) > 1 else "")
    else:
        line = f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)}"
        line += f" avg={sum(times) / len(times):g} std=3"
    return f"count=9 curr=3\n{line}\nInference timings in us: Init: 1\n"


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=3))
def test_up_to_three_inferences_are_told_fully(times: list[int]) -> None:
    samples = program.samples_ms(statistics(times), len(times))
    assert sorted(samples) == pytest.approx(sorted(time / 1e3 for time in times), abs=max(times) * 1.6e-8)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=30))
def test_number_ends_extremes_and_sum_are_the_programs(times: list[int]) -> None:
    samples = program.samples_ms(statistics(times), len(times))
    assert len(samples) == len(times)
    assert samples[0] == times[0] / 1e3
    assert times[-1] / 1e3 in samples
    assert (min(samples), max(samples)) == (min(times) / 1e3, max(times) / 1e3)
    assert sum(samples) == pytest.approx(sum(times) / 1e3, rel=1e-4)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "garbage",
        "count=3 first=5 curr=5 min=5 max=5 avg=5 std=0",  # it did not come to its end
        "count=3 first=9 curr=5 min=6 max=9 avg=7 std=0\nInference timings in us: Init: 1",
        "count=3 first=9 curr=5 min=5 max=9 avg=70 std=0\nInference timings in us: Init: 1",
        "count=3 first=0 curr=5 min=0 max=9 avg=4 std=0\nInference timings in us: Init: 1",
        "count=3 first=5 curr=5 min=nan max=9 avg=5 std=0\nInference timings in us: Init: 1",
        "count=4 curr=5\nInference timings in us: Init: 1",
    ],
)
def test_what_is_no_latency_is_refused(printed: str) -> None:
    with pytest.raises(ValueError):
        program.samples_ms(printed, 3)


def test_memory_that_is_not_told() -> None:
    with pytest.raises(ValueError, match="no peak memory"):
        program.peak_memory_mib("Memory footprint delta from the start of the tool (MB): init=4 overall=9")


PROFILED = """INFO: Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t ModifyGraphWithDelegate\t   14.842\t   14.842\t 99.317%\t 99.317%\t  3428.000\t        1\tModifyGraphWithDelegate/0

INFO: Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t  TfLiteXNNPackDelegate\t    0.500\t    0.490\t100.000%\t100.000%\t     0.000\t        1\t[logits]:9

============================== Top by Computation Time ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t  TfLiteXNNPackDelegate\t    0.500\t    0.490\t100.000%\t100.000%\t     0.000\t        1\t[logits]:9

Number of nodes executed: 1
Delegate internal:
============================== Run Order ==============================
\t                   [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t Convolution (NHWC, QC8) IGEMM\t    0.267\t    0.278\t 56.735%\t 56.735%\t     0.000\t        1\tDelegate/Convolution (NHWC, QC8) IGEMM:0
\tConvolution (NHWC, QC8) DWConv\t    0.060\t    0.050\t 20.408%\t 77.143%\t     0.000\t        2\tDelegate/Convolution (NHWC, QC8) DWConv:1
\t Convolution (NHWC, QC8) IGEMM\t    0.100\t    0.112\t 22.857%\t100.000%\t     0.000\t        1\tDelegate/Convolution (NHWC, QC8) IGEMM:2

============================== Top by Computation Time ==============================
\t                   [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t Convolution (NHWC, QC8) IGEMM\t    0.267\t    0.278\t 56.735%\t 56.735%\t     0.000\t        1\tDelegate/Convolution (NHWC, QC8) IGEMM:0

Number of nodes executed: 3
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t Convolution (NHWC, QC8) IGEMM\t        2\t     0.390\t    79.592%\t    79.592%\t     0.000\t        2
"""  # noqa: E501


def test_kernels_are_counted_once() -> None:
    assert program.operator_times(PROFILED) == {
        "~Convolution (NHWC, QC8) IGEMM": pytest.approx(0.278 + 0.112),
        "~Convolution (NHWC, QC8) DWConv": pytest.approx(2 * 0.050),
    }


def test_kernels_that_are_not_told() -> None:
    for printed in ("", PRINTED, PROFILED.partition("Delegate internal")[0]):
        with pytest.raises(ValueError, match="no times of kernels"):
            program.operator_times(printed)
