"""Progress: parts of a whole, lines where there is no terminal, a bar where there is one."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spaceevo import progress
from spaceevo.progress import lines, part, shown, silent


def test_silent_takes_anything() -> None:
    silent(0, 0)


@given(st.integers(0, 50), st.integers(1, 50))
def test_parts_follow_each_other_from_0_to_1000(done: int, total: int) -> None:
    seen: list[tuple[int, int]] = []
    done = min(done, total)
    part(lambda *pair: seen.append(pair), 0, 0.3)(done, total)
    part(lambda *pair: seen.append(pair), 0.3, 1)(done, total)
    (first, whole), (second, _) = seen
    assert whole == 1000
    assert 0 <= first <= 300 <= second <= 1000
    assert (first == 300) == (done == total) or round(300 * done / total) == 300


def test_a_part_without_work_does_not_divide_by_zero() -> None:
    seen: list[tuple[int, int]] = []
    part(lambda *pair: seen.append(pair), 0.5, 1)(0, 0)
    assert seen == [(500, 1000)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_ten_seconds_with_an_estimate(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=100)
    with shown(console, "blocks") as show:
        show(1, 100)
        clock[0] = 9.0
        show(9, 100)
        assert console.file.getvalue() == ""
        clock[0] = 20.0
        show(20, 100)
        clock[0] = 21.0
        show(25, 100)
    assert console.file.getvalue() == "  blocks: 20 %, 20 s gone, about 80 s left\n"


def test_neither_start_nor_end_is_a_line(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=100)
    with shown(console, "blocks") as show:
        for done in (0, 3):
            clock[0] += 60
            show(done, 3)
    assert console.file.getvalue() == ""


def test_a_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with shown(console, "blocks") as show:
        show(1, 4)
    text = console.file.getvalue()
    assert "blocks" in text
    assert "25 %" in text
    assert "left" in text


def test_errors_inside_pass_through() -> None:
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        with pytest.raises(KeyError), shown(console, "blocks"):
            raise KeyError


def test_lines_are_printed_as_they_are_and_once() -> None:
    console = Console(file=io.StringIO(), width=20)
    say = lines(console)
    for line in ("[bold]a[/x] :smile: " + 20 * "b", "c", "c"):
        say(line)
    assert console.file.getvalue() == "[bold]a[/x] :smile: " + 20 * "b" + "\nc\n"  # type: ignore[attr-defined]
