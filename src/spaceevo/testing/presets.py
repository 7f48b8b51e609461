"""What every hyperspace keeps (`spaceevo.spaces.hyperspace.Preset`)."""

from __future__ import annotations

import re
from math import prod
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from spaceevo.spaces.blocks import BLOCKS
from spaceevo.spaces.hyperspace import Hyperspace, SpaceChoice, load_hyperspace


@st.composite
def choices(draw: st.DrawFn, hyperspace: Hyperspace) -> SpaceChoice:
    """Any space of a hyperspace."""
    return SpaceChoice(
        tuple(draw(st.integers(0, len(stage.choices) - 1)) for stage in hyperspace.searched),
        tuple(draw(st.integers(0, stage.num_windows - 1)) for stage in hyperspace.searched),
    )


class PresetSuite:
    """Laws of a hyperspace.

    Attributes:
        NAME: Of the plug-in.
    """

    NAME: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        return self.NAME

    # The name is the same for all; a machine may be slow
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.data())
    def test_encoding_round_trip(self, name: str, data: st.DataObject) -> None:
        hyperspace = load_hyperspace(name)
        choice = data.draw(choices(hyperspace))
        assert hyperspace.decode(hyperspace.encode(choice)) == choice
        assert hyperspace.space(choice, 10).encoding == hyperspace.encode(choice)

    def test_presets_are_consistent(self, name: str) -> None:
        hyperspace = load_hyperspace(name)
        assert hyperspace.name == name
        assert "-" not in name, "encodings are split there"
        assert hyperspace.num_spaces == prod(len(s.choices) * s.num_windows for s in hyperspace.stages)
        assert list(hyperspace.resolutions) == sorted(set(hyperspace.resolutions))
        assert len({stage.name for stage in hyperspace.stages}) == len(hyperspace.stages)
        assert not hyperspace.stages[0].is_searched, "the stem"
        for stage in hyperspace.stages:
            assert 1 <= stage.num_windows <= 10, "one digit"
            assert 1 <= len(stage.choices) <= 10, "one digit"
            assert "/" not in stage.name
            for values in (stage.widths, stage.depths):
                assert list(values) == sorted(set(values))
                assert values[0] > 0
            for choice in stage.choices:
                assert choice.block_type.kind in BLOCKS.names()
                for axis in stage.elastic(stage.choices.index(choice), 0).axes:
                    assert list(axis.values) == sorted(set(axis.values)), axis.name
                    assert re.fullmatch("[a-z_]+", axis.name), "a field of encodings begins with it"
                # Odd; of several, 0 is one that is left out
                several = [k if isinstance(k, tuple) else (k,) for k in choice.kernel_sizes]
                assert all(size % 2 or (size == 0 and len(sizes) > 1) for sizes in several for size in sizes)
                assert len(set(map(len, several))) == 1
            assert len({str(choice.block_type) for choice in stage.choices}) == len(stage.choices)
