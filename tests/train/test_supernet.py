"""The sandwich rule."""

import random
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.nets.network import program_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.supernet import Within, make_supernet, sandwich, sandwich_within

MICRO = load_hyperspace("micro")
SPACE = MICRO.space(MICRO.decode("micro-012-000"), 10)


def test_sandwich_is_largest_smallest_and_randoms():
    sample = sandwich(SPACE, num_random=2)
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
    assert len(sandwich(SPACE, num_random=0)(random.Random(0))) == 2


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


def test_sandwich_within():
    smallest = replace(SPACE.smallest(), resolution=36)

    def fits(subnet):
        return subnet.resolution == 36

    sample = sandwich_within(Within(SPACE, fits, smallest), 2, 0)
    first, other = sample(random.Random(3)), sample(random.Random(4))
    assert len(first) == 4
    assert first[:2] == other[:2] == [program_of(Within(SPACE, fits, smallest).large(0)), program_of(smallest)]
    assert [program_of(subnet) for subnet in Within(SPACE, fits, smallest).extremes(0)] == first[:2]
    assert first[2:] != other[2:]
    assert {program[0].in_size for program in (*first, *other)} == {36}


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
    names = {o.name for o in SPACE.maximal_operators().values() if o.has_weights}
    assert set(first.weighted) == names


def test_one_weight_scale_for_all_channels():
    scales = [value for name, value in make_supernet(SPACE, 63, 0, per_channel=False).state_dict().items()
              if name.endswith("weight_scale")]  # fmt: skip
    assert scales
    assert all(scale.shape == (1,) for scale in scales)
