"""Distillation of many cells with made-up trainings: which are done again, which count, who does what."""

import json
from types import SimpleNamespace

import pytest

from spaceevo import plugins
from spaceevo.artifacts import RunFolder, content_hash
from spaceevo.config import BlocksSettings, DataSettings, EngineSettings, Recipe
from spaceevo.errors import ArtifactError, RecipeError, TrainingError
from spaceevo.graph.identity import identity
from spaceevo.graph.tensors import square
from spaceevo.locks import claim
from spaceevo.progress import silent
from spaceevo.records import DistilledCell
from spaceevo.run.context import Context
from spaceevo.run.run import given_to
from spaceevo.stages import blocks
from spaceevo.tools import cells as room, distillation
from spaceevo.train.distillation import CellResult, ScoredSubstage, encode_blocks

SETTINGS = {"num_images": 32, "score_images": 16, "steps_fp32": 1, "steps_int8": 1, "batch_size": 2, "substages": 2}
DATA = DataSettings(name="digits", image_size=24)
ALL = [(0, 0), (0, 1), (1, 0), (1, 1)]
#: Of the two block types of `tiny`, block 0 has more MACs and parameters than block 1.
FINE = {(0, 0): 0.3, (0, 1): 0.4, (1, 0): 0.3, (1, 1): 0.4}


