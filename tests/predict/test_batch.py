"""Many subnets of one space at once."""

import random
import re

import numpy as np
import pytest

from spaceevo.errors import EncodingError, TargetError
from spaceevo.predict.batch import ABSENT, BatchPredictor
from spaceevo.predict.fit import fit_measured, fit_subnets
from spaceevo.predict.predictor import LatencyPredictor
from spaceevo.predict.regression import START
from spaceevo.records import TargetDescription
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.spaces.subnet import network_program

TARGET = TargetDescription(
    name="fake@fake", runtime="fake", runtime_version="1", device="d", machine="m", flags=(), threads=1, w_qmax=127
)
MICRO = load_hyperspace("micro")
SPACE = MICRO.space(SpaceChoice((0, 2, 4), (1, 2, 3)), 10)


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    rng = np.random.default_rng(0)
    programs = [network_program(subnet) for subnet in fit_subnets(MICRO, 60, 0, 10)]
    latencies = [sum(op.macs + 1e4 for op in program) * 1e-8 * rng.uniform(0.9, 1.1) for program in programs]
    settings = START.model_copy(update={"block": 0.1})  # blocks have errors of their own: the harder case
    return fit_measured(TARGET, programs, latencies, settings=settings)


@pytest.fixture(scope="module")
def batch(predictor: LatencyPredictor) -> BatchPredictor:
    return BatchPredictor(predictor, SPACE)


def test_the_same_as_one_by_one(predictor: LatencyPredictor, batch: BatchPredictor) -> None:
    rng = random.Random(0)
    subnets = [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(50))]
    rows = batch.rows(subnets)
    assert [batch.subnet(row) for row in rows] == subnets
    assert batch.latencies_ms(rows) == pytest.approx([predictor.network_ms(subnet) for subnet in subnets], rel=1e-12)
    outside = [predictor.num_extrapolated(network_program(subnet)) for subnet in subnets]
    assert batch.num_extrapolated(rows).tolist() == outside


def test_encodings_are_read_as_they_are_written(batch: BatchPredictor) -> None:
    rng = random.Random(1)
    subnets = [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(50))]
    encodings = [encode(subnet) for subnet in subnets]
    rows = batch.rows(subnets)
    assert (batch.decode(encodings) == rows).all()
    assert batch.decode([]).shape == (0, batch.num_columns)
    assert any(".0" in encoding for encoding in encodings)
    otherwise = [encoding.replace(".0", "").replace("#0.5", "#.5").replace("r", "r0") for encoding in encodings]
    assert (batch.decode(otherwise) == rows).all()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("_r", "_r1", "has resolution"),
        ("_w16", "_w17", "has width 17"),
        ("_k3", "_k4", "has kernel size 4"),
        ("_e0", "_e7", "has expand ratio 7"),
        ("d1#", "d9#", "gives"),
        ("_k3", "_k3#3", "values after 'k'"),
        ("_k3", "_x3", "not the encoding"),
        ("_w16", "_w", "Write numbers"),
        ("_r", "", "not the encoding"),
    ],
)
def test_an_encoding_that_is_wrong_is_told_as_by_decode(batch: BatchPredictor, old: str, new: str, said: str) -> None:
    right = encode(SPACE.smallest())
    wrong = right.replace(old, new, 1)
    assert wrong != right
    with pytest.raises(EncodingError) as expected:
        decode(wrong, SPACE)
    with pytest.raises(EncodingError, match=re.escape(str(expected.value))):
        batch.decode([right, wrong])
    assert said in str(expected.value)


def test_blocks_beyond_the_depths_are_an_error(batch: BatchPredictor) -> None:
    depths, *others, resolution = encode(SPACE.smallest()).split("_")
    longer = "_".join((depths, *(f"{field}#{field[1:].split('#')[0]}" for field in others), resolution))
    with pytest.raises(EncodingError, match="add up to"):
        batch.decode([longer])


def test_samples_are_subnets_of_the_space(batch: BatchPredictor) -> None:
    rows = batch.sample(200, np.random.default_rng(0))
    subnets = [batch.subnet(row) for row in rows]
    assert all(map(SPACE.contains, subnets))
    assert (batch.rows(subnets) == rows).all()
    assert {len(subnet.stages[1].blocks) for subnet in subnets} == set(SPACE.stages[1].depths)


def test_a_row_that_is_no_subnet_is_an_error_not_a_number(batch: BatchPredictor) -> None:
    row = batch.rows([SPACE.largest()])
    for column, value in ((1, ABSENT), (2, 999), (2, -2), (3, ABSENT), (0, 99), (0, -1)):
        wrong = row.copy()
        wrong[0, column] = value
        with pytest.raises(EncodingError, match="Row 0"):
            batch.latencies_ms(wrong)
    with pytest.raises(EncodingError, match="another form"):
        batch.latencies_ms(row[:, :-1])
    other = MICRO.space(SpaceChoice((1, 1, 1), (0, 0, 0)), 10)
    with pytest.raises(EncodingError, match="not in"):
        batch.rows([other.smallest()])


def test_a_kind_never_measured_is_an_error() -> None:
    program = network_program(MICRO.space(SpaceChoice((0, 0, 0), (0, 0, 0)), 10).smallest())
    knows_little = fit_measured(TARGET, [program], [1.0], settings=START)
    with pytest.raises(TargetError, match="knows nothing"):
        BatchPredictor(knows_little, SPACE)
