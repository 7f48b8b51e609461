"""Augmentation of batches: laws of every operation, and values by hand."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from spaceevo.config import DataSettings
from spaceevo.train import augmentation
from spaceevo.train.augmentation import (
    OPERATIONS,
    augment,
    crops,
    draw,
    mirror,
    mix,
    operation_maps,
    parts,
    recolour,
    shift,
    warp,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GEOMETRY = [kind for kind, name in enumerate(OPERATIONS) if name in augmentation._GEOMETRY]
COLOUR = [kind for kind, name in enumerate(OPERATIONS) if name in augmentation._COLOUR]
OFF = {"flip": False, "shift": 0}
few = settings(max_examples=25)
seeds = st.integers(0, 2**40)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(num: int = 6, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, size, size), dtype=torch.uint8, generator=draws(seed))


def flat(*colours: tuple[int, int, int], size: int = 4) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.uint8).view(-1, 3, 1, 1).expand(-1, 3, size, size).contiguous()


def named(name: str, num: int = 1) -> torch.Tensor:
    return torch.full((num,), OPERATIONS.index(name))


def augmented(pixels: torch.Tensor, data: DataSettings, generator: torch.Generator) -> torch.Tensor:
    return augment(pixels, draw(len(pixels), data, generator))


any_settings = st.fixed_dictionaries(
    {
        "flip": st.booleans(),
        "shift": st.integers(0, 20),
        "crop_area": st.floats(0.05, 1),
        "crop_ratio": st.floats(1, 4),
        "rand_augment": st.integers(0, 3),
        "rand_strength": st.floats(0, 1),
        "mixup": st.sampled_from([0, 0.2, 1]),
        "cutmix": st.sampled_from([0, 1]),
    }
)


@few
@given(any_settings, st.integers(1, 9), st.integers(16, 21), seeds)
def test_any_settings(fields: dict[str, object], num: int, size: int, seed: int) -> None:
    data, pixels = DataSettings(**fields), noise(num, size)
    before = pixels.clone()
    out = augmented(pixels, data, draws(seed))
    assert (out.shape, out.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(out, augmented(pixels, data, draws(seed))), "same draws, same batch"
    assert torch.equal(pixels, before), "the stored images stay as they are"
    if data.mixup or data.cutmix:
        mixed, labels = mix(out, torch.arange(num), num, data, draws(seed))
        assert (mixed.shape, mixed.dtype, labels.shape) == (pixels.shape, torch.uint8, (num, num))
        assert labels.min() >= 0
        torch.testing.assert_close(labels.sum(1), torch.ones(num))
        assert torch.equal(mixed, mix(out, torch.arange(num), num, data, draws(seed))[0])


def test_by_default_images_are_mirrored_and_shifted_only() -> None:
    """The draws, too, are those of the first version: trainings of it end with the same weights."""
    pixels, data = noise(30, 17), DataSettings(shift=3)
    generator = draws(5)
    mirrored = torch.rand(30, generator=generator) < 0.5
    dy, dx = torch.randint(-3, 4, (2, 30), generator=generator)
    out = augmented(pixels, data, draws(5))
    for i in range(30):
        rows, columns = (torch.arange(17) + dy[i]).clamp(0, 16), (torch.arange(17) + dx[i]).clamp(0, 16)
        image = pixels[i].flip(2) if mirrored[i] else pixels[i]
        assert torch.equal(out[i], image[:, rows][:, :, columns])


@few
@given(any_settings, seeds, st.integers(1, 9))
def test_augmenting_in_slices_is_the_same(fields: dict[str, object], seed: int, size: int) -> None:
    pixels = noise(9)
    drawn = draw(9, DataSettings(**fields), draws(seed))
    slices = [slice(start, start + size) for start in range(0, 9, size)]
    sliced = torch.cat([augment(pixels[part], drawn[part]) for part in slices])
    # Other sizes of a batch may take other paths through torch's sampling: the last bit of a float
    assert (sliced.int() - augment(pixels, drawn).int()).abs().max() <= 1


@pytest.mark.parametrize(("at_once", "expected"), [(1, [1] * 5), (2 * 16 * 16, [2, 2, 1]), (10**6, [5])])
def test_parts(monkeypatch: pytest.MonkeyPatch, at_once: int, expected: list[int]) -> None:
    monkeypatch.setattr(augmentation, "_PIXELS_AT_ONCE", at_once)
    pixels = noise(5)
    assert [len(pixels[part]) for part in parts(pixels)] == expected
    assert torch.equal(torch.cat([pixels[part] for part in parts(pixels)]), pixels)


@few
@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_mirroring_twice_is_nothing(chosen: list[bool]) -> None:
    pixels, mirrored = noise(6), torch.tensor(chosen)
    once = mirror(pixels, mirrored)
    assert torch.equal(mirror(once, mirrored), pixels)
    assert torch.equal(once[mirrored], pixels[mirrored].flip(3))
    assert torch.equal(once[~mirrored], pixels[~mirrored])


def test_about_half_are_mirrored() -> None:
    assert 150 < draw(400, DataSettings(), draws()).mirrored.sum() < 250


@pytest.mark.parametrize("most", [1, 5, 40])
def test_shift_of_small_images(most: int) -> None:
    pixels = noise(50, 16)
    moves = draw(50, DataSettings(flip=False, shift=most), draws(1)).moves
    assert (moves.min(), moves.max()) == (-most, most) or most == 40
    out = shift(pixels, moves)
    for i, (dy, dx) in enumerate(moves):
        rows, columns = (torch.arange(16) + dy).clamp(0, 15), (torch.arange(16) + dx).clamp(0, 15)
        assert torch.equal(out[i], pixels[i][:, rows][:, :, columns])


@few
@given(seeds, st.floats(0.05, 1), st.floats(1, 4))
def test_crops_lie_in_the_image(seed: int, least_area: float, most_ratio: float) -> None:
    maps = crops(64, least_area, most_ratio, draws(seed))
    width, height, x, y = maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]
    assert ((width > 0) & (height > 0)).all()
    assert (x.abs() + width <= 1 + 1e-6).all()
    assert (y.abs() + height <= 1 + 1e-6).all()
    assert (torch.maximum(width / height, height / width) <= most_ratio + 1e-4).all()
    inside = (width < 1) & (height < 1)
    assert (width * height >= least_area - 1e-6)[inside].all()


def test_crops_use_their_range() -> None:
    maps = crops(4000, 0.1, 2, draws())
    area, ratio = maps[:, 0, 0] * maps[:, 1, 1], maps[:, 0, 0] / maps[:, 1, 1]
    inside = (maps[:, 0, 0] < 1) & (maps[:, 1, 1] < 1)
    assert area.min() < 0.12
    assert area.max() > 0.95
    assert ratio.min() < 0.52
    assert ratio.max() > 1.95
    assert (ratio[inside] > 1).float().mean() == pytest.approx(0.5, abs=0.05)
    squares = crops(4000, 0.1, 1, draws())
    assert torch.equal(squares[:, 0, 0], squares[:, 1, 1])
    assert (squares[:, 0, 0] ** 2).mean() == pytest.approx(0.55, abs=0.02), "the area is uniform"


def test_a_crop_of_everything_is_nothing() -> None:
    assert torch.equal(crops(5, 1, 1, draws()), torch.eye(3).expand(5, 3, 3))
    pixels = noise()
    assert torch.equal(augmented(pixels, DataSettings(**OFF), draws()), pixels)


def test_the_left_upper_quarter_enlarged() -> None:
    """Values by hand: pixel centres of the result lie at -1/4, 1/4, 3/4, ... pixels of the image."""
    ramp = (40 * torch.arange(4, dtype=torch.uint8)).expand(1, 3, 4, 4)
    quarter = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]]])
    assert warp(ramp, quarter)[0, 0, 0].tolist() == [0, 10, 30, 50]
    assert warp(ramp.mT, quarter)[0, 0, :, 0].tolist() == [0, 10, 30, 50]


def test_a_quarter_turn_is_exact() -> None:
    pixels = noise(4, 9)
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).expand(4, 3, 3)
    assert torch.equal(warp(pixels, turn), pixels.rot90(-1, (2, 3)))


def test_only_moved_images_are_sampled() -> None:
    pixels = noise(7)
    maps = crops(7, 0.3, 1.5, draws())
    maps[::2] = torch.eye(3)
    out = warp(pixels, maps)
    assert torch.equal(out[::2], pixels[::2])
    assert (out[1::2] != pixels[1::2]).flatten(1).any(1).all()


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_in_parts_leaves_no_seam(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = shares(name, 1.0)
    monkeypatch.setattr(augmentation, "_PIXELS_AT_ONCE", 5 * 16 * 16)
    assert all(torch.equal(one, other) for one, other in zip(whole, shares(name, 1.0), strict=True))


@pytest.mark.parametrize("kind", range(len(OPERATIONS)), ids=OPERATIONS)
def test_no_strength_is_nothing(kind: int) -> None:
    pixels, kinds, nothing = noise(), torch.full((6,), kind), torch.zeros(6)
    assert torch.equal(operation_maps(kinds, nothing), torch.eye(3).expand(6, 3, 3))
    assert torch.equal(recolour(pixels, kinds, nothing), pixels)


@pytest.mark.parametrize("kind", range(len(OPERATIONS)), ids=OPERATIONS)
def test_every_operation_does_something_to_its_images_alone(kind: int) -> None:
    pixels, amounts = noise(6), torch.full((6,), 0.7)
    others = [other for other in range(len(OPERATIONS)) if other != kind]
    kinds = torch.tensor([kind, others[0], kind, others[1], kind, others[2]])
    moved = (operation_maps(kinds, amounts) != torch.eye(3)).flatten(1).any(1)
    changed = (recolour(pixels, kinds, amounts) != pixels).flatten(1).any(1)
    assert moved.tolist() == [int(k) in GEOMETRY for k in kinds]
    assert changed.tolist() == [int(k) in COLOUR for k in kinds]


def test_maps_by_hand() -> None:
    def row(name: str, amount: float) -> list[float]:
        return operation_maps(named(name), torch.tensor([amount]))[0, :2].flatten().tolist()

    half = math.sqrt(3) / 2  # cosine of 30 degrees
    assert row("rotate", 1) == pytest.approx([half, -0.5, 0, 0.5, half, 0])
    assert row("shear-x", 0.5) == pytest.approx([1, 0.15, 0, 0, 1, 0])
    assert row("shear-y", -1) == pytest.approx([1, 0, 0, -0.3, 1, 0])
    assert row("translate-x", 1) == pytest.approx([1, 0, 0.9, 0, 1, 0])
    assert row("translate-y", -0.5) == pytest.approx([1, 0, 0, 0, 1, -0.45])


@pytest.mark.parametrize(
    ("name", "amount", "before", "after"),
    [
        ("brightness", 1, (100, 10, 200), (190, 19, 255)),
        ("brightness", -1, (100, 10, 200), (10, 1, 20)),
        ("saturation", -1, (200, 100, 0), (127, 117, 107)),  # grey 118.5
        ("saturation", 1, (120, 100, 80), (135, 97, 59)),  # grey 103.7
        ("posterize", 1, (255, 100, 15), (240, 96, 0)),
        ("posterize", -0.5, (255, 101, 3), (252, 100, 0)),
        ("solarize", 0.5, (127, 128, 255), (127, 127, 0)),
        ("solarize", -1, (0, 100, 255), (255, 155, 0)),
    ],
)
def test_colours_by_hand(name: str, amount: float, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    assert torch.equal(recolour(flat(before), named(name), torch.tensor([float(amount)])), flat(after))


def test_contrast_by_hand() -> None:
    half = flat((100, 100, 100))
    half[..., :2] = 50  # mean 75
    weaker = recolour(half, named("contrast"), torch.tensor([-1.0]))
    assert weaker[0, 0, 0].tolist() == [72, 72, 78, 78]
    stronger = recolour(half, named("contrast"), torch.tensor([1.0]))
    assert stronger[0, 0, 0].tolist() == [28, 28, 122, 122]  # 27.5 and 122.5, rounded to even


def test_all_operations_are_drawn_with_both_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def spy(pixels: torch.Tensor, kinds: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
        seen.update(zip(kinds.tolist(), amounts.tolist(), strict=True))
        return pixels

    monkeypatch.setattr(augmentation, "recolour", spy)
    augmented(noise(300, 4), DataSettings(**OFF, rand_augment=2, rand_strength=0.5), draws())
    assert seen == {(kind, sign * 0.5) for kind in range(len(OPERATIONS)) for sign in (-1, 1)}


def test_operations_follow_each_other() -> None:
    """A translation and a rotation in one map, in the order in which they were drawn."""
    amount = torch.tensor([0.2])
    first, second = (operation_maps(named(name), amount) for name in ("translate-x", "rotate"))
    smooth = torch.nn.functional.avg_pool2d(noise(1, 128).float(), 31, 1, 15).to(torch.uint8)
    together, apart = warp(smooth, first @ second).float(), warp(warp(smooth, first), second).float()
    other = warp(smooth, second @ first).float()
    inner = (..., slice(40, 90), slice(40, 90))
    assert (together - apart)[inner].abs().max() <= 2
    assert (together - other)[inner].abs().mean() > 2 * (together - apart)[inner].abs().mean()


def test_crop_and_operations_are_joined_in_order() -> None:
    drawn = draw(60, DataSettings(**OFF, crop_area=0.5, rand_augment=2, rand_strength=1), draws())
    first, second = (operation_maps(*one) for one in drawn.recolourings)
    torch.testing.assert_close(drawn.maps, crops(60, 0.5, 1.33, draws()) @ first @ second)


def test_a_cutmix_box_has_the_area_of_its_share() -> None:
    pixels = torch.zeros(50, 3, 16, 16, dtype=torch.uint8)
    _, own = augmentation._cutmix(pixels, torch.arange(50), torch.full((50,), 0.75), draws())
    assert own.min() == 0.75, "half the side, where none of it lies beyond the image"


def shares(name: str, alpha: float, num: int = 64, size: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images i of one value i + 1 each, mixed; and their labels."""
    pixels = torch.arange(1, num + 1, dtype=torch.uint8).view(-1, 1, 1, 1).expand(num, 3, size, size).contiguous()
    return mix(pixels, torch.arange(num), num, DataSettings(**{name: alpha}), draws(seed))


