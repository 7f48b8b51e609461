"""What is done with the space of a run, and with others beside it: train its supernet, search it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from spaceevo import interrupts
from spaceevo.artifacts import content_hash, read_file, storage_errors, write_atomically
from spaceevo.errors import ArtifactError, EncodingError, InfeasibleBudgetError
from spaceevo.measure.metrics import METRICS
from spaceevo.nets.network import Network, program_of
from spaceevo.predict.metrics import computed_metric, metric_value
from spaceevo.progress import ProgressCallback, part
from spaceevo.records import TrainingPoint
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.search.subnet_search import RatedSubnet, fastest_within, search_subnets
from spaceevo.spaces.encoding import decode, encode
from spaceevo.spaces.search_space import SearchSpace
from spaceevo.spaces.subnet import Subnet
from spaceevo.train.batches import Images, split
from spaceevo.train.checkpoints import load_weights
from spaceevo.train.evaluation import BATCH_SIZE, calibrated_top1
from spaceevo.train.loop import TrainedFiles, train
from spaceevo.train.losses import DISTILLATION_LOSSES
from spaceevo.train.ranks import ALONE, Ranks
from spaceevo.train.supernet import Sandwich, Within, make_supernet

SUPERNET, NOTES = "supernet", "evaluated.jsonl"
NUM_DIGITS = 16  # of the hash of a line of notes
TRAINED_SHARE = 0.7  # of the time, for the progress only


def train_and_search(
    context: Context,
    space: SearchSpace,
    folder: Path,
    seed: int,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    progress: ProgressCallback,
) -> list[RatedSubnet]:
    """Train the supernet of a space and search it, continuing from what the folder holds.

    Args:
        context: Data, budgets and settings.
        space: Whose subnets are trained and searched.
        folder: For its files.
        seed: Of training and search.
        latency_ms: Predicts.
        budgets_ms: Of the run, ascending.
        progress: Called with work done and in all.

    Returns:
        The evaluated subnets; none where the space can meet no budget.
    """
    met = [budget for budget in budgets_ms if meets_budget(space, budget, latency_ms, seed)]
    if not met:
        return []
    train_supernet(context, space, folder, seed, latency_ms, budgets_ms, part(progress, 0, TRAINED_SHARE))
    sandwich = trained_subnets(context, space, latency_ms, budgets_ms, seed)
    return search_supernet(
        context, space, folder, latency_ms, met, sandwich, folder / NOTES, seed, part(progress, TRAINED_SHARE, 1)
    )


def train_supernet(
    context: Context,
    space: SearchSpace,
    folder: Path,
    seed: int,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    progress: ProgressCallback,
    ranks: Ranks = ALONE,
) -> tuple[TrainedFiles, list[TrainingPoint]]:
    """Train the supernet of a space with the settings of the recipe, continuing from the folder's checkpoint.

    Args:
        context: Data, settings and what weights may be.
        space: Whose subnets are trained and searched.
        folder: For its files.
        seed: All that is random follows from it.
        latency_ms: Predicts.
        budgets_ms: Of the run, ascending.
        progress: Called with work done and in all.
        ranks: The processes that train together.

    Raises:
        InfeasibleBudgetError: No subnet meets the largest budget, and only those that do are to be trained.
    """
    recipe = context.recipe
    network = make_supernet(space, context.target.w_qmax, seed, recipe.supernet.per_channel)
    images, _, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return train(
        network,
        trained_subnets(context, space, latency_ms, budgets_ms, seed).programs(recipe.supernet.num_random),
        images,
        recipe.supernet,
        recipe.data,
        seed=seed,
        purpose=SUPERNET,
        folder=folder,
        progress=progress,
        distillation_loss=DISTILLATION_LOSSES[recipe.supernet.distillation],
        first_alone=recipe.supernet.large_first,
        complete=program_of(space.largest()),
        ranks=ranks,
    )


def trained_subnets(
    context: Context,
    space: SearchSpace,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    seed: int,
) -> Sandwich:
    """Those that the recipe wants trained.

    Within budgets, the small one meets the smallest budget that the space can meet; of a single budget, it is a fast
    one. What every step trains is by far the most accurate, so it should be something that may be chosen. The seed
    decides both.

    Raises:
        InfeasibleBudgetError: See `train_supernet`.
    """
    if context.recipe.supernet.subnets == "all":
        return Sandwich.all_of(space)
    *smaller, largest = budgets_ms
    fastest = fastest_within(space, largest, latency_ms, seed)
    met = (_within(space, latency_ms, budget_ms, fastest) for budget_ms in smaller if latency_ms(fastest) <= budget_ms)
    return Sandwich.of(_within(space, latency_ms, largest, fastest), next(met, None), seed)


def large_within(
    context: Context, space: SearchSpace, latency_ms: Callable[[Subnet], float], budget_ms: float
) -> Subnet:
    """A large subnet of a space that meets a budget.

    Raises:
        InfeasibleBudgetError: None does.
    """
    seed = context.recipe.seed
    return _within(space, latency_ms, budget_ms, fastest_within(space, budget_ms, latency_ms, seed)).large(seed)


def meets_budget(space: SearchSpace, budget_ms: float, latency_ms: Callable[[Subnet], float], seed: int) -> bool:
    """Whether a search of the space with this seed finds a subnet within a budget."""
    try:
        fastest_within(space, budget_ms, latency_ms, seed)
    except InfeasibleBudgetError:
        return False
    return True


def check_limits(
    context: Context, space: SearchSpace, latency_ms: Callable[[Subnet], float], budgets_ms: Sequence[float]
) -> None:
    """Refuse, before a supernet is trained, what a search of it would refuse after.

    Raises:
        InfeasibleBudgetError: No subnet within a budget meets the limits that follow from the architecture alone.
    """
    limits = context.recipe.subnets.limits
    fits = [computed_metric(name) for name in limits if METRICS.load(name).measure is None]

    def excess(subnet: Subnet) -> dict[str, float]:
        return {fit.metric: metric_value(fit, subnet) / limits[fit.metric] - 1 for fit in fits}

    for budget_ms in budgets_ms:
        fastest_within(space, budget_ms, latency_ms, context.recipe.seed, excess)


def _within(space: SearchSpace, latency_ms: Callable[[Subnet], float], budget_ms: float, small: Subnet) -> Within:
    return Within(space, lambda subnet: latency_ms(subnet) <= budget_ms, small)


def weights_name(precision: str) -> str:
    """Of the file with the weights at the end of a phase."""
    return f"{SUPERNET}-{precision}.safetensors"


def load_network(context: Context, space: SearchSpace, folder: Path, precision: str) -> Network:
    """What `train_supernet` left in a folder, in evaluation mode, with the rounding of the target's runtime."""
    network = make_supernet(space, context.target.w_qmax, context.recipe.seed, context.recipe.supernet.per_channel)
    load_weights(network, folder / weights_name(precision))
    network.quantized, network.arithmetic = precision == "int8", context.arithmetic
    return network.eval()


