"""Found subnets trained alone: from what the supernet left, and told beside it."""

import json
from typing import Any

import pytest
import torch

from spaceevo.config import FinetuneSettings
from spaceevo.nets.network import extract, program_of
from spaceevo.pipeline import baselines, export, finetune, subnets
from spaceevo.pipeline.context import Context
from spaceevo.pipeline.space import load_space
from spaceevo.pipeline.supernet import load_supernet
from spaceevo.progress import silent
from spaceevo.spaces.encoding import decode
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1


@pytest.fixture
def context(tiny: Any, cli: Any) -> Context:
    return Context.of_folder(tiny.folder)  # `cli` lets this process see the hyperspace


def test_accuracies_before_and_after(context: Context) -> None:
    images, _, held_out = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    models, handmade = export.load(context)
    for number, model in enumerate(models):
        program = program_of(decode(model.encoding, load_space(context)))
        networks = load_supernet(context, "int8"), finetune.load_network(context, program, number)
        before, after = (
            calibrated_top1(network, program, images, RECALIBRATION_BATCHES, held_out) for network in networks
        )
        # As the runtime rounds; an image or two of so few may be a draw
        assert model.top1_inherited == pytest.approx(before, abs=0.012)
        assert model.top1_int8 == pytest.approx(after, abs=0.012)
    assert all(model.top1_inherited is None for model in handmade)


def test_starts_from_what_the_supernet_left(context: Context) -> None:
    """So few steps at so low a rate do not lead far away."""
    program = program_of(decode(subnets.load(context).found[0].encoding, load_space(context)))
    inherited, tuned = extract(load_supernet(context, "int8"), program), finetune.load_network(context, program, 0)
    assert tuned.quantized
    assert tuned.arithmetic is inherited.arithmetic
    assert not tuned.training
    weights = dict(inherited.named_parameters())
    moved = {
        name: (parameter - weights[name]).detach().norm() / weights[name].detach().norm().clamp(min=1e-6)
        for name, parameter in tuned.named_parameters()
        if name.endswith(".weight")
    }
    assert 0 < float(torch.stack(list(moved.values())).mean()) < 0.5
    curve = finetune.load_curve(context, 0)
    steps = len(json.loads((context.run.path / "supernet" / "curve.json").read_text()))
    assert [point.phase for point in curve] == ["lsq+"] * len(curve)
    assert len(curve) == round(0.5 * steps / 1.25)  # of the epochs of the supernet


def test_nothing_where_it_is_not_asked_for(context: Context, tmp_path: Any) -> None:
    recipe = context.recipe.model_copy(update={"finetune": FinetuneSettings()})
    without = Context(recipe, context.run)
    assert finetune.run(without, tmp_path, silent) == []
    assert list(tmp_path.iterdir()) == []
    assert finetune.load_curve(without, 0) == []
    assert all(one.inherited is None for one in export._candidates(without))
    assert finetune.inputs(without) != finetune.inputs(context)


def test_rates_follow_the_supernets(context: Context) -> None:
    own = finetune.settings(context, 3.0, 0.1)
    assert own.epochs_int8 == 3.0
    assert own.lr_int8 == pytest.approx(0.1 * context.recipe.supernet.lr_int8)
    assert own.batch_size == context.recipe.supernet.batch_size


def test_networks_trained_alone_get_as_many_epochs(context: Context) -> None:
    epochs = context.recipe.supernet.epochs_int8 + context.recipe.finetune.epochs
    images, _, _ = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    steps = round(epochs * (len(images) // context.recipe.supernet.batch_size))
    assert len([point for point in baselines.load_curve(context, 0) if point.phase == "lsq+"]) == steps
