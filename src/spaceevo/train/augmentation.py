"""Augmentation of whole batches: mirror, shift, random resized crop, RandAugment, mixup and cutmix.

Every function takes and gives uint8 pixels on any device. Draws come from a CPU generator, so they are the same on
every device and none waits for one. All geometry but mirror and shift is one affine map per image, sampled once.

Shapes: B batch, C = 3 channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

from spaceevo.config import DataSettings

#: Pixels that the CPU takes at once as floats: they stay in its cache.
_PIXELS_AT_ONCE = 1 << 17
_GREY = (0.299, 0.587, 0.114)

MAX_DEGREES = 30
MAX_SHEAR = 0.3
MAX_TRANSLATION = 0.45  # of the image's side
MAX_BLEND = 0.9
MAX_BITS = 4


@dataclass(frozen=True)
class Draws:
    """What happens to each of B images; on the CPU, whatever the device of the pixels.

    Attributes:
        mirrored: bool [B].
        moves: Pixels down and to the right, int64 [B, 2].
        maps: float32 [B, 3, 3], see `warp`.
        recolourings: Of each round of RandAugment kinds int64 [B], indices into `OPERATIONS`, and amounts
            float32 [B] in [-1, 1].
    """

    mirrored: Tensor
    moves: Tensor
    maps: Tensor
    recolourings: tuple[tuple[Tensor, Tensor], ...]

    def __getitem__(self, images: slice) -> Draws:
        rounds = tuple((kinds[images], amounts[images]) for kinds, amounts in self.recolourings)
        return Draws(self.mirrored[images], self.moves[images], self.maps[images], rounds)


def draw(num: int, data: DataSettings, generator: torch.Generator) -> Draws:
    """What the settings let happen to some images.

    Source of RandAugment: Cubuk et al. 2020, "RandAugment", section 3, with ten of its fourteen operations.

    Args:
        num: How many images.
        data: `flip`, `shift`, `crop_area`, `crop_ratio`, `rand_augment` and `rand_strength`.
        generator: On the CPU.
    """
    mirrored_B, moves_B2 = torch.zeros(num, dtype=torch.bool), torch.zeros(num, 2, dtype=torch.int64)
    if data.flip:
        mirrored_B = torch.rand(num, generator=generator) < 0.5
    if data.shift:
        moves_B2 = torch.randint(-data.shift, data.shift + 1, (2, num), generator=generator).T
    maps_B33 = torch.eye(3).expand(num, 3, 3)
    if data.crop_area < 1:
        maps_B33 = crops(num, data.crop_area, data.crop_ratio, generator)
    rounds = []
    for _ in range(data.rand_augment):
        kinds_B = torch.randint(len(OPERATIONS), (num,), generator=generator)
        signs_B = 2.0 * torch.randint(2, (num,), generator=generator) - 1
        rounds.append((kinds_B, signs_B * data.rand_strength))
        maps_B33 = maps_B33 @ operation_maps(*rounds[-1])
    return Draws(mirrored_B, moves_B2, maps_B33, tuple(rounds))


def augment(pixels_BCHW: Tensor, draws: Draws) -> Tensor:
    """The images after what was drawn: mirrored, shifted, moved and recoloured, in this order.

    Args:
        pixels_BCHW: uint8, square.
        draws: What is done with each image; as many as there are images.

    Returns:
        uint8 [B, 3, H, W].
    """
    pixels_BCHW = shift(mirror(pixels_BCHW, draws.mirrored), draws.moves)
    pixels_BCHW = warp(pixels_BCHW, draws.maps)
    for kinds_B, amounts_B in draws.recolourings:
        pixels_BCHW = recolour(pixels_BCHW, kinds_B, amounts_B)
    return pixels_BCHW


def parts(pixels_BCHW: Tensor) -> Iterator[slice]:
    """Slices of a batch; on the CPU so small that what is computed from one stays in the processor's cache."""
    B, _, H, W = pixels_BCHW.shape
    size = max(1, _PIXELS_AT_ONCE // (H * W)) if pixels_BCHW.device.type == "cpu" else B
    yield from (slice(start, start + size) for start in range(0, B, size))


def mirror(pixels_BCHW: Tensor, mirrored_B: Tensor) -> Tensor:
    """Mirror the chosen images."""
    rows = mirrored_B.nonzero()[:, 0].to(pixels_BCHW.device)
    return _replaced(pixels_BCHW, rows, pixels_BCHW.index_select(0, rows).flip(3)) if len(rows) else pixels_BCHW


def shift(pixels_BCHW: Tensor, moves_B2: Tensor) -> Tensor:
    """Show each image from so many pixels further down and to the right on, edges repeated."""
    most = int(moves_B2.abs().max())
    if not most:
        return pixels_BCHW
    B, C, H, W = pixels_BCHW.shape
    dy, dx = moves_B2.unsqueeze(2).unbind(1)
    left, right = (pixels_BCHW[..., edge].unsqueeze(3).expand(B, C, H, most) for edge in (0, -1))
    padded = torch.cat([left, pixels_BCHW, right], 3)
    # Every row of the result is W neighbouring bytes of `padded`: copied whole, not pixel by pixel
    rows_BCH = torch.arange(B * C).view(B, C, 1) * H + (torch.arange(H) + dy).clamp(0, H - 1).view(B, 1, H)
    starts_BCH = rows_BCH * (W + 2 * most) + most + dx.view(B, 1, 1)
    windows = padded.view(-1).unfold(0, W, 1)
    return windows.index_select(0, starts_BCH.flatten().to(padded.device)).view(B, C, H, W)


def crops(num: int, least_area: float, most_ratio: float, generator: torch.Generator) -> Tensor:
    """Maps of random resized crops.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6.

    Args:
        num: How many crops are drawn.
        least_area: Areas are uniform from this share of the image to 1.
        most_ratio: Width over height is log-uniform between 1 / `most_ratio` and this; sides end at the image's.
        generator: On the CPU.

    Returns:
        float32 [num, 3, 3], see `warp`.
    """
    area, ratio, x, y = torch.rand(4, num, generator=generator)
    area = least_area + (1 - least_area) * area
    ratio = torch.exp((2 * ratio - 1) * math.log(most_ratio))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    one, zero = torch.ones(num), torch.zeros(num)
    rows = [width, zero, (2 * x - 1) * (1 - width), zero, height, (2 * y - 1) * (1 - height), zero, zero, one]
    return torch.stack(rows, 1).view(num, 3, 3)


def warp(pixels_BCHW: Tensor, maps_B33: Tensor) -> Tensor:
    """Sample each image through an affine map, bilinearly, edges repeated.

    Args:
        pixels_BCHW: uint8.
        maps_B33: float32, on the CPU: from a place of the result to the place in the image that is shown there;
            both span [-1, 1] in x and y. Images under the identity are left alone.
    """
    _, _, H, W = pixels_BCHW.shape
    moved_B = (maps_B33 != torch.eye(3)).flatten(1).any(1)
    if not moved_B.any():
        return pixels_BCHW
    device = pixels_BCHW.device
    x_W, y_H1 = _centres(W, device), _centres(H, device).unsqueeze(1)
    maps_B33 = maps_B33.to(device)
    rows = moved_B.nonzero()[:, 0].to(device)
    a, b, c, d, e, f = maps_B33[rows, :2].view(-1, 6, 1, 1).unbind(1)
    grid_BHW2 = torch.stack([a * x_W + b * y_H1 + c, d * x_W + e * y_H1 + f], 3)
    sampled_BCHW = F.grid_sample(
        pixels_BCHW.index_select(0, rows).float(),
        grid_BHW2,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return _replaced(pixels_BCHW, rows, _to_uint8(sampled_BCHW))


def _rotation(s: Tensor) -> tuple[Tensor, ...]:
    angle = s * math.radians(MAX_DEGREES)
    return angle.cos(), -angle.sin(), 0 * s, angle.sin(), angle.cos(), 0 * s


#: Two rows of the map, from the amount in [-1, 1].
_GEOMETRY: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "rotate": _rotation,
    "shear-x": lambda s: (1 + 0 * s, s * MAX_SHEAR, 0 * s, 0 * s, 1 + 0 * s, 0 * s),
    "shear-y": lambda s: (1 + 0 * s, 0 * s, 0 * s, s * MAX_SHEAR, 1 + 0 * s, 0 * s),
    "translate-x": lambda s: (1 + 0 * s, 0 * s, 2 * MAX_TRANSLATION * s, 0 * s, 1 + 0 * s, 0 * s),
    "translate-y": lambda s: (1 + 0 * s, 0 * s, 0 * s, 0 * s, 1 + 0 * s, 2 * MAX_TRANSLATION * s),
}


def _grey(x_BCHW: Tensor) -> Tensor:
    red, green, blue = x_BCHW.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).unsqueeze(1)


