"""Encodings of spaces, sampling and mutation, and what the shipped hyperspaces promise."""

import contextlib
import random

import pytest
from hypothesis import given, strategies as st

from spaceevo.errors import EncodingError, PluginError
from spaceevo.spaces.hyperspace import PRESETS, SpaceChoice, load_hyperspace
from spaceevo.testing.presets import PresetSuite, choices


class TestEveryPreset(PresetSuite):
    @pytest.fixture(params=PRESETS.names())
    def name(self, request):
        return request.param


MICRO = load_hyperspace("micro")


def test_encoding_by_hand():
    assert MICRO.encode(SpaceChoice((0, 1, 4), (1, 2, 0))) == "micro-014-120"


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("micro-050-000", ["block '5'", "stage2", "0 to 4"]),
        ("micro-000-009", ["window '9'", "stage3", "0 to 4"]),
        ("micro-000-400", ["window '4'", "stage1", "0 to 3"]),
        ("micro-0a0-000", ["block 'a'", "stage2", "0 to 4"]),
        ("micro-0²0-000", ["block '²'", "stage2", "0 to 4"]),
        ("micro-00-000", ["2 block digits", "3 searched stages", "micro-000-000"]),
        ("micro-000-0000", ["4 window digits", "3 searched stages", "micro-000-000"]),
        ("mobilew-000-000", ["micro", "micro-000-000"]),
        ("micro-000", ["micro-000-000"]),
        ("micro-000-000-0", ["micro-000-000"]),
        ("", ["micro-000-000"]),
    ],
)
def test_malformed_encodings(encoding, told):
    with pytest.raises(EncodingError) as error:
        MICRO.decode(encoding)
    for part in [repr(encoding), *told]:
        assert part in str(error.value)


@given(st.text())
def test_any_text_is_decoded_or_refused(text):
    with contextlib.suppress(EncodingError):
        assert MICRO.encode(MICRO.decode(text)) == text


def test_space_takes_the_chosen_blocks_and_windows():
    space = MICRO.space(SpaceChoice((1, 0, 2), (0, 3, 4)), 7)
    for stage, hyper, block, window in zip(space.stages[1:], MICRO.searched, (1, 0, 2), (0, 3, 4), strict=True):
        assert stage.name == hyper.name
        assert stage.choice == hyper.choices[block]
        assert stage.widths == hyper.widths[window : window + hyper.window_size]
        assert (stage.depths, stage.stride) == (hyper.depths, hyper.stride)
    assert (space.num_classes, space.resolutions, space.head) == (7, MICRO.resolutions, MICRO.head)


def test_micro_is_large_enough():
    assert MICRO.num_spaces >= 10_000
    assert len(MICRO.searched) >= 3
    assert len({choice.block_type.kind for stage in MICRO.searched for choice in stage.choices}) >= 5
    per_space = [MICRO.space(choice, 10).num_subnets for choice in MICRO.uniform_choices()]
    assert max(per_space) >= 1_000_000_000
    assert min(per_space) >= 10_000_000, "spaces of a block without expand ratios are the smallest"


def test_sampling_reaches_every_choice():
    rng = random.Random(0)
    drawn = [MICRO.sample(rng) for _ in range(500)]
    for position, stage in enumerate(MICRO.searched):
        assert {choice.blocks[position] for choice in drawn} == set(range(len(stage.choices)))
        assert {choice.windows[position] for choice in drawn} == set(range(stage.num_windows))


@given(choices(MICRO), st.integers(0, 2**32))
def test_mutations_change_one_stage(choice, seed):
    rng = random.Random(seed)
    for mutate, changed, kept in (
        (MICRO.mutate_block, "blocks", "windows"),
        (MICRO.mutate_window, "windows", "blocks"),
    ):
        mutant = mutate(choice, rng)
        MICRO.decode(MICRO.encode(mutant))
        assert getattr(mutant, kept) == getattr(choice, kept)
        pairs = zip(getattr(mutant, changed), getattr(choice, changed), strict=True)
        assert sum(new != old for new, old in pairs) == 1


def test_uniform_choices():
    uniform = list(MICRO.uniform_choices())
    # The first searched stage has 4 windows, the others 5: every choice must exist in all stages
    assert len(uniform) == len(set(uniform)) == 5 * 4
    assert all(len(set(choice.blocks)) == len(set(choice.windows)) == 1 for choice in uniform)
    assert all(MICRO.decode(MICRO.encode(choice)) == choice for choice in uniform)


def test_unknown_preset():
    with pytest.raises(PluginError, match="micro"):
        load_hyperspace("mikro")
