"""Block-wise distillation on a very small hyperspace with a made-up teacher."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from spaceevo.config import BlocksSettings
from spaceevo.errors import ArtifactError, NoSpaceError, TrainingError
from spaceevo.graph.tensors import square
from spaceevo.progress import silent
from spaceevo.records import FAILED_LOSS
from spaceevo.spaces.choices import Block
from spaceevo.spaces.hyperspace import Hyperspace, HyperStage
from spaceevo.spaces.search_space import BlockChoice
from spaceevo.spaces.subnet import BlockType, Head, Stage
from spaceevo.train import distillation, loop, stage_features
from spaceevo.train.batches import Images
from spaceevo.train.distillation import cell_work, decode_blocks, distill_cell, encode_blocks, in_widths_of
from spaceevo.train.stage_features import load_features, write_features

pytestmark = pytest.mark.usefixtures("one_thread")

CHOICES = (
    BlockChoice(BlockType("mbv2", "relu6"), (3,), (1.0, 2.0)),
    BlockChoice(BlockType("mbv1-dual", "relu"), (3, 5)),
)
HYPERSPACE = Hyperspace(
    "tiny",
    (
        HyperStage("stem", (BlockChoice(BlockType("conv", "relu"), (3,)),), (8,), 1, (1,), 2),
        HyperStage("stage1", CHOICES, (8, 16), 1, (1,), 1),
        HyperStage("stage2", CHOICES, (16, 24, 32), 2, (1, 2), 2),
    ),
    Head(16, 24, "relu"),
    (12, 16),
)
SETTINGS = BlocksSettings(
    num_images=32, score_images=16, steps_fp32=5, steps_int8=3, batch_size=8, lr=0.01, substages=2
)


class MadeUpTeacher:
    """Linear maps of a smoothed image; channel 0 after every stage is constant."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.maps = [torch.randn(5 + index, 3, 1, 1, generator=generator) for index in range(3)]
        self.batches = []

    def features(self, x_BCHW):
        self.batches.append(len(x_BCHW))
        smooth = F.avg_pool2d(x_BCHW, 3, 1, 1)
        features = [F.avg_pool2d(F.conv2d(smooth, w), s) for w, s in zip(self.maps, (2, 2, 4), strict=True)]
        for feature in features:
            feature[:, 0] = 2.5
        return features


def images(count):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    return Images(F.interpolate(coarse, size=16, mode="bilinear").to(torch.uint8), torch.zeros(count))


def written(folder, indices, teacher, images):
    write_features(HYPERSPACE, indices, teacher, images, folder)
    return {index: load_features(HYPERSPACE, index, folder) for index in indices}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    torch.set_num_threads(1)
    return written(tmp_path_factory.mktemp("maps"), [0, 1], MadeUpTeacher(), images(48))


@pytest.fixture
def distilled(tmp_path):
    """`distill_cell` with a checkpoint of its own."""

    def distill(*words, hyperspace=HYPERSPACE, **options):
        options = {"w_qmax": 63, "seed": 0, "checkpoint": tmp_path / "checkpoint", "progress": silent} | options
        return distill_cell(hyperspace, *words, **options)

    return distill


def test_the_maps_of_a_stage(features):
    second = features[1]
    assert {r: tuple(t.shape) for r, t in second.sources.items()} == {12: (48, 6, 6, 6), 16: (48, 6, 8, 8)}
    assert {r: tuple(t.shape) for r, t in second.targets.items()} == {12: (48, 7, 3, 3), 16: (48, 7, 4, 4)}
    assert second.sources[16].dtype == second.targets[16].dtype == torch.float16
    assert (second.in_sizes, second.out_sizes) == ({12: (6, 6), 16: (8, 8)}, {12: (3, 3), 16: (4, 4)})
    target = second.targets[16].float()
    assert target.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(second.mean_C, target.mean((0, 2, 3)))
    torch.testing.assert_close(second.power_C[1:], target.var((0, 2, 3))[1:])
    assert second.power_C[0] == 0, "the constant channel"
    assert torch.equal(features[0].targets[16], second.sources[16])


def test_the_teacher_runs_once(tmp_path):
    teacher = MadeUpTeacher()
    found = written(tmp_path, [0, 1], teacher, images(48))
    assert teacher.batches == [48] * 2, "once per resolution, for both stages"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{tap}-{what}.npy" for tap in range(3) for what in (12, 16, "moments")
    }
    written(tmp_path, [0, 1], teacher, images(48))
    assert len(teacher.batches) == 2, "what is there is not written again"
    alone = written(tmp_path / "alone", [1], MadeUpTeacher(), images(48))
    assert torch.equal(alone[1].targets[16], found[1].targets[16])
    (tmp_path / "1-moments.npy").unlink()  # as if killed before it
    again = written(tmp_path, [0, 1], MadeUpTeacher(), images(48))
    assert torch.equal(again[0].mean_C, found[0].mean_C)
    assert torch.equal(again[1].sources[12], found[1].sources[12])


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_damaged_maps_are_told(tmp_path, damage):
    written(tmp_path, [0], MadeUpTeacher(), images(4))
    damage(tmp_path / "1-12.npy")
    with pytest.raises(ArtifactError, match=r"1-12\.npy, feature maps of the teacher, cannot be read"):
        load_features(HYPERSPACE, 0, tmp_path)