@few
@given(st.sampled_from([0.2, 1.0, 4.0]), seeds)
def test_cutmix_labels_are_areas(alpha: float, seed: int) -> None:
    pixels, labels = shares("cutmix", alpha, seed=seed)
    areas = torch.nn.functional.one_hot(pixels.flatten(2).long() - 1, 64).float().mean(2)
    for channel in range(3):
        torch.testing.assert_close(areas[:, channel], labels, atol=1e-6, rtol=0)


def test_a_cutmix_box_is_a_box() -> None:
    pixels, _ = shares("cutmix", 1.0)
    sizes = set()
    for value, image in enumerate(pixels, start=1):
        box = image[0] != value
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows.unsqueeze(1) & columns)
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert len(sizes) > 10


@few
@given(st.sampled_from([0.2, 1.0, 4.0]), seeds)
def test_mixup_pixels_are_mixed_as_the_labels_are(alpha: float, seed: int) -> None:
    pixels, labels = shares("mixup", alpha, seed=seed)
    torch.testing.assert_close(labels.sum(1), torch.ones(64))
    assert ((labels > 0).sum(1) <= 2).all()
    values = (labels @ torch.arange(1, 65).float()).view(-1, 1, 1, 1)
    assert (pixels - values).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    drawn = augmentation._beta(20_000, alpha, draws())
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_mixup_and_cutmix_take_turns() -> None:
    pixels = torch.tensor([0, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 16, 16).contiguous()
    blends = 0
    for seed in range(40):
        mixed, _ = mix(pixels, torch.arange(2), 2, DataSettings(mixup=4, cutmix=4), draws(seed))
        blends += bool(((mixed > 0) & (mixed < 200)).any())
    assert 5 < blends < 20, "half of the batches, and in half of those every image meets itself"