def search_supernet(
    context: Context,
    space: SearchSpace,
    trained: Path,
    latency_ms: Callable[[Subnet], float],
    budgets_ms: Sequence[float],
    sandwich: Sandwich,
    notes: Path,
    seed: int,
    progress: ProgressCallback,
    excess: Callable[[Subnet], dict[str, float]] = lambda subnet: {},
) -> list[RatedSubnet]:
    """Search the subnets of a trained supernet with the settings of the recipe.

    Args:
        context: Data and settings.
        space: The supernet's space.
        trained: Folder of `train_supernet`.
        latency_ms: Predicts.
        budgets_ms: To search for, ascending.
        sandwich: What its training was made of (`trained_subnets`).
        notes: Accuracies, one per line, as they come; those that are there are not asked for again.
        seed: Of the search.
        progress: Called with subnets evaluated and in all.
        excess: See `search_subnets`.
    """
    settings = context.recipe.subnets

    def each(top1: Callable[[Subnet], float], subnets: Sequence[Subnet]) -> list[float]:
        values: dict[int, float] = {}
        for number, value in context.engine.map(partial(_evaluate, top1), subnets, lambda *_: interrupts.check()):
            with storage_errors(notes), notes.open("a", encoding="utf-8") as file:
                file.write(_noted(encode(subnets[number]), value) + "\n")
            values[number] = value
        return [values[number] for number in range(len(subnets))]

    return search_subnets(
        space,
        budgets_ms=budgets_ms,
        latency_ms=latency_ms,
        top1=partial(_accuracy, context, space, trained.absolute()),
        each=each,
        method=settings.method,
        excess=excess,
        trained=(sandwich.large, sandwich.small),
        window=settings.latency_window,
        population_size=settings.population_size,
        num_generations=settings.num_generations,
        num_mutations=settings.num_mutations,
        num_crossovers=settings.num_crossovers,
        num_candidates=settings.num_candidates,
        seed=seed,
        progress=progress,
        known=_read_notes(notes, space),
    )


