"""The fastest and the slowest network of a hyperspace, against every combination of block types."""

import random
from itertools import product

import numpy as np
import pytest

from spaceevo.predict.extremes import SmallestLatency, fastest, slowest
from spaceevo.predict.fit import fit_measured, fit_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.predict.regression import START
from spaceevo.records import TargetDescription
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage, SpaceChoice, load_hyperspace
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head, network_program

TARGET = TargetDescription(
    name="fake@fake", runtime="fake", runtime_version="1", device="d", machine="m", flags=(), threads=1, w_qmax=127
)
KINDS = (
    BlockChoice(BlockType("mbv2", "relu6"), (3, 5), (2.0, 4.0)),
    BlockChoice(BlockType("mbv3", "hard_swish"), (3,), (3.0,)),
    BlockChoice(BlockType("conv", "relu"), (3,)),
)
#: Narrowing and widening, other numbers of block types, and a stage between that is not searched.
SMALL = Hyperspace(
    "small",
    (
        HyperStage("stem", KINDS[2:], (8,), 1, (1,), stride=2),
        HyperStage("stage1", KINDS, (16, 24, 32), 2, (1, 2), stride=1),
        HyperStage("between", KINDS[:1], (40,), 1, (1,), stride=2),
        HyperStage("stage2", KINDS[:2], (8, 16, 24), 1, (2,), stride=2),
    ),
    Head(32, 48, "relu"),
    (16, 24, 32),
)


def fitted(hyperspace: Hyperspace, seed: int) -> LatencyPredictor:
    rng = np.random.default_rng(seed)
    programs = [network_program(subnet) for subnet in fit_subnets(hyperspace, 40, seed, 10)]
    latencies = [sum(op.macs + 1e4 for op in program) * 1e-8 * rng.uniform(0.5, 1.5) for program in programs]
    return fit_measured(TARGET, programs, latencies, settings=START.model_copy(update={"block": 0.3}))


@pytest.mark.parametrize("hyperspace", [load_hyperspace("micro"), SMALL], ids=lambda own: own.name)
def test_extremes_are_those_of_all_block_types(hyperspace: Hyperspace) -> None:
    found = []
    for seed in range(3):
        predictor = fitted(hyperspace, seed)
        types = list(product(*(range(len(stage.choices)) for stage in hyperspace.searched)))
        first, last = (0,) * len(hyperspace.searched), tuple(stage.num_windows - 1 for stage in hyperspace.searched)
        small = {own: predictor.network_ms(hyperspace.space(SpaceChoice(own, first), 10).smallest()) for own in types}
        large = [predictor.network_ms(hyperspace.space(SpaceChoice(own, last), 10).largest()) for own in types]
        choice, latency_ms = fastest(predictor, hyperspace, 10)
        assert latency_ms == min(small.values()) == small[choice.blocks]
        assert choice.windows == first
        assert slowest(predictor, hyperspace, 10).latency_ms == max(large)
        without = {(0, choice.blocks[0]), (1, 0)}
        left = {own: ms for own, ms in small.items() if own[0] != choice.blocks[0] and own[1] != 0}
        assert fastest(predictor, hyperspace, 10, without).latency_ms == min(left.values())
        found.append(choice.blocks)
    assert len(set(found)) > 1, "the predictors differ in what is fast"


@pytest.mark.parametrize("hyperspace", [load_hyperspace("micro"), SMALL], ids=lambda own: own.name)
def test_the_smallest_subnet_of_a_space_at_its_best_resolution(hyperspace: Hyperspace) -> None:
    predictor, rng = fitted(hyperspace, 3), random.Random(0)
    smallest_ms = SmallestLatency(predictor, hyperspace, 10)
    for choice in [hyperspace.sample(rng) for _ in range(40)]:
        space = hyperspace.space(choice, 10)
        stages = space.smallest().stages
        expected = min(predictor.network_ms(space.subnet(r, stages)) for r in hyperspace.resolutions)
        assert smallest_ms(choice) == pytest.approx(expected, rel=1e-12)
