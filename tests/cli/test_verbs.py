"""The verbs are the stages."""

from spaceevo import pipeline
from spaceevo.cli.run import STAGE_VERBS


def test_every_stage_is_a_verb_in_order() -> None:
    assert list(STAGE_VERBS) == [stage.NAME for stage in pipeline.STAGES]


def test_stages_need_only_earlier_ones() -> None:
    names = list(STAGE_VERBS)
    for position, stage in enumerate(pipeline.STAGES):
        assert set(stage.NEEDS) <= set(names[:position])
        assert stage.TITLE


def test_help_lists_every_verb(cli) -> None:  # type: ignore[no-untyped-def]
    done = cli("--help")
    assert done.returncode == 0
    for verb in ("run", "init", *STAGE_VERBS):
        assert f" {verb} " in done.stdout
