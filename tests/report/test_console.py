from __future__ import annotations

import subprocess
import sys

from made_up_report import make_model, make_summary
from rich.console import Console

from spaceevo.records import Summary
from spaceevo.report.console import summary_table


def printed(summary: Summary) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary_table(summary))
    return capture.get()


def test_the_table_has_one_line_per_network() -> None:
    text = printed(make_summary())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "1.2 ms found 1.18 ms 1.15 ms 84.3 % 84.7 % 2.1×" in lines
    assert sum("baseline" in line for line in lines) == 3
    assert "top-1 on 2,000 validation images" in text


def test_names_are_not_read_as_markup() -> None:
    text = printed(make_summary(data="[red]mine[/]", models=(make_model(1.2, 0.8),)))
    assert "[red]mine[/]" in text


def test_no_models() -> None:
    assert "budget" in printed(make_summary(models=(), baselines=()))


def test_the_import_is_light() -> None:
    code = (
        "import sys, spaceevo.report.console\n"
        "heavy = {'plotly', 'jinja2', 'torch', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
