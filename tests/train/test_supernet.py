"""The sandwich rule."""

import random
from dataclasses import replace

import torch
from hypothesis import given, strategies as st

from spaceevo.nets.network import program_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.supernet import Sandwich, Within, make_supernet

MICRO = load_hyperspace("micro")
SPACE = MICRO.space(MICRO.decode("micro-012-000"), 10)


def test_sandwich_is_largest_smallest_and_randoms():
    sample = Sandwich.all_of(SPACE).programs(num_random=2)
    rng = random.Random(0)
    draws = [sample(rng) for _ in range(10)]
    for largest, smallest, *randoms in draws:
        assert largest == program_of(SPACE.largest())
        assert smallest == program_of(SPACE.smallest())
        assert len(randoms) == 2
    expected = random.Random(0)
    assert draws[0][2:] == [program_of(SPACE.sample(expected)) for _ in range(2)]
    assert len({program for draw in draws for program in draw[2:]}) > 10


def test_sandwich_without_randoms():
    assert len(Sandwich.all_of(SPACE).programs(num_random=0)(random.Random(0))) == 2


@given(
    code=st.sampled_from(["micro-012-000", "micro-434-312", "micro-340-123"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_subnets_that_are_drawn_meet_the_condition(code, share, seed):
    space = MICRO.space(MICRO.decode(code), 10)
    smallest = space.smallest()
    most = smallest.macs + share**4 * (space.largest().macs - smallest.macs)  # often where few subnets lie
    within = Within(space, lambda subnet: subnet.macs <= most, smallest)
    subnet = within.draw(random.Random(seed))
    assert space.contains(subnet)
    assert subnet.macs <= most
    assert subnet == within.draw(random.Random(seed))


def test_the_large_one_is_near_what_is_allowed():
    drawn = [SPACE.sample(random.Random(n)).macs for n in range(200)]
    most = sorted(drawn)[100]
    within = Within(SPACE, lambda subnet: subnet.macs <= most, SPACE.smallest())
    assert 0.9 * most < within.large(0).macs <= most
    assert within.large(0) == within.large(0)
    assert Within(SPACE, lambda subnet: True, SPACE.smallest()).large(0) == SPACE.largest()


def test_random_subnets_stay_random_where_many_meet_the_condition():
    most = sorted(SPACE.sample(random.Random(n)).macs for n in range(200))[100]
    within = Within(SPACE, lambda subnet: subnet.macs <= most, SPACE.smallest())
    assert len({within.draw(random.Random(n)) for n in range(100)}) > 95
    rng = random.Random(5)
    samples = iter(lambda: SPACE.sample(rng), None)
    firsts = [next(subnet for subnet in samples if subnet.macs <= most) for _ in range(20)]
    rng = random.Random(5)
    assert [within.draw(rng) for _ in range(20)] == firsts


def within_macs(share: float) -> Within:
    """Subnets of so many of the random subnets."""
    drawn = sorted(SPACE.sample(random.Random(n)).macs for n in range(200))
    most = drawn[int(share * len(drawn))]
    return Within(SPACE, lambda subnet: subnet.macs <= most, SPACE.smallest())


def test_a_part_of_another_subnet_shares_its_weights():
    large = within_macs(0.9).large(0)
    smaller = within_macs(0.4)
    part = smaller.part_of(large, 0)
    assert smaller.fits(part)
    assert part == smaller.part_of(large, 0) != smaller.part_of(large, 1)
    common, rng = SPACE.common(part, large).macs, random.Random(0)
    others = [smaller.draw(rng) for _ in range(100)]
    assert sum(common > SPACE.common(other, large).macs for other in others) > 95
    assert common > SPACE.common(smaller.large(0), large).macs
    assert within_macs(0.95).part_of(large, 0) == large


def test_sandwich_of_those_that_meet_a_condition():
    smallest = replace(SPACE.smallest(), resolution=36)
    within = Within(SPACE, lambda subnet: subnet.resolution == 36, smallest)
    sandwich = Sandwich.of(within, None, 0)
    sample = sandwich.programs(2)
    first, other = sample(random.Random(3)), sample(random.Random(4))
    assert len(first) == 4
    assert first[:2] == other[:2] == [program_of(within.large(0)), program_of(smallest)]
    assert [program_of(subnet) for subnet in sandwich.draw(2, random.Random(3))] == first
    assert first[2:] != other[2:]
    assert {program[0].in_shape.height for program in (*first, *other)} == {36}


def test_the_small_one_of_a_sandwich_is_part_of_the_large_one():
    within, smaller = within_macs(0.9), within_macs(0.4)
    sandwich = Sandwich.of(within, smaller, 3)
    assert sandwich == Sandwich(within.large(3), smaller.part_of(within.large(3), 3), within)
    assert Sandwich.of(within, smaller, 4) != sandwich


def test_make_supernet():
    first, again, other = make_supernet(SPACE, 63, 0), make_supernet(SPACE, 63, 0), make_supernet(SPACE, 63, 1)
    assert first.w_qmax == 63
    assert not first.quantized
    for (name, one), two, three in zip(
        first.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)
        if name.endswith(".weight") and "/shortcut" not in name:
            assert not torch.equal(one, three)
    names = {o.id for o in SPACE.largest_nodes().values() if o.has_weights}
    assert set(first.weighted) == names


def test_one_weight_scale_for_all_channels():
    scales = [value for name, value in make_supernet(SPACE, 63, 0, per_channel=False).state_dict().items()
              if name.endswith("weight_scale")]  # fmt: skip
    assert scales
    assert all(scale.shape == (1,) for scale in scales)
