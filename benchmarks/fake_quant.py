"""Fake quantization of one activation, forward and backward: ours against two others, as ratios in one run.

Kept: bytes of the tensors kept for the backward pass, the input included, in units of the input.

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

#: Of an early layer, of a middle one, of a late one, of squeeze-and-excite.
SHAPES = ((8, 32, 80, 80), (32, 96, 20, 20), (8, 192, 10, 10), (32, 96, 1, 1))
ROUNDS = 15
#: Calls per measurement, for about the same time with every shape.
ELEMENTS_PER_ROUND = 1_500_000


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


def kept(run: Callable[[], Tensor], x: Tensor) -> float:
    """Sizes of the tensors kept for the backward pass, in units of the input."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = run()  # held, so that no address is used twice
    assert y.shape == x.shape
    return sum(sizes.values()) / x.untyped_storage().nbytes()


def measure(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = ActivationQuantizer("free")
    quantizer.set_range(-2.0, 3.0)
    x, gradient = (
        torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    x.requires_grad_()
    candidates: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: quantizer(x),
        "textbook composition": lambda: textbook(x, quantizer.scale, quantizer.beta),
        "torch learnable operator": lambda: builtin(x, quantizer.scale, quantizer.beta),
    }
    calls = min(50, max(1, ELEMENTS_PER_ROUND // x.numel()))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(ROUNDS + 2):
        for name, run in candidates.items():
            start = time.perf_counter()
            for _ in range(calls):
                run().backward(gradient)
            if turn >= 2:
                seconds[name].append((time.perf_counter() - start) / calls)
    ours = statistics.median(seconds["ours"])
    print(f"{shape}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"  {name:26s} {1000 * median:8.3f} ms   {median / ours:6.1f} x ours   "
              f"kept {kept(candidates[name], x):4.1f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(f"float32, channels last, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
          f"{platform.machine()}; median of {ROUNDS} interleaved rounds")  # fmt: skip
    for shape in SHAPES:
        measure(shape)


if __name__ == "__main__":
    main()
