"""Does the Q-T score stand for what it should? Scores of spaces against the INT8 top-1 that their supernets reach.

    python benchmarks/score_correlation.py --spaces 9 --seeds 0 1 2

Per seed a recipe is run up to its search over spaces: a teacher, a block table and a latency predictor of its own.
Spaces are taken that spread evenly over the range of the first seed's scores, among random ones and the best. Each
space and seed gets a supernet of its own, with equal effort, that is searched under the same budget; the found subnet's
fake-quantized INT8 top-1 is taken on the validation images. The default target is the simulated device, whose
latencies are the same everywhere: the correlation is about quality. Finished supernets are kept, so an interrupted run
goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from spaceevo.artifacts import write_atomically
from spaceevo.config import Recipe, load_recipe
from spaceevo.nets.network import program_of
from spaceevo.progress import ProgressCallback, Shown, shown, silent
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.run.run import Run, result_of
from spaceevo.search.exact_score import ExactEvaluator
from spaceevo.seeding import python_random
from spaceevo.stages import predict, space
from spaceevo.stages._any_space import NOTES, load_network, search_supernet, train_supernet, trained_subnets
from spaceevo.tools import block_table
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
NUM_SAMPLED = 1500


def recipe_of(given: argparse.Namespace, seed: int) -> Recipe:
    recipe = load_recipe(given.recipe)
    epochs = {"epochs_fp32": given.epochs[0], "epochs_int8": given.epochs[1]} if given.epochs else {}
    return recipe.model_copy(
        update={
            "seed": seed,
            "target": recipe.target.model_copy(update={"name": given.target}),
            "space": recipe.space.model_copy(update={"num_tried": 1}),  # the spaces are chosen here
            "supernet": recipe.supernet.model_copy(update=epochs),
        }
    )


def spread(context: Context, scorer: ExactEvaluator, num_spaces: int) -> list[str]:
    """Spaces whose scores lie evenly between the lowest and the highest."""
    hyperspace, rng = context.hyperspace, python_random(0, "spread")
    choices = {hyperspace.sample(rng) for _ in range(NUM_SAMPLED)} | {
        hyperspace.decode(result_of(context, space.STAGE).result.best.encoding)
    }
    scored = sorted((score, hyperspace.encode(choice)) for choice in choices if (score := scorer.score(choice)) > 0)
    scores = np.array([score for score, _ in scored])
    nearest = [int(np.abs(scores - one).argmin()) for one in np.linspace(scores[0], scores[-1], num_spaces)]
    return [scored[position][1] for position in dict.fromkeys(nearest)]


def reached(work: tuple[Context, str, float], progress: ProgressCallback) -> dict[str, float]:
    """Train the supernet of one space, search it, and judge what was found on the validation images."""
    context, encoding, budget_ms = work
    start, recipe = time.monotonic(), context.recipe
    own = context.hyperspace.space(context.hyperspace.decode(encoding), context.data.num_classes)
    predicted = result_of(context, predict.STAGE)
    latency_ms, budgets_ms = predicted.predictor.network_ms, predicted.budgets_ms
    with tempfile.TemporaryDirectory() as folder, one_core():
        train_supernet(context, own, Path(folder), recipe.seed, latency_ms, budgets_ms, progress)
        sandwich, notes = trained_subnets(context, own, latency_ms, budgets_ms, recipe.seed), Path(folder) / NOTES
        best, *_ = search_supernet(
            context, own, Path(folder), latency_ms, (budget_ms,), sandwich, notes, recipe.seed, silent
        )
        network = load_network(context, own, Path(folder), "int8")
        images, _, val_images = split(context.data, recipe.data.search_share, recipe.seed)
        top1 = calibrated_top1(network, program_of(best.subnet), images, RECALIBRATION_BATCHES, val_images)
    return {"top1": top1, "searched_top1": best.top1, "seconds": time.monotonic() - start}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--recipe", type=Path, default=RECIPE)
    arguments.add_argument("--target", default="onnxruntime@fake")
    arguments.add_argument("--spaces", type=int, default=9)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--epochs", type=float, nargs=2, metavar=("FP32", "INT8"), help="of every supernet")
    arguments.add_argument("--budget-ms", type=float, help="the smaller automatic one of the first seed without it")
    arguments.add_argument("--folder", type=Path, default=Path("runs/score-correlation"))
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    console = Console()

    contexts, scorers = {}, {}
    budget_ms, encodings = given.budget_ms, []
    for seed in given.seeds:
        folder = given.folder / f"seed-{seed}"
        run = Run(recipe_of(given, seed), folder, Shown(console)).until("space")
        contexts[seed] = context = run.context
        budget_ms = budget_ms or min(run[predict.STAGE].budgets_ms)
        base_ms = block_table.base_ms(context.hyperspace, context.data.num_classes, run[predict.STAGE].predictor)
        scorers[seed] = ExactEvaluator(run[space.STAGE].table, context.hyperspace, (budget_ms,), base_ms)
        encodings = encodings or spread(context, scorers[seed], given.spaces)

    found: dict[tuple[int, str], float] = {}
    todo: list[tuple[int, str, Path]] = []
    for encoding in encodings:
        for seed in given.seeds:
            path = given.folder / f"seed-{seed}" / "reached" / f"{encoding}-{budget_ms:g}.json"
            if path.exists():
                found[seed, encoding] = json.loads(path.read_text())["top1"]
            else:
                todo.append((seed, encoding, path))
    jobs = [(contexts[seed], encoding, budget_ms) for seed, encoding, _ in todo]
    with shown(console, "supernets") as progress:
        for number, result in contexts[given.seeds[0]].engine.map(reached, jobs, progress):
            seed, encoding, path = todo[number]
            write_atomically(path, json.dumps(result))
            found[seed, encoding] = result["top1"]
            console.print(f"{len(found)} {encoding}, seed {seed}: {found[seed, encoding]:.2%}, "
                          f"{result['seconds']:.0f} s", highlight=False)  # fmt: skip

    scores = {key: scorers[key[0]].score(contexts[key[0]].hyperspace.decode(key[1])) for key in found}
    titles = [f"{what}, seed {seed}" for what in ("score", "top-1") for seed in given.seeds]
    table = Table("space", *titles, title=f"{budget_ms:g} ms on {given.target}")
    for encoding in encodings:
        table.add_row(encoding, *(f"{scores[seed, encoding]:.4f}" for seed in given.seeds),
                      *(f"{found[seed, encoding]:.2%}" for seed in given.seeds))  # fmt: skip
    console.print(table)
    rho = [float(spearmanr([scores[seed, x] for x in encodings], [found[seed, x] for x in encodings])[0])
           for seed in given.seeds]  # fmt: skip
    mean = float(spearmanr([np.mean([scores[seed, x] for seed in given.seeds]) for x in encodings],
                           [np.mean([found[seed, x] for seed in given.seeds]) for x in encodings])[0])  # fmt: skip
    console.print(f"Spearman's rho between score and INT8 top-1: {', '.join(f'{one:.2f}' for one in rho)} "
                  f"(mean {np.mean(rho):.2f}); of the means over the seeds {mean:.2f}", highlight=False)  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps({
            "budget_ms": budget_ms, "rho": rho, "rho_of_means": mean,
            "spaces": {x: {"scores": [scores[s, x] for s in given.seeds], "top1": [found[s, x] for s in given.seeds]}
                       for x in encodings},
        }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
