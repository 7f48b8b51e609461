"""Processes under `torchrun` train what one process trains in as many more parts, and go on in any number."""

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from test_loop import SETTINGS, space, train

from spaceevo.errors import TrainingError
from spaceevo.nets.network import Network
from spaceevo.train import ranks
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.ranks import Ranks, share_of
from spaceevo.train.supernet import make_supernet

pytestmark = pytest.mark.usefixtures("one_thread")

#: 21 steps in FP32, 6 of LSQ+, of three programs each.
LONGER = SETTINGS.model_copy(
    update={"epochs_fp32": 7, "epochs_int8": 2, "lr": 0.3, "dropout": 0.3, "ema": 0.5, "large_first": 0.0}
)
NUM_FP32, PER_STEP = 21, 3
SCRIPT = f"""
import json
import os
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from spaceevo.train import loop
from spaceevo.train.ranks import joined
from test_loop import *
from test_ranks import LONGER
loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
def stop(done, total):
    if done == int(sys.argv[2]):
        os._exit(7)
with joined() as ranks:
    network = make_supernet(space(), 63, 0)
    _, curve = loop.train(network, Sandwich.all_of(space()).programs(1), images(), LONGER, DATA, seed=0, purpose="test",
                          folder=Path(sys.argv[1]), progress=stop, ranks=ranks)
    (Path(sys.argv[1]) / f"told-{{ranks.rank}}.json").write_text(json.dumps([point.loss for point in curve]))
"""


@pytest.fixture
def in_two_processes(torchrun: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Train in a folder, and stop when so many steps are done."""

    def run(folder: Path, stop_at: int = -1) -> subprocess.CompletedProcess[str]:
        folder.mkdir()
        script = folder / "script.py"
        script.write_text(SCRIPT)
        return torchrun(script, folder, PER_STEP * stop_at)

    return run


def weights(path: Path) -> Network:
    network = make_supernet(space(), 63, 7)
    load_weights(network, path)
    return network


def assert_alike(losses: list[float], others: list[float]) -> None:
    """Gradients are added up in another order. In LSQ+, the last bit of a weight can decide its code."""
    assert len(losses) == len(others) == 27
    assert losses[:NUM_FP32] == pytest.approx(others[:NUM_FP32], rel=1e-5)
    assert losses[NUM_FP32:] == pytest.approx(others[NUM_FP32:], rel=2e-2)


def test_two_processes_are_one_with_two_parts(in_two_processes, tmp_path):
    done = in_two_processes(tmp_path / "two")
    assert done.returncode == 0, done.stderr
    told = [json.loads((tmp_path / "two" / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    losses = told[0]
    _, files, curve = train(tmp_path / "one", settings=LONGER.model_copy(update={"accumulation": 2}))
    assert_alike(losses, [point.loss for point in curve])
    one, two = weights(files.fp32).state_dict(), weights(tmp_path / "two" / files.fp32.name).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    assert weights(tmp_path / "two" / files.int8.name).state_dict().keys() == one.keys()
    alone = [point.loss for point in train(tmp_path / "alone", settings=LONGER)[2]]
    assert losses[:NUM_FP32] != pytest.approx(alone[:NUM_FP32], rel=1e-3), "batch norm sees other images"


@pytest.mark.parametrize("stop_at", [5, 24])  # in either phase
def test_what_two_processes_began_one_ends(in_two_processes, tmp_path, stop_at):
    done = in_two_processes(tmp_path / "two", stop_at)
    assert done.returncode != 0
    assert not (tmp_path / "two" / "test-int8.safetensors").exists()
    in_two_parts = LONGER.model_copy(update={"accumulation": 2})
    subnets: list[int] = []
    went_on = train(tmp_path / "two", lambda done, total: subnets.append(done), settings=in_two_parts)[2]
    assert subnets[0] >= PER_STEP * stop_at
    undisturbed = train(tmp_path / "one", settings=in_two_parts)[2]
    assert_alike([point.loss for point in went_on], [point.loss for point in undisturbed])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux names the threads of a process")
def test_no_thread_of_the_group_is_left(torchrun, tmp_path):
    """One that is can end the process while Python ends: "terminate called without an active exception"."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import json, sys
from pathlib import Path
import torch
from spaceevo.train.ranks import joined
def threads():
    return sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
weight = torch.nn.Parameter(torch.ones(3))
with joined() as ranks:
    weight.grad = torch.ones(3)
    ranks.sum_([weight.grad])
    torch.optim.SGD([weight], lr=0.1).step()  # imports most of torch
    during = threads()
Path(sys.argv[1], str(ranks.rank)).write_text(json.dumps([during, threads()]))
"""
    )
    done = torchrun(script, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        during, left = json.loads((tmp_path / str(rank)).read_text())
        assert any("gloo" in name for name in during)
        assert not any("gloo" in name for name in left)


def test_a_lost_process_is_told():
    with pytest.raises(TrainingError, match=r"Connection closed by peer.*last checkpoint"), ranks._together():
        raise torch.distributed.DistBackendError("Connection closed by peer [127.0.0.1]:24\nand more")


@given(st.integers(2, 300), st.integers(1, 5), st.integers(1, 9))
def test_shares_make_up_the_batch(batch_size, accumulation, count):
    if batch_size < 2 * count:
        with pytest.raises(TrainingError, match=f"{count} processes"):
            share_of(batch_size, accumulation, Ranks(0, count))
        return
    shares = [share_of(batch_size, accumulation, Ranks(rank, count)) for rank in range(count)]
    rows = [row for share in shares for row in range(batch_size)[share.rows]]
    assert rows == list(range(batch_size))
    assert all(sum(share.sizes) == len(range(batch_size)[share.rows]) for share in shares)
    assert all(size >= 2 for share in shares for size in share.sizes)
    # One process with as many parts computes the very same ones.
    assert share_of(batch_size, accumulation * count).sizes == tuple(size for share in shares for size in share.sizes)


def test_processes_that_do_not_meet_are_told(monkeypatch):
    told = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, text in told.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(ranks, "_TIME_TO_MEET", timedelta(seconds=1))
    with pytest.raises(TrainingError, match=r"2 processes .* do not meet at 127\.0\.0\.1:1\."), ranks.joined():
        pass
