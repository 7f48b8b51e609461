"""Images per second that the loader hands out on one core, with each augmentation, against a loop over the images.

Images lie in memory as bytes. The loop uses torch's operators on one image at a time; its RandAugment only changes the
brightness, which is the cheapest operation. Times are those of the process, so other work on the machine counts
little, and of the clock where batches are augmented on a GPU (--device cuda).

Run: python benchmarks/loader.py [--sizes 40 96 224] [--batch 256] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from spaceevo.config import DataSettings
from spaceevo.train.batches import Images, batch_indices, to_input, torch_generator, training_batch

OFF = {"flip": False, "shift": 0}
AUGMENTATIONS = {
    "plain": DataSettings(**OFF),
    "flip": DataSettings(flip=True, shift=0),
    "shift": DataSettings(flip=False, shift=3),
    "flip, shift (default)": DataSettings(),
    "crop": DataSettings(**OFF, crop_area=0.25),
    "RandAugment 2": DataSettings(**OFF, rand_augment=2),
    "mixup": DataSettings(**OFF, mixup=0.2),
    "cutmix": DataSettings(**OFF, cutmix=1.0),
    "flip, crop, RandAugment 2, mixup, cutmix": DataSettings(
        shift=0, crop_area=0.25, rand_augment=2, mixup=0.2, cutmix=1.0
    ),
}
ROUNDS = 5


def one_by_one(images: Images, data: DataSettings, batch_size: int, step: int) -> Tensor:
    """The plain way: each image on its own, then stacked."""
    generator = torch_generator(0, "loop", step)

    def draw() -> float:
        return torch.rand((), generator=generator).item()

    batch = []
    for index in batch_indices(len(images), batch_size, step, 0, "loop"):
        image = images.stored[index]
        size = image.shape[-1]
        if data.flip and draw() < 0.5:
            image = image.flip(2)
        if data.shift:
            pad = data.shift
            padded = F.pad(image.float().unsqueeze(0), (pad,) * 4, mode="replicate")[0].to(torch.uint8)
            y, x = (int(draw() * (2 * pad + 1)) for _ in range(2))
            image = padded[:, y : y + size, x : x + size]
        if data.crop_area < 1:
            side = round(size * (data.crop_area + (1 - data.crop_area) * draw()) ** 0.5)
            y, x = (int(draw() * (size - side + 1)) for _ in range(2))
            part = image[:, y : y + side, x : x + side].unsqueeze(0)
            image = F.interpolate(part, (size, size), mode="bilinear", align_corners=False)[0]
        for _ in range(data.rand_augment):
            image = (image.float() * (1 + 0.3 * (2 * draw() - 1))).round().clamp(0, 255).to(torch.uint8)
        if data.mixup or data.cutmix:
            other = images.stored[int(draw() * len(images))]
            image = torch.lerp(other.float(), image.float(), draw()).round().to(torch.uint8)
        batch.append(image)
    return torch.stack(batch)


def rate(make: Callable[[int], object], batch_size: int, on_gpu: bool) -> float:
    """Images per second, the median of some rounds after one that does not count."""
    seconds = []
    for step in range(ROUNDS + 1):
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        make(step)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return batch_size / statistics.median(seconds[1:])


def compare(images: Images, batch_size: int, device: str) -> None:
    """Print the rates of one image size."""
    on_gpu = torch.device(device).type == "cuda"
    size = images.stored.shape[-1]
    print(f"\n{size} px {'':36} batches   one by one   ratio")
    for name, data in AUGMENTATIONS.items():
        batches = partial(training_batch, images, data, batch_size, seed=0, purpose="loader", device=device)
        ours = rate(batches, batch_size, on_gpu)
        loop = rate(partial(one_by_one, images, data, batch_size), batch_size, False)
        print(f"{name:42} {ours:8,.0f} {loop:12,.0f} {ours / loop:7.2f}")
    pixels, _ = training_batch(images, AUGMENTATIONS["plain"], batch_size, 0, 0, "loader", device)
    inputs = rate(lambda _: to_input(pixels, size), batch_size, on_gpu)
    print(f"{'to float, normalized (in each step)':42} {inputs:8,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[40, 96, 224])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = f"{platform.machine()}, {options.threads} thread(s), batches on {options.device}"
    print(f"torch {torch.__version__}, {where}, batch {options.batch}, images per second")
    for size in options.sizes:
        shape = (4 * options.batch, 3, size, size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch_generator(0, "loader"))
        compare(Images(pixels, torch.arange(len(pixels)) % 10), options.batch, options.device)


if __name__ == "__main__":
    main()
