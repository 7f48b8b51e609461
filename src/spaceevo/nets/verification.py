"""What an exported file computes, against what it was exported from.

Shape suffixes: B images, C classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaceevo.errors import ArtifactError
from spaceevo.graph.graphs import IntegerGraph
from spaceevo.graph.ops import Linear, Relabel
from spaceevo.graph.tensors import NUM_CODES
from spaceevo.nets.executors import Tap, run_fake_quantized, run_integer
from spaceevo.nets.extracted import digest
from spaceevo.progress import ProgressCallback, silent
from spaceevo.records import LogitAgreement, Verification
from spaceevo.runtimes import RUNTIMES, Runtime, Session

DIGEST = "spaceevo.network"  # metadata: digest of the integer graph
PROFILE = "spaceevo.profile"  # metadata: profile of the processor that a file is for
#: A file may differ from its integer reference by this much on average, in steps of the logits.
MAX_MEAN_STEPS = 0.1
#: From this share of other codes on, a tensor counts as different when the first one is looked for.
DIFFERENT_SHARE = 0.01
BISECTION_IMAGES = 8


def verify(
    path: Path,
    runtime_name: str,
    graph: IntegerGraph,
    batches: Iterable[Tensor],
    labels: Tensor,
    verified_on: str,
    *,
    min_agreement: float,
    threads: int = 1,
    progress: ProgressCallback = silent,
    take_logits: Callable[[Tensor], None] = lambda logits_BC: None,
) -> Verification:
    """Run an exported INT8 file and compare it with the network that it was exported from, number by number.

    Args:
        path: The file.
        runtime_name: Of the plug-in that wrote it and runs it here.
        graph: The network.
        batches: Preprocessed images of the network's resolution, [B, 3, H, W] each; gone through once.
        labels: int64, of all of them.
        verified_on: Name of this processor's profile.
        min_agreement: Least share of images with the top-1 of the integer reference.
        threads: Of the runtime.
        progress: Called as work goes on.
        take_logits: Called once, with the file's logits of all images, [N, C].

    Raises:
        ArtifactError: The file cannot be loaded, or belongs to another network.
    """
    runtime = RUNTIMES.load(runtime_name)
    stored = runtime.metadata(path)
    if stored.get(DIGEST) != digest(graph):
        raise ArtifactError(
            f"{path} was exported from another network",
            found=f"The digest in the file is {stored.get(DIGEST, 'missing')}, the network's {digest(graph)}",
            remedy="Name the network that lies beside the file, or export it again",
        )
    session = runtime.Session(path, threads=threads)
    runs = (
        partial(_run_file, session),
        partial(run_integer, graph, arithmetic=runtime.ARITHMETIC),
        partial(run_fake_quantized, graph, arithmetic=runtime.ARITHMETIC),
    )
    outputs: list[list[Tensor]] = [[], [], []]
    first_images, num_images = torch.empty(0), 0
    for batch in batches:
        for run, own in zip(runs, outputs, strict=True):
            own.append(run(batch))
        first_images = first_images if num_images else batch[:BISECTION_IMAGES]
        num_images += len(batch)
        progress(num_images, len(labels))
    logits, integer, fake_quantized = map(torch.cat, outputs)
    take_logits(logits)
    against_integer, against_float = compare(logits, integer), compare(logits, fake_quantized)
    changed, floats = changed_constants(path, runtime, graph, stored), runtime.float_operators(path)
    problems = []
    if changed:
        problems.append(f"{len(changed)} constants are not the network's: {', '.join(changed[:3])}")
    if floats:
        problems.append(f"{len(floats)} operators are computed in float: {', '.join(floats[:3])}")
    if not against_integer.top1 >= min_agreement:
        problems.append(f"top-1 agreement with the integer reference is {against_integer.top1:.2%}, "
                        f"not {min_agreement:.2%}")  # fmt: skip
    if not against_integer.mean_steps <= MAX_MEAN_STEPS:
        problems.append(f"logits are {against_integer.mean_steps:.3g} steps from the integer reference on average, "
                        f"more than {MAX_MEAN_STEPS}")  # fmt: skip
    first, share = first_difference(path, runtime, graph, first_images) if problems else ("", 0.0)
    return Verification(
        file=path.name,
        runtime=f"{runtime_name} {runtime.version()}",
        exported_for=stored.get(PROFILE, "unknown"),
        verified_on=verified_on,
        num_images=num_images,
        top1=_top1(logits, labels),
        top1_fake_quantized=_top1(fake_quantized, labels),
        integer=against_integer,
        fake_quantized=against_float,
        float_operators=floats,
        changed_constants=changed,
        first_difference=first,
        differing_codes=share,
        problems=tuple(problems),
    )


def compare(logits_BC: Tensor, reference_BC: Tensor) -> LogitAgreement:
    """Logits against a reference's.

    >>> compare(torch.tensor([[0.0, 254.0]]), torch.tensor([[0.0, 255.0]])).max_steps
    1.0
    """
    low, high = reference_BC.min(), reference_BC.max()
    step = ((high - low) / (NUM_CODES - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    ours, theirs = (((logits - low) / step).round() for logits in (logits_BC, reference_BC))
    difference = (logits_BC - reference_BC).abs() / step
    return LogitAgreement(
        top1=(logits_BC.argmax(1) == reference_BC.argmax(1)).float().mean().item(),
        identical_codes=(ours == theirs).float().mean().item(),
        mean_steps=difference.mean().item(),
        max_steps=difference.max().item(),
    )


def changed_constants(path: Path, runtime: Runtime, graph: IntegerGraph, stored: dict[str, str]) -> tuple[str, ...]:
    """Names of the constants of a file that another export of the network does not have, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / f"again{runtime.SUFFIX}"
        runtime.export_int8(graph, again, stored)
        ours, theirs = runtime.constants(again), runtime.constants(path)
    return tuple(
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or not _same(ours[name], theirs[name])
    )


def first_difference(path: Path, runtime: Runtime, graph: IntegerGraph, images_BCHW: Tensor) -> tuple[str, float]:
    """The first tensor that a file computes otherwise than the integer reference, found by bisection.

    One tensor is looked at a time: reading many would keep the runtime from fusing what it fuses.

    Returns:
        (name, share of its codes that differ); the logits where every tensor before them agrees.
    """
    reference: dict[str, np.ndarray] = {}

    def keep(name: str, codes: Tensor) -> None:
        reference[name] = codes.numpy()

    tap: Tap = keep
    run_integer(graph, images_BCHW, tap, runtime.ARITHMETIC)
    names = [node.id for node in graph.nodes if not isinstance(node.op, Relabel | Linear)]
    shares: dict[int, float] = {}

    def differs(index: int) -> bool:
        name = names[index]
        try:
            codes = runtime.Session(path, taps=[name]).codes(images_BCHW.numpy())[name]
            shares[index] = float((codes != reference[name]).mean())
        except ArtifactError:  # the file has no such tensor
            shares[index] = 1.0
        return shares[index] > DIFFERENT_SHARE

    low, high = 0, len(names)  # all before low agree; high differs, or is the logits
    while low < high:
        middle = (low + high) // 2
        if differs(middle):
            high = middle
        else:
            low = middle + 1
    return (names[low], shares[low]) if low < len(names) else (graph.nodes[-1].id, 1.0)


def _top1(logits_BC: Tensor, labels: Tensor) -> float:
    return (logits_BC.argmax(1) == labels).float().mean().item()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _run_file(session: Session, images_BCHW: Tensor) -> Tensor:
    return torch.from_numpy(session.run(images_BCHW.numpy()))
