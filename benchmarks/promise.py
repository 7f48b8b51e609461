"""The promise of one training: subnets as they are inherited from the supernet, against the same fine-tuned alone.

    python benchmarks/promise.py runs/quickstart

Takes the supernet of a finished run. Of the subnets that it was trained for, random ones are chosen so that their
predicted latencies spread evenly. For each: FP32 top-1 inherited at the end of the FP32 phase, INT8 top-1 inherited at
the end of the LSQ+ phase, and INT8 top-1 after the inherited network was trained alone, LSQ+, for a tenth of the
supernet's epochs, at several learning rates: the best of them counts, which favours fine-tuning. All on the validation
images, batch norm recalibrated alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from spaceevo.graph.nodes import Program
from spaceevo.nets.network import Network, program_of
from spaceevo.progress import ProgressCallback, silent
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.run.run import result_of
from spaceevo.seeding import python_random
from spaceevo.spaces.encoding import encode
from spaceevo.spaces.subnet import Subnet
from spaceevo.stages import finetune, predict, space, supernet
from spaceevo.stages._any_space import trained_subnets
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1

NUM_SAMPLED = 1000


def spread(context: Context, num_subnets: int) -> list[tuple[float, Subnet]]:
    """(Predicted ms, subnet), spread evenly over the latencies between their 2nd and 98th percentile."""
    own, predicted = result_of(context, space.STAGE).space, result_of(context, predict.STAGE)
    predictor = predicted.predictor
    rng = python_random(context.recipe.seed, "promise")
    trained = trained_subnets(context, own, predictor.network_ms, predicted.budgets_ms, context.recipe.seed)
    drawn = filter(trained.within.fits, (own.sample(rng) for _ in range(NUM_SAMPLED)))
    sampled = sorted(((predictor.network_ms(one), one) for one in drawn), key=lambda pair: pair[0])
    latencies = np.array([latency_ms for latency_ms, _ in sampled])
    wanted = np.linspace(*np.quantile(latencies, (0.02, 0.98)), num_subnets)
    return [sampled[int(np.abs(latencies - one).argmin())] for one in wanted]


def measure(
    context: Context,
    epochs: float,
    lr_factors: tuple[float, ...],
    job: tuple[int, Program],
    progress: ProgressCallback,
) -> dict[str, float]:
    """Top-1 in percent of one subnet: inherited, and tuned with each rate."""
    number, program = job
    recipe = context.recipe
    images, _, held_out = split(context.data, recipe.data.search_share, recipe.seed)
    floating, quantized = (result_of(context, supernet.STAGE).network(precision) for precision in ("fp32", "int8"))

    def judged(network: Network) -> float:
        return 100 * calibrated_top1(network, program, images, RECALIBRATION_BATCHES, held_out)

    with one_core():
        result = {"fp32": judged(floating), "int8": judged(quantized)}
        for factor in lr_factors:
            own = finetune.settings(context, epochs, factor)
            with tempfile.TemporaryDirectory() as work:
                name = f"promise{number}"
                network, _ = finetune.tune(context, quantized, program, own, name, recipe.seed, Path(work), silent)
            result[f"tuned, lr x {factor:g}"] = judged(network)
    return result


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("run", type=Path, help="folder of a run whose supernet is trained")
    arguments.add_argument("--subnets", type=int, default=10)
    arguments.add_argument("--share", type=float, default=0.1, help="of the supernet's epochs")
    arguments.add_argument("--lr-factors", type=float, nargs="+", default=[0.1, 0.3, 1.0], help="times lr_int8")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    console = Console()
    context = Context.of_folder(given.run)
    recipe = context.recipe
    epochs = given.share * (recipe.supernet.epochs_fp32 + recipe.supernet.epochs_int8)
    subnets = spread(context, given.subnets)
    jobs = [(number, program_of(subnet)) for number, (_, subnet) in enumerate(subnets)]
    work = partial(measure, context, epochs, tuple(given.lr_factors))
    results: list[dict[str, float]] = [{}] * len(jobs)
    with closing(context.engine):
        for number, result in context.engine.map(work, jobs, silent):
            results[number] = result
            console.print(f"{encode(subnets[number][1])}: {result}", highlight=False, soft_wrap=True)
    tuned = [max(value for name, value in result.items() if name.startswith("tuned")) for result in results]
    shown = Table(
        "predicted ms", *results[0], "gap", title=f"{epochs:g} epochs alone, {len(context.data.val_labels)} images"
    )
    for (latency_ms, _), result, best in zip(subnets, results, tuned, strict=True):
        shown.add_row(
            f"{latency_ms:.3f}", *(f"{value:.2f}" for value in result.values()), f"{best - result['int8']:+.2f}"
        )
    console.print(shown)
    gaps = np.array(tuned) - [result["int8"] for result in results]
    drops = np.array([result["fp32"] - result["int8"] for result in results])
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    console.print(f"Fine-tuning alone gains {gaps.mean():.2f} points on average (standard error {error:.2f}); "
                  f"from FP32 to INT8, {drops.mean():.2f} points are lost", highlight=False)  # fmt: skip
    if given.json:
        summary = {"mean_gap": gaps.mean(), "mean_drop": drops.mean(), "epochs": epochs}
        rows = [{"encoding": encode(subnet), "predicted_ms": latency_ms, **result}
                for (latency_ms, subnet), result in zip(subnets, results, strict=True)]  # fmt: skip
        given.json.write_text(json.dumps(summary | {"subnets": rows}, indent=1))


if __name__ == "__main__":
    main()
