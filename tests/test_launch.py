"""The environment of one process of several: what it says, and what cannot be."""

import pytest

from spaceevo.errors import TrainingError
from spaceevo.launch import Launch, this_launch

WHOLE = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)


def _set(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    for name, text in told.items():
        monkeypatch.setenv(name, text)


@pytest.mark.parametrize(
    "told",
    [{}, {"WORLD_SIZE": "1"}, {"RANK": "0"}, {"WORLD_SIZE": "", "RANK": " "}, {"MASTER_ADDR": "left.over"},
     {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}],
)  # fmt: skip
def test_one_process(told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, told)
    assert this_launch() == Launch()


def test_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, WHOLE)
    assert this_launch() == Launch(3, 4, 1, "10.0.0.1:29500")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"WORLD_SIZE": "abc"}, r"WORLD_SIZE in the environment is no whole number.*WORLD_SIZE=abc, RANK=3"),
        ({"WORLD_SIZE": "2.5"}, "WORLD_SIZE in the environment is no whole number"),
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE in the environment is out of range, which is 1 or more"),
        ({"WORLD_SIZE": "-1"}, r"WORLD_SIZE .* out of range"),
        ({"WORLD_SIZE": ""}, r"RANK in the environment is out of range, which is 0 here"),
        ({"WORLD_SIZE": "1"}, r"RANK in the environment is out of range, which is 0 here"),
        ({"RANK": "4"}, r"RANK in the environment is out of range, which is 0 to 3 here.*RANK=4"),
        ({"RANK": "-1"}, r"RANK .* out of range"),
        ({"RANK": "x"}, r"RANK .* no whole number"),
        ({"RANK": ""}, r"tells of 4 processes, but not of RANK\."),
        ({"LOCAL_RANK": "x"}, r"LOCAL_RANK .* no whole number"),
        ({"LOCAL_RANK": "-2"}, r"LOCAL_RANK .* out of range"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, r"not of MASTER_ADDR and MASTER_PORT"),
        ({"MASTER_PORT": "99999"}, r"MASTER_PORT .* out of range"),
        ({"MASTER_PORT": "http"}, r"MASTER_PORT .* no whole number.*torchrun"),
    ],
)
def test_what_cannot_be_is_told(changes: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, WHOLE | changes)
    with pytest.raises(TrainingError, match=told):
        this_launch()