def _posterize(x_BCHW: Tensor, s: Tensor) -> Tensor:
    step = 2 ** (MAX_BITS * s.abs()).round()
    return (x_BCHW / step).floor() * step


#: New values in [0, 255], not yet clamped, from the old ones and the amount in [-1, 1].
_COLOUR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, s: x * (1 + MAX_BLEND * s),
    "contrast": lambda x, s: torch.lerp(_grey(x).mean((2, 3), keepdim=True), x, 1 + MAX_BLEND * s),
    "saturation": lambda x, s: torch.lerp(_grey(x).expand_as(x), x, 1 + MAX_BLEND * s),
    "posterize": _posterize,
    "solarize": lambda x, s: torch.where(x >= 256 * (1 - s.abs()), 255 - x, x),
}

#: Of which RandAugment draws; amount 0 changes nothing.
OPERATIONS = (*_GEOMETRY, *_COLOUR)


def operation_maps(kinds_B: Tensor, amounts_B: Tensor) -> Tensor:
    """The maps of the geometric operations, the identity for all others; see `warp`.

    Args:
        kinds_B: Indices into `OPERATIONS`.
        amounts_B: In [-1, 1].
    """
    maps_B33 = torch.eye(3).repeat(len(kinds_B), 1, 1)
    for kind, rows_of_map in enumerate(_GEOMETRY.values()):
        rows = (kinds_B == kind).nonzero()[:, 0]
        maps_B33[rows, :2] = torch.stack(rows_of_map(amounts_B[rows]), 1).view(-1, 2, 3)
    return maps_B33


