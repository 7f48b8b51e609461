"""The sandwich rule."""

import random

import torch

from spaceevo.nets.network import program_of
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.supernet import make_supernet, sandwich

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