@pytest.fixture
def context(tiny_plugin, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    settings = BlocksSettings(**SETTINGS, teacher_network="nowhere:teacher")
    here = EngineSettings(name="serial")  # where trainings can be replaced
    recipe = Recipe(hyperspace="tiny", data=DATA, blocks=settings, engine=here)
    yield Context(recipe, RunFolder(tmp_path / "cells of digits"))
    plugins._locations.cache_clear()


@pytest.fixture
def trainings(monkeypatch):
    """Replaces training: losses by cell, one per attempt or for all, and failures. Notes what was trained."""

    trainings = SimpleNamespace(losses=dict(FINE), failures={}, done=[])

    def made_up_cell(hyperspace, index, block, features, settings, *, attempt, checkpoint, progress, **_):
        trainings.done.append((index, block, attempt))
        found = trainings.losses[index, block]
        loss = found[attempt] if isinstance(found, tuple) else found
        failure = trainings.failures.get((index, block, attempt), "")
        stage = hyperspace.searched[index]
        rows = [
            ScoredSubstage(window, 24, square(8, 12), encode_blocks(one), loss, one)
            for window in range(stage.num_windows)
            for one in (stage.elastic(block, window).smallest(), stage.elastic(block, window).largest())
        ]
        cell = DistilledCell(
            stage=stage.name,
            block=block,
            block_type="made-up",
            nsr_fp32=loss,
            nsr_int8=loss,
            curve=(),
            attempts=attempt + 1,
            failure=failure,
        )
        checkpoint.write_text("")
        progress(1, distillation.cell_work(hyperspace, index, settings))
        return CellResult(cell, tuple(rows))

    monkeypatch.setattr(distillation, "distill_cell", made_up_cell)
    monkeypatch.setattr(distillation, "_teacher", lambda *_: None)
    monkeypatch.setattr(distillation, "write_features", lambda *_: None)
    monkeypatch.setattr(distillation, "load_features", lambda *_: None)
    return trainings


def distil(context, wanted=ALL, progress=silent):
    return distillation.distil(context, 63, context.run.path, wanted, progress)


def quality(context):
    table, cells = room.load_quality(context.hyperspace, context.run.path)
    return table, {(index, cell.block): cell for (index, _), cell in zip(ALL, cells, strict=True)}


def test_each_cell_is_trained_once_where_all_is_well(context, trainings):
    reports = []
    assert distil(context, progress=lambda *work: reports.append(work)) == []
    assert sorted(trainings.done) == [(*cell, 0) for cell in ALL]
    assert reports[-1][0] == reports[-1][1]
    table, cells = quality(context)
    assert {key: cell.attempts for key, cell in cells.items()} == dict.fromkeys(ALL, 1)
    assert not any(cell.failure for cell in cells.values())
    assert sorted(set(zip(table.stage.tolist(), table.block.tolist(), table.nsr_loss.tolist(), strict=True))) == [
        (*cell, loss) for cell, loss in FINE.items()
    ]
    assert not list(context.run.path.rglob("*checkpoint*"))
    assert distil(context) == []
    assert len(trainings.done) == 4, "nothing is done twice"


@pytest.mark.parametrize("finished", [ALL, ALL[:3]])
def test_what_a_process_left_that_was_killed_at_its_end_is_deleted(context, trainings, finished):
    distil(context, finished)
    left = [context.run.path / name for name in ("cells/0-1-checkpoint.safetensors", "maps/1-24.npy")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    distil(context, finished[:1])
    assert [path.exists() for path in left] == [finished != ALL] * 2, "others may still be at theirs"
    distil(context)
    assert not any(path.exists() for path in left)
    assert len(trainings.done) == len(ALL)


@pytest.mark.parametrize(
    ("losses", "failures", "kept", "failed"),
    [
        ((0.5, 0.2), {}, 0.2, False),  # in doubt: wholly worse than the smaller block 1, which has 0.4
        ((0.5, 0.45), {}, 0.45, False),  # still in doubt, but in doubt is not failed
        ((0.5, 0.6), {}, 0.5, False),  # the first one was better
        ((0.97, 0.96), {}, 0.96, True),  # its mean above 0.95
        ((0.3, 0.35), {0: "diverged"}, 0.35, False),  # what did not fail counts, whatever its loss
        ((0.3, 0.35), {0: "diverged", 1: "diverged"}, 0.3, True),
        ((float("nan"), 0.3), {}, 0.3, False),
    ],
)
def test_what_looks_wrong_is_trained_once_more(context, trainings, losses, failures, kept, failed):
    trainings.losses[0, 0] = losses
    trainings.failures = {(0, 0, attempt): text for attempt, text in failures.items()}
    distil(context)
    assert [done for done in sorted(trainings.done) if done[2]] == [(0, 0, 1)]
    table, cells = quality(context)
    assert set(table.nsr_loss[(table.stage == 0) & (table.block == 0)].tolist()) == {kept}
    assert cells[0, 0].nsr_int8 == kept
    assert cells[0, 0].attempts == 2
    assert bool(cells[0, 0].failure) == failed
    assert room.failed_cells(context.hyperspace, tuple(cells.values())) == ({(0, 0)} if failed else set())


def test_second_trainings_wait_for_the_whole_stage_and_survive_an_end(context, trainings, monkeypatch):
    """Doubts are of first trainings, so what is done again does not depend on when a process ended."""
    trainings.losses |= {(0, 0): (0.5, 0.2), (0, 1): (0.4, 0.1)}
    trainings.failures = {(0, 1, 0): "diverged"}
    distil(context, [(0, 0)])
    distil(context, [(1, 0), (1, 1)])
    assert all(attempt == 0 for *_, attempt in trainings.done)

    fake = distillation.distill_cell

    def ended(hyperspace, index, block, *words, attempt, **options):
        if (index, block, attempt) == (0, 1, 1):
            raise KeyboardInterrupt
        return fake(hyperspace, index, block, *words, attempt=attempt, **options)

    monkeypatch.setattr(distillation, "distill_cell", ended)
    with pytest.raises(KeyboardInterrupt):
        distil(context)
    monkeypatch.setattr(distillation, "distill_cell", fake)
    distil(context)
    assert sorted(trainings.done) == sorted([(*cell, 0) for cell in ALL] + [(0, 0, 1), (0, 1, 1)])


def test_a_cell_of_another_process_is_left_to_it(context, trainings):
    path = context.run.path / "cells" / "0-1.lock"
    path.parent.mkdir(parents=True)
    with claim(path):
        assert distil(context) == [(0, 1)]
        assert (0, 1, 0) not in trainings.done
    with pytest.raises(ArtifactError, match=r"lacks 1 of 4 cells.*stage1, block 1"):
        quality(context)
    assert distil(context) == []
    assert sorted(trainings.done) == [(*cell, 0) for cell in ALL]


def test_other_settings_need_another_folder(context, trainings):
    distil(context)
    recipe = context.recipe.model_copy(update={"blocks": context.recipe.blocks.model_copy(update={"steps_fp32": 2})})
    with pytest.raises(ArtifactError, match="distilled otherwise") as error:
        distil(Context(recipe, context.run))
    assert error.value.found == "settings.steps_fp32 was 1, is 2"
    with pytest.raises(ArtifactError, match="w_qmax was 63, is 127"):
        distillation.distil(context, 127, context.run.path, ALL, silent)


def test_a_changed_preset_and_a_damaged_cell_are_told(context, trainings):
    distil(context)
    assert room.load_distillation(context.run.path)[1] == context.hyperspace
    notes = context.run.path / "distillation.json"
    notes.write_text(notes.read_text().replace(identity(context.hyperspace), "another"))
    with pytest.raises(ArtifactError, match="preset has changed"):
        room.load_distillation(context.run.path)
    with pytest.raises(ArtifactError, match="preset has changed"):
        distil(context)
    (context.run.path / "cells" / "1-0.json").write_text(json.dumps({"cell": {}}))
    with pytest.raises(ArtifactError, match=r"1-0\.json is not a distilled cell"):
        quality(context)


#: What earlier versions noted of the presets: the hash of their `repr`.
EARLIER = {
    "micro": "c7db45c75de36282ea8991237cd3247f5f611e0cccc20a33798fa5fb82b17501",
    "mobilenetv3": "1fdaeb96bd367fa29dea81a690205d03949dda82bcfe0e8ef8d9869c8cad7e86",
    "mobilew": "2d82c7aaefd732415a9c7d9af2e22c35b80e8e654eef9130ebabd717cda164a7",
    "onnxw": "6424b312634ad1ddfbdfe2e68c667f7346c4a4e9f84af4fff040c35f92f1273b",
    "proxyless": "baaac6156af400cbb632c20d735e9cf353f719c1b136df0ccbb83f2102c02280",
    "resnet50": "da18e5425ca2d7ac52235050b19b27f58eff2a267f1c0e15a406a09a9c7fa21b",
    "tiny": "1963434efb412910e0d9e3841870b7d33ea5046ebb7f916e3f31de3e0e642f2a",
}
#: Kernel sizes of its block type are written otherwise since.
OTHERWISE = {
    "hyperspace": "mobilenetv4",
    "hyperspace_hash": "0f609060a18878f1ac3440833143fe5c73d57129f8c407e3f8bba270b3d7fc70",
}


def noted_earlier(folder, **changes):
    """Rewrite the notes of a folder as an earlier version wrote them."""
    notes = folder / "distillation.json"
    content = json.loads(notes.read_text()) | changes
    del content["hyperspace_format"]
    notes.write_text(json.dumps(content))


def test_cells_of_an_earlier_version_are_gone_on_with(context, trainings):
    distil(context, ALL[:2])
    folder = context.run.path
    for name, sha256 in EARLIER.items():
        noted_earlier(folder, hyperspace=name, hyperspace_hash=sha256)
        assert room.load_distillation(folder)[1].name == name
        (folder / "distillation.json").write_text(distillation.distillation_of(context, 63).model_dump_json())
    noted_earlier(folder, hyperspace_hash=EARLIER["tiny"])
    distil(context)
    assert sorted(trainings.done) == [(*cell, 0) for cell in ALL], "nothing is done twice"
    assert len(quality(context)[1]) == len(ALL)
    with pytest.raises(ArtifactError, match="w_qmax was 63, is 127") as error:
        distillation.distil(context, 127, folder, ALL, silent)
    assert error.value.found == "w_qmax was 63, is 127", "the form of the hash is no difference"


@pytest.mark.parametrize("changes", [OTHERWISE, {"hyperspace_hash": "another"}])
def test_cells_of_an_earlier_version_that_nobody_can_compare_are_refused(context, trainings, changes):
    distil(context)
    noted_earlier(context.run.path, **changes)
    told = r"another version of spaceevo.*in format 0, this version in 1.*go on with the version that distilled them"
    with pytest.raises(ArtifactError, match=told) as error:
        room.load_distillation(context.run.path)
    assert "changed" not in str(error.value)
    if "hyperspace" not in changes:
        with pytest.raises(ArtifactError, match=told):
            distil(context)


def test_a_stage_that_an_earlier_version_finished_stays_finished(context, trainings, monkeypatch):
    """Its inputs are those that its manifest has the hash of."""
    monkeypatch.setattr(Context, "target", type("Target", (), {"w_qmax": 63}))
    folder = context.run.stage("blocks").path
    inputs = blocks.STAGE.inputs(context, folder)
    assert inputs["hyperspace_hash"] == identity(context.hyperspace)
    distillation.distil(context, 63, folder, ALL, silent)
    assert content_hash(blocks.STAGE.inputs(context, folder)) == content_hash(inputs)
    noted_earlier(folder, hyperspace_hash=EARLIER["tiny"])
    earlier = {**inputs, "hyperspace_hash": EARLIER["tiny"]}
    del earlier["hyperspace_format"]
    assert content_hash(blocks.STAGE.inputs(context, folder)) == content_hash(earlier)
    monkeypatch.setattr(Context, "target", type("Target", (), {"w_qmax": 127}))
    assert content_hash(blocks.STAGE.inputs(context, folder)) == content_hash({**inputs, "w_qmax": 127})


def test_a_stage_without_a_block_type_left(context, trainings, monkeypatch):
    trainings.losses |= {(1, 0): 0.96, (1, 1): 0.97}
    monkeypatch.setattr(Context, "target", type("Target", (), {"w_qmax": 63}))
    context.run.path.mkdir()
    with pytest.raises(TrainingError, match=r"every block type of stage2 failed.*0\.960"):
        blocks.STAGE.make(context, given_to(context, "blocks"), context.run.path, silent)


def test_a_teacher_that_is_nowhere(context):
    with pytest.raises(RecipeError, match="'nowhere:teacher' cannot be imported"):
        distil(context)


def test_weights_per_tensor_reach_the_cells(context, trainings, monkeypatch):
    seen = []
    fake = distillation.distill_cell
    monkeypatch.setattr(distillation, "distill_cell", lambda *words, **options: seen.append(options["per_channel"])
                        or fake(*words, **options))  # fmt: skip
    supernet = context.recipe.supernet.model_copy(update={"weight_scales": "per-tensor"})
    other = Context(context.recipe.model_copy(update={"supernet": supernet}), context.run)
    assert distillation.distillation_of(other, 63) != distillation.distillation_of(context, 63)
    distil(other)
    assert seen == [False] * 4