def recolour(pixels_BCHW: Tensor, kinds_B: Tensor, amounts_B: Tensor) -> Tensor:
    """Apply the colour operations; images with another kind are left alone.

    Args:
        pixels_BCHW: uint8.
        kinds_B: Indices into `OPERATIONS`, on the CPU.
        amounts_B: In [-1, 1].
    """
    places, recoloured = [], []
    amounts_B111 = amounts_B.to(pixels_BCHW.device).view(-1, 1, 1, 1)
    for kind, operation in enumerate(_COLOUR.values(), start=len(_GEOMETRY)):
        rows = (kinds_B == kind).nonzero()[:, 0].to(pixels_BCHW.device)
        if len(rows):
            places.append(rows)
            x_BCHW = pixels_BCHW.index_select(0, rows).float()
            recoloured.append(_to_uint8(operation(x_BCHW, amounts_B111[rows])))
    return _replaced(pixels_BCHW, torch.cat(places), torch.cat(recoloured)) if places else pixels_BCHW


def mix(
    pixels_BCHW: Tensor, labels_B: Tensor, num_classes: int, data: DataSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image and label with another one of the batch, by mixup or cutmix; by turns where both are on.

    Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation 1; Yun et al. 2019, "CutMix",
    section 3.1: boxes may reach beyond the image, and labels follow the area inside.

    Args:
        pixels_BCHW: uint8.
        labels_B: int64, on the device of the pixels.
        num_classes: K.
        data: `mixup` and `cutmix`, the parameter of the Beta distribution of shares; 0 = off, one is on.
        generator: On the CPU.

    Returns:
        uint8 [B, 3, H, W], and float32 [B, K] that sum to 1.
    """
    B = len(labels_B)
    device = pixels_BCHW.device
    coin = torch.rand((), generator=generator).item() < 0.5
    others_B = torch.randperm(B, generator=generator)
    cut = data.cutmix > 0 and (coin or data.mixup == 0)
    shares_B = _beta(B, data.cutmix if cut else data.mixup, generator)
    if cut:
        pixels_BCHW, shares_B = _cutmix(pixels_BCHW, others_B.to(device), shares_B, generator)
    else:
        pixels_BCHW = _mixup(pixels_BCHW, others_B.to(device), shares_B.to(device))
    labels_BK = F.one_hot(labels_B, num_classes).float()
    return pixels_BCHW, torch.lerp(labels_BK[others_B.to(device)], labels_BK, shares_B.to(device).unsqueeze(1))


def _mixup(pixels_BCHW: Tensor, others_B: Tensor, shares_B: Tensor) -> Tensor:
    mixed_BCHW = torch.empty_like(pixels_BCHW)
    for part in parts(pixels_BCHW):
        own, other = pixels_BCHW[part].float(), pixels_BCHW.index_select(0, others_B[part]).float()
        mixed_BCHW[part] = _to_uint8(torch.lerp(other, own, shares_B[part].view(-1, 1, 1, 1)))
    return mixed_BCHW


def _cutmix(
    pixels_BCHW: Tensor, others_B: Tensor, shares_B: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The images with a box of another one each, and the shares that are still their own."""
    B, _, H, W = pixels_BCHW.shape
    reach_B = (1 - shares_B).sqrt() / 2
    inside, own_B = [], torch.ones(B)
    for size in (H, W):
        centre_B = torch.rand(B, generator=generator)
        first_B1, last_B1 = (
            (size * (centre_B + sign * reach_B)).round().clamp(0, size).unsqueeze(1) for sign in (-1, 1)
        )
        place_S = torch.arange(size)
        inside.append(((place_S >= first_B1) & (place_S < last_B1)).to(pixels_BCHW.device))
        own_B = own_B * (last_B1 - first_B1).squeeze(1) / size
    inside_B1HW = (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)
    mixed_BCHW = torch.empty_like(pixels_BCHW)
    for part in parts(pixels_BCHW):
        others_BCHW = pixels_BCHW.index_select(0, others_B[part])
        mixed_BCHW[part] = torch.where(inside_B1HW[part], others_BCHW, pixels_BCHW[part])
    return mixed_BCHW, 1 - own_B


def _beta(num: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draws of Beta(alpha, alpha), float32 [num]: torch's own distribution takes no generator."""
    uniform = torch.rand(num, dtype=torch.float64, generator=generator)
    return torch.from_numpy(betaincinv(alpha, alpha, uniform.numpy())).float()


def _centres(size: int, device: torch.device) -> Tensor:
    """Places of pixel centres, where the image spans [-1, 1]."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _replaced(pixels_BCHW: Tensor, rows: Tensor, images: Tensor) -> Tensor:
    """The batch with other images at some places; `index_select` copies whole images, assignment each byte."""
    source_B = torch.arange(len(pixels_BCHW), device=rows.device)
    source_B[rows] = len(pixels_BCHW) + torch.arange(len(rows), device=rows.device)
    return torch.cat([pixels_BCHW, images]).index_select(0, source_B)


def _to_uint8(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.round().clamp_(0, 255).to(torch.uint8)