def test_a_disk_without_room_is_told(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(NoSpaceError, match="disk is full"):
        write_features(HYPERSPACE, [0], MadeUpTeacher(), images(4), tmp_path)


def test_no_batch_of_one_image(tmp_path):
    teacher = MadeUpTeacher()
    found = written(tmp_path, [0], teacher, images(stage_features.FEATURE_BATCH + 1))[0]
    assert len(found.sources[12]) == stage_features.FEATURE_BATCH + 1
    assert min(teacher.batches) > 1


def test_feature_maps_of_other_sizes_are_resized(tmp_path):
    class Fine(MadeUpTeacher):
        def features(self, x_BCHW):
            return [F.interpolate(f, scale_factor=2) for f in super().features(x_BCHW)]

    fine = written(tmp_path / "fine", [1], Fine(), images(4))[1]
    plain = written(tmp_path / "plain", [1], MadeUpTeacher(), images(4))[1]
    torch.testing.assert_close(fine.targets[16], plain.targets[16])


def test_in_widths():
    assert in_widths_of(HYPERSPACE, 0) == (8,)
    assert in_widths_of(HYPERSPACE, 1) == (8, 16)


def test_encode_blocks():
    stage = Stage("a", BlockType("mbv2", "relu"), 1, (Block(16, 3, 2.0), Block(24, 5, 0.0)))
    assert encode_blocks(stage) == "3#16#2.0_5#24#None", "as earlier versions wrote it, and the published tables"
    assert decode_blocks("3#16#2.0_5#24#None") == stage.blocks


def test_encode_blocks_with_several_kernel_sizes_and_added_axes():
    added = (("groups", 2), ("key_width", 24), ("share", 0.5), ("sizes", (1, 3)))
    stage = Stage("a", BlockType("uib", "relu"), 1, (Block(16, (3, 0), 2.0, added), Block(24, (0, 5), 0.0)))
    assert encode_blocks(stage) == "3+0#16#2.0#groups=2#key-width=24#share=0.5#sizes=1+3_0+5#24#None"
    assert decode_blocks(encode_blocks(stage)) == stage.blocks


@pytest.mark.parametrize("text", ["", "3#16", "3#16#2.0#groups", "3#16#2.0#groups=two", "x#16#2.0", "3#16#2.0_"])
def test_what_no_blocks_are(text):
    with pytest.raises(ValueError):
        decode_blocks(text)


@pytest.mark.parametrize(("index", "block"), [(0, 0), (1, 1)])
def test_rows_are_complete(features, distilled, index, block):
    settings = SETTINGS.model_copy(update={"substages": 4})
    result = distilled(index, block, features[index], settings)
    hyper_stage = HYPERSPACE.searched[index]
    groups = [(row.window, row.resolution) for row in result.rows]
    for window in range(hyper_stage.num_windows):
        for resolution in HYPERSPACE.resolutions:
            assert groups.count((window, resolution)) == 4
    assert len(groups) == 4 * hyper_stage.num_windows * 2
    for row in result.rows:
        assert hyper_stage.elastic(block, row.window).contains(row.stage)
        assert row.blocks == encode_blocks(row.stage)
        assert row.in_shape.channels in in_widths_of(HYPERSPACE, index)
        assert row.in_shape == square(row.in_shape.channels, row.resolution // 2)
        assert math.isfinite(row.nsr_loss)
        assert row.nsr_loss > 0
    cell = result.cell
    assert (cell.stage, cell.block, cell.block_type) == (hyper_stage.name, block, str(CHOICES[block].block_type))
    assert len(cell.curve) == 2


def test_deterministic(features, distilled):
    first, again = (distilled(1, 0, features[1], SETTINGS) for _ in range(2))
    assert first.cell == again.cell
    assert first.rows == again.rows
    for other in ({"seed": 1}, {"attempt": 1}, {"per_channel": False}):
        assert distilled(1, 0, features[1], SETTINGS, **other).rows != first.rows


def test_an_interrupted_cell_ends_as_an_undisturbed_one(features, distilled, monkeypatch):
    """Interrupted in FP32, just after the start of LSQ+, at its end, and while scoring."""
    reports = []
    undisturbed = distilled(1, 0, features[1], SETTINGS, progress=lambda *work: reports.append(work))
    total = cell_work(HYPERSPACE, 1, SETTINGS)
    assert reports[-1] == (total, total) == (3 * 4 * 8 * (5 + 3) + 2 * 2 * 2 * 16,) * 2
    assert sorted(set(reports)) == reports

    open_ends = {reports[unit][0] for unit in (2, 5, 7, 11)}
    units = []

    def interrupted(done, total):
        units.append(done)
        if done in open_ends:
            open_ends.remove(done)
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            distilled(1, 0, features[1], SETTINGS, progress=interrupted)
    result = distilled(1, 0, features[1], SETTINGS, progress=interrupted)
    assert len(units) == len(reports) + 4, "only what was not saved is done again"
    assert result.cell == undisturbed.cell
    assert result.rows == undisturbed.rows


def test_it_learns(features, distilled):
    settings = SETTINGS.model_copy(update={"steps_fp32": 60, "steps_int8": 10, "lr": 0.02})
    cell = distilled(0, 1, features[0], settings).cell
    # From 1, where every channel is its mean
    assert cell.curve[0] == pytest.approx(1, abs=0.3)
    assert cell.nsr_fp32 < 0.6
    assert cell.nsr_int8 < 0.7
    assert cell.failure == ""
    assert cell.attempts == 1


def test_targets_that_are_not_numbers_fail(features, distilled):
    broken = replace(features[1], targets={r: t * float("nan") for r, t in features[1].targets.items()})
    cell = distilled(1, 0, broken, SETTINGS, attempt=1).cell
    assert "not a finite number" in cell.failure
    assert cell.attempts == 2


def test_what_learns_nothing_fails(features, distilled):
    settings = SETTINGS.model_copy(update={"lr": 1e-9, "steps_fp32": 1, "steps_int8": 1})
    hard = replace(features[1], power_C=features[1].power_C / 2)  # held-out images vary less than all
    cell = distilled(1, 0, hard, settings).cell
    assert cell.nsr_int8 > FAILED_LOSS
    assert str(FAILED_LOSS) in cell.failure
    assert cell.attempts == 1


@pytest.mark.parametrize(
    ("largest", "smallest", "told"),
    [
        (0.3, 0.5, ""),
        (0.5, 0.5, ""),
        (0.95, 0.99, ""),
        (0.96, 0.99, "above 0.95"),
        (0.5, 0.4, "smallest one's 0.400"),
        (float("nan"), 0.4, "not a finite number"),
        (float("inf"), 0.4, "not a finite number"),
        (0.5, float("nan"), "not finite"),
    ],
)
def test_failures(features, distilled, monkeypatch, largest, smallest, told):
    """Held-out losses as given: of the largest in FP32, then of the largest and the smallest in INT8, then of rows."""
    numbers = []

    def made_up_loss(y, target, power):
        loss = nsr_loss(y, target, power)
        if loss.requires_grad:
            return loss
        numbers.append([0.2, largest, smallest][len(numbers)] if len(numbers) < 3 else smallest)
        return torch.tensor(numbers[-1])

    nsr_loss = distillation.nsr_loss
    monkeypatch.setattr(distillation, "nsr_loss", made_up_loss)
    cell = distilled(0, 0, features[0], SETTINGS).cell
    assert (cell.nsr_fp32, cell.nsr_int8) == pytest.approx((0.2, largest), nan_ok=True)
    assert told in cell.failure
    assert bool(cell.failure) == bool(told)


def test_the_second_training_is_slower_and_otherwise_seeded(features, distilled, monkeypatch):
    rates, purposes = [], set()

    def observed(cell, optimizer, batch_size, seed, purpose, phase, step):
        rates.append(optimizer.param_groups[0]["lr"])
        purposes.add(purpose)
        return 0.5

    monkeypatch.setattr(distillation, "_step", observed)
    for attempt in range(2):
        distilled(0, 1, features[0], SETTINGS, attempt=attempt)
    assert max(rates[:8]) == 2 * max(rates[8:]) == 0.01
    assert len(purposes) == 2


def test_every_range_is_started_from_data(features, distilled, monkeypatch):
    """Also of operators that few sub-stages have: shortcuts inside a stage."""
    seen = []
    start = distillation.Network.start_quantization

    def observed(network, batches):
        start(network, batches)
        seen.append((network, {node.id for _, program in batches for node in program}))

    monkeypatch.setattr(distillation.Network, "start_quantization", observed)
    stages = (*HYPERSPACE.stages[:2], replace(HYPERSPACE.stages[2], depths=(1, 2, 3, 4)))
    hyperspace = replace(HYPERSPACE, stages=stages)
    for seed in range(3):
        distilled(1, 0, features[1], SETTINGS, hyperspace=hyperspace, seed=seed)
    for network, names in seen:
        assert names == set(network.quantizers)
        assert "stage2/3/shortcut" in names


@pytest.mark.parametrize("score_images", [47, 48, 60])
def test_too_few_images(features, distilled, score_images):
    settings = SETTINGS.model_copy(update={"score_images": score_images})
    with pytest.raises(TrainingError, match=f"48 images are too few.*{score_images}.*score_images"):
        distilled(0, 0, features[0], settings)
