"""Fake quantization of one activation, forward and backward: ours against two others, as ratios in one run.

Run: python benchmarks/fake_quant.py [--threads 1]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from spaceevo.nets.fake_quant import ActivationQuantizer

SHAPE = (32, 96, 20, 20)
ROUNDS = 15


def textbook(x: Tensor, scale: Tensor, beta: Tensor) -> Tensor:
    """LSQ+ composed of elementary operations with a straight-through rounding."""
    zero_point = torch.round(-beta / scale)
    codes = torch.nn.functional.hardtanh(x / scale + zero_point, 0.0, 255.0)
    codes = codes + (codes.round() - codes).detach()
    return (codes - zero_point) * scale


def builtin(x: Tensor, scale: Tensor, beta: Tensor) -> Tensor:
    """Torch's own learnable fake-quantize operator."""
    zero_point = torch.round(-beta / scale)
    return torch._fake_quantize_learnable_per_tensor_affine(x, scale.view(1), zero_point.view(1), 0, 255, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    generator = torch.Generator().manual_seed(0)
    quantizer = ActivationQuantizer("free")
    quantizer.set_range(-2.0, 3.0)
    x = torch.randn(SHAPE, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(SHAPE, generator=generator).contiguous(memory_format=torch.channels_last)
    candidates: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: quantizer(x),
        "textbook composition": lambda: textbook(x, quantizer.scale, quantizer.beta),
        "torch learnable operator": lambda: builtin(x, quantizer.scale, quantizer.beta),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(ROUNDS + 2):
        for name, run in candidates.items():
            start = time.perf_counter()
            run().backward(gradient)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    ours = statistics.median(seconds["ours"])
    print(f"{SHAPE} float32, channels last, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
          f"{platform.machine()}; median of {ROUNDS} interleaved rounds")  # fmt: skip
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:26s} {1000 * median:8.3f} ms   {median / ours:6.1f} x ours")


if __name__ == "__main__":
    main()