def _accuracy(context: Context, space: SearchSpace, trained: Path, subnet: Subnet) -> float:
    network, images, held_out = _judge(context, space, trained, (trained / weights_name("int8")).stat().st_mtime_ns)
    num_batches = context.recipe.subnets.recalibration_batches
    return calibrated_top1(network, program_of(subnet), images, num_batches, held_out)


@lru_cache(maxsize=1)
def _judge(context: Context, space: SearchSpace, trained: Path, written_ns: int) -> tuple[Network, Images, Images]:
    """What an evaluation needs, kept for the next one: the supernet, and images to recalibrate and to judge on."""
    recipe = context.recipe
    images, held_out, _ = split(context.data, recipe.data.search_share, recipe.seed)
    return (
        load_network(context, space, trained, "int8"),
        images.take(slice(recipe.subnets.recalibration_batches * BATCH_SIZE)),
        held_out.take(slice(recipe.subnets.num_images)),
    )


def _evaluate(top1: Callable[[Subnet], float], subnet: Subnet, progress: ProgressCallback) -> float:
    with one_core():
        return top1(subnet)


def _noted(encoding: str, top1: float) -> str:
    """A line of the notes; its end tells whether it is as it was written."""
    return json.dumps([encoding, top1, content_hash([encoding, top1])[:NUM_DIGITS]])


def _read_notes(path: Path, best: SearchSpace) -> dict[Subnet, float]:
    """Accuracies that were noted; the line that an interruption cut off is dropped."""
    if not path.exists():
        return {}
    whole, _, cut_off = read_file(path).decode(errors="replace").rpartition("\n")
    if cut_off:
        write_atomically(path, f"{whole}\n" if whole else "")
    known: dict[Subnet, float] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        encoding, top1 = noted_value(path, number, line)
        try:
            known[decode(encoding, best)] = top1
        except EncodingError:  # of an earlier version, without a hash
            continue
    return known


def noted_value(path: Path, number: int, line: str) -> tuple[str, float]:
    """Encoding and accuracy of a line of notes; earlier versions wrote them without a hash.

    Raises:
        ArtifactError: The line is not as it was written.
    """
    try:
        encoding, top1, *digits = json.loads(line)
        if digits and line != _noted(encoding, top1):
            raise ValueError("Its SHA-256 differs")
        return str(encoding), float(top1)
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"Line {number} of {path} is not what spaceevo wrote",
            found=str(error),
            remedy="Delete this line and run the same command again: its subnet is evaluated anew, the others are kept",
        ) from error


def has_old_lines(path: Path) -> bool:
    """Whether some lines of notes carry no hash.

    Raises:
        ArtifactError: A line is not as it was written.
    """
    lines = read_file(path).decode(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        noted_value(path, number, line)
    return any(line.count(",") < 2 for line in lines)
