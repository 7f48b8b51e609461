"""The verbs are the stages, without their files being imported."""

import subprocess
import sys

from spaceevo.cli.run import STAGE_FILES
from spaceevo.run.stage import STAGES, all_stages, needs_of


def test_every_stage_is_a_verb_and_begins_with_its_help() -> None:
    assert STAGE_FILES.names() == STAGES.names() == sorted(stage.name for stage in all_stages())
    for name in STAGE_FILES.names():
        about = STAGE_FILES.about(name)
        assert STAGES.load(name).__doc__.startswith(about)  # type: ignore[union-attr]
        assert 20 < len(about) < 120


def test_stages_need_only_earlier_ones() -> None:
    names = [stage.name for stage in all_stages()]
    for position, stage in enumerate(all_stages()):
        assert {need.name for need in (*needs_of(stage), *stage.through)} <= set(names[:position])
        assert stage.title


def test_help_lists_every_verb(cli) -> None:  # type: ignore[no-untyped-def]
    done = cli("--help")
    assert done.returncode == 0
    for verb in ("run", "init", *STAGE_FILES.names()):
        assert f" {verb} " in done.stdout


def test_help_imports_no_stage() -> None:
    program = (
        "import sys, spaceevo.cli as c; c._verbs(); print(*(n for n in sys.modules if 'stages.' in n or n == 'torch'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
