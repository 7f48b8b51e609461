"""Found subnets trained alone: from what the supernet left, and told beside it."""

import json
from typing import Any

import pytest
import torch

from spaceevo.config import FinetuneSettings
from spaceevo.nets.network import extract, program_of
from spaceevo.progress import silent
from spaceevo.run.context import Context
from spaceevo.run.run import given_to, result_of
from spaceevo.spaces.encoding import decode
from spaceevo.stages import baselines, export, finetune, space, subnets, supernet
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1


@pytest.fixture
def context(tiny: Any, cli: Any) -> Context:
    return Context.of_folder(tiny.folder)  # `cli` lets this process see the hyperspace


def test_accuracies_before_and_after(context: Context) -> None:
    images, _, held_out = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    exported, trained = result_of(context, export.STAGE), result_of(context, supernet.STAGE)
    tuned = result_of(context, finetune.STAGE)
    for number, model in enumerate(exported.models):
        program = program_of(decode(model.encoding, result_of(context, space.STAGE).space))
        networks = trained.network("int8"), tuned.network(trained.network("int8"), program, number)
        before, after = (
            calibrated_top1(network, program, images, RECALIBRATION_BATCHES, held_out) for network in networks
        )
        # As the runtime rounds; an image or two of so few may be a draw
        assert model.top1_inherited == pytest.approx(before, abs=0.012)
        assert model.top1_int8 == pytest.approx(after, abs=0.012)
    assert all(model.top1_inherited is None for model in exported.baselines)


def test_starts_from_what_the_supernet_left(context: Context) -> None:
    """So few steps at so low a rate do not lead far away."""
    found = result_of(context, subnets.STAGE).result.found[0]
    program = program_of(decode(found.encoding, result_of(context, space.STAGE).space))
    trained = result_of(context, supernet.STAGE).network("int8")
    inherited = extract(trained, program)
    tuned = result_of(context, finetune.STAGE).network(trained, program, 0)
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
    curve = result_of(context, finetune.STAGE).curve(0)
    steps = len(json.loads((context.run.path / "supernet" / "curve.json").read_text()))
    assert [point.phase for point in curve] == ["lsq+"] * len(curve)
    assert len(curve) == round(0.5 * steps / 1.25)  # of the epochs of the supernet


def test_nothing_where_it_is_not_asked_for(context: Context, tmp_path: Any) -> None:
    recipe = context.recipe.model_copy(update={"finetune": FinetuneSettings()})
    without = Context(recipe, context.run)
    nothing = finetune.STAGE.make(without, given_to(without, "finetune"), tmp_path, silent)
    assert (nothing.curves, finetune.STAGE.artifact.save(nothing, tmp_path)) == ((), [])
    assert list(tmp_path.iterdir()) == []
    assert result_of(without, finetune.STAGE).curve(0) == ()
    assert all(one.inherited is None for one in export._candidates(without, given_to(without, "export")))
    assert finetune.STAGE.inputs(without, tmp_path) != finetune.STAGE.inputs(context, tmp_path)


def test_rates_follow_the_supernets(context: Context) -> None:
    own = finetune.settings(context, 3.0, 0.1)
    assert own.epochs_int8 == 3.0
    assert own.lr_int8 == pytest.approx(0.1 * context.recipe.supernet.lr_int8)
    assert own.batch_size == context.recipe.supernet.batch_size


def test_networks_trained_alone_get_as_many_epochs(context: Context) -> None:
    epochs = context.recipe.supernet.epochs_int8 + context.recipe.finetune.epochs
    images, _, _ = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    steps = round(epochs * (len(images) // context.recipe.supernet.batch_size))
    assert len([point for point in result_of(context, baselines.STAGE).curves[0] if point.phase == "lsq+"]) == steps
