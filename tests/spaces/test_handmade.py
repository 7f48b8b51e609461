"""Hand-made networks to compare with."""

import pytest

from spaceevo.spaces.choices import make_divisible
from spaceevo.spaces.handmade import MULTIPLIERS, every_mobilenet_v3, matching_mobilenet_v3, mobilenet_v3
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.spaces.subnet import network_program

MICRO = load_hyperspace("micro")


def test_structure():
    subnet = mobilenet_v3(MICRO, 1.0, 36, 5)
    assert (subnet.resolution, subnet.num_classes) == (36, 5)
    assert [stage.name for stage in subnet.stages] == [stage.name for stage in MICRO.stages]
    assert [stage.stride for stage in subnet.stages] == [stage.stride for stage in MICRO.stages]
    assert {str(stage.block_type) for stage in subnet.stages[1:]} == {"mbv3-hard-swish"}
    # 16, then 1.7 times the stage before: 27.2, 46.24, 78.6
    assert [stage.blocks[0].width for stage in subnet.stages] == [16, 32, 48, 80]
    assert [[(b.kernel_size, b.expand_ratio) for b in stage.blocks] for stage in subnet.stages[1:]] == [
        [(3, 4.0), (3, 3.0)],
        [(5, 3.0)] * 3,
        [(3, 6.0), (3, 2.5), (3, 2.3)],
    ]
    assert (subnet.head.final_expand, subnet.head.feature_mix) == (MICRO.head.final_expand, MICRO.head.feature_mix)
    assert network_program(subnet)[-1].out_shape.channels == 5


def test_width_multiplier_scales_every_width():
    half = mobilenet_v3(MICRO, 0.5, 32, 10)
    assert [stage.blocks[0].width for stage in half.stages] == [8, 16, 24, 40]
    assert half.head.final_expand == make_divisible(MICRO.head.final_expand / 2)
    macs = [mobilenet_v3(MICRO, multiplier, 32, 10).macs for multiplier in MULTIPLIERS]
    assert macs == sorted(macs)
    assert len(set(macs)) > len(macs) / 2


def macs_as_ms(subnet):
    return subnet.macs / 1e6


@pytest.mark.parametrize("budget_ms", [3.0, 6.0, 12.0])
def test_largest_that_meets_the_budget(budget_ms):
    found = matching_mobilenet_v3(MICRO, budget_ms, 10, macs_as_ms)
    assert macs_as_ms(found) <= budget_ms
    same_resolution = [mobilenet_v3(MICRO, multiplier, found.resolution, 10) for multiplier in MULTIPLIERS]
    assert found.macs == max(subnet.macs for subnet in same_resolution if macs_as_ms(subnet) <= budget_ms)
    for resolution in MICRO.resolutions:
        if resolution > found.resolution:
            assert macs_as_ms(mobilenet_v3(MICRO, MULTIPLIERS[0], resolution, 10)) > budget_ms


def test_every_network_is_one_that_may_match() -> None:
    every = list(every_mobilenet_v3(MICRO, 10))
    assert len(every) == len(set(every)) > 2 * len(MULTIPLIERS)
    assert {subnet.resolution for subnet in every} == set(MICRO.resolutions)
    assert {matching_mobilenet_v3(MICRO, budget_ms, 10, macs_as_ms) for budget_ms in (0.0, 3.0, 6.0)} <= set(every)


def test_budget_between_resolutions():
    smallest = {r: macs_as_ms(mobilenet_v3(MICRO, MULTIPLIERS[0], r, 10)) for r in MICRO.resolutions}
    budget_ms = (smallest[32] + smallest[36]) / 2
    assert matching_mobilenet_v3(MICRO, budget_ms, 10, macs_as_ms).resolution == 32


def test_no_network_meets_the_budget():
    assert matching_mobilenet_v3(MICRO, 0.0, 10, macs_as_ms) == mobilenet_v3(MICRO, MULTIPLIERS[0], 32, 10)
