"""Logits of many batches are those of `forward`, bit for bit; a quantized network is folded once for all of them."""

from __future__ import annotations

import pytest
import torch

from spaceevo.nets.network import Network, program_of, single_network
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import BlockType, Head
from spaceevo.train.batches import to_input
from spaceevo.train.evaluation import BATCH_SIZE, predict_logits
from spaceevo.train.recalibration import recalibrate

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES = (
    ElasticStage("stem", BlockChoice(BlockType("conv", "relu"), (3,)), (8,), (1,), 2),
    ElasticStage("stage1", BlockChoice(BlockType("mbv3", "hard_swish"), (3,), (2.0,)), (8, 16), (1, 2), 2),
)
PROGRAM = program_of(SearchSpace("small-0-0", STAGES, Head(16, 24, "relu"), (16,), 4).largest())
PIXELS = torch.randint(0, 256, (2 * BATCH_SIZE + 5, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()


def network(quantized: bool) -> Network:
    own = single_network(PROGRAM, 127, torch.Generator().manual_seed(1))
    x = to_input(PIXELS[:64], 16)
    if quantized:
        own.start_quantization([(x, PROGRAM)])
    recalibrate(own, PROGRAM, [x])
    return own


def by_batches(own: Network) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([own(to_input(batch, 16), PROGRAM) for batch in PIXELS.split(BATCH_SIZE)])


@pytest.mark.parametrize("quantized", [False, True])
def test_logits_are_those_of_forward(quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = network(quantized)
    expected = by_batches(own)
    folded = []
    integer_graph = Network.integer_graph
    monkeypatch.setattr(Network, "integer_graph", lambda *given: folded.append(1) or integer_graph(*given))
    assert torch.equal(predict_logits(own, PROGRAM, PIXELS), expected)
    assert len(folded) == int(quantized)


def test_a_network_in_training_normalizes_by_the_batch() -> None:
    own = network(True).train()
    assert torch.equal(predict_logits(own, PROGRAM, PIXELS), by_batches(own))
    assert not torch.equal(predict_logits(own, PROGRAM, PIXELS), predict_logits(own.eval(), PROGRAM, PIXELS))


def test_a_parameter_that_is_no_number_shows() -> None:
    own = network(True)
    with torch.no_grad():
        own.weights_of(PROGRAM[1]).weight[0] = torch.nan
    assert predict_logits(own, PROGRAM, PIXELS).isnan().all()
