"""The comparison of spaces on the tiny run: two seeds, one other space, and networks trained alone."""

import json
from typing import Any

import pytest
import yaml

from spaceevo.errors import RecipeError
from spaceevo.nets.network import program_of
from spaceevo.records import Comparison
from spaceevo.run.context import Context
from spaceevo.run.jobs import one_core
from spaceevo.run.run import result_of
from spaceevo.search.pareto import hypervolume
from spaceevo.search.subnet_search import RatedSubnet
from spaceevo.spaces.encoding import decode
from spaceevo.spaces.hyperspace import SpaceChoice, load_hyperspace
from spaceevo.stages import compare, finetune, predict, space
from spaceevo.stages._any_space import load_network
from spaceevo.train.batches import split
from spaceevo.train.evaluation import RECALIBRATION_BATCHES, calibrated_top1


def test_compare(tiny: Any, tmp_path: Any, cli: Any) -> None:
    content = yaml.safe_load(tiny.recipe.read_text())
    content["compare"] = {"handmade": [], "num_random": 1, "seeds": [0, 1]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    folder = tiny.copy(tmp_path / "run")
    done = cli("compare", recipe, "--out", folder, "--json")
    assert done.returncode == 0, done.stderr
    found = Comparison.model_validate_json(done.stdout)
    assert found == Comparison.model_validate_json((folder / "compare" / "comparison.json").read_bytes())
    assert "Hypervolume" in (folder / "compare" / "comparison.html").read_text()
    assert [space.kind for space in found.spaces] == ["searched", "random", "network"]
    assert found.spaces[0].encoding == json.loads((folder / "space" / "search.json").read_text())["best"]["encoding"]
    for compared in found.spaces:
        assert len(compared.networks) == 2
        for run, front, area in zip(compared.networks, compared.fronts, compared.hypervolumes, strict=True):
            points = [(one.int8_ms, one.top1_int8) for one in (*run, *front)]
            assert area == hypervolume(points, (found.reference_ms, found.reference_top1))
            assert len(front) <= compare.NUM_FRONT
            assert bool(front) == (compared.kind != "network")
    searched = found.spaces[0].networks
    assert searched[0] != searched[1], "seeds differ"
    check_fine_tuned(Context.of_folder(folder), searched)
    check_fronts(Context.of_folder(folder), found.spaces[0].fronts)
    again = cli("compare", recipe, "--out", folder)
    assert again.returncode == 0, again.stderr
    assert "Compare the space with hand-made and random ones: done before" in again.stdout


def check_fine_tuned(context: Context, searched: Any) -> None:
    """What is judged in INT8 is what fine-tuning left, in FP32 what the supernet left."""
    own = result_of(context, space.STAGE).space
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    changed = []
    for seed, networks in enumerate(searched):
        folder = context.run.path / "compare" / f"searched-{seed}"
        for one in networks:
            number = result_of(context, predict.STAGE).budgets_ms.index(one.budget_ms)
            program = program_of(decode(one.encoding, own))
            trained = load_network(context, own, folder, "int8")
            tuned = finetune.load_tuned(trained, program, number, folder)
            judged = (load_network(context, own, folder, "fp32"), tuned, trained)
            with one_core():
                top1s = [
                    calibrated_top1(network, program, train_images, RECALIBRATION_BATCHES, val_images)
                    for network in judged
                ]
            assert top1s[:2] == [one.top1_fp32, one.top1_int8]
            changed.append(top1s[1] != top1s[2])
    assert any(changed)


def check_fronts(context: Context, fronts: Any) -> None:
    """Accuracies of a front are of its own supernet, without fine-tuning, and nothing in it is above the budget."""
    own, latency_ms = result_of(context, space.STAGE).space, result_of(context, predict.STAGE).predictor.network_ms
    train_images, _, val_images = split(context.data, context.recipe.data.search_share, context.recipe.seed)
    for seed, front in enumerate(fronts):
        trained = load_network(context, own, context.run.path / "compare" / f"searched-{seed}", "int8")
        for one in front:
            subnet = decode(one.encoding, own)
            assert latency_ms(subnet) < 1.2 * result_of(context, predict.STAGE).budgets_ms[-1]
            with one_core():
                top1 = calibrated_top1(trained, program_of(subnet), train_images, RECALIBRATION_BATCHES, val_images)
            assert top1 == one.top1_int8


def test_a_front_is_spread_from_the_fastest_to_the_most_accurate() -> None:
    subnet = load_hyperspace("mobilenetv3micro").space(SpaceChoice((), ()), 10).smallest()
    rated = [RatedSubnet(subnet, float(ms), ms / 100 if ms % 3 else 0.0) for ms in range(1, 40)]
    front = compare._front(rated[::-1])
    assert [one.latency_ms for one in front] == sorted(one.latency_ms for one in front)
    assert len(front) == compare.NUM_FRONT
    assert (front[0].latency_ms, front[-1].latency_ms) == (1, 38)
    assert all(one.top1 > 0 for one in front)
    assert [one.latency_ms for one in compare._front(rated[:2])] == [1, 2]
    assert compare._front([]) == []


def test_a_hyperspace_is_no_hand_made_space(tiny: Any, tmp_path: Any, monkeypatch: Any, tiny_plugin: Any) -> None:
    from spaceevo import plugins

    monkeypatch.syspath_prepend(str(tiny_plugin))
    plugins._locations.cache_clear()
    context = Context.of_folder(tiny.folder)
    settings = context.recipe.compare.model_copy(update={"handmade": ("micro",)})
    object.__setattr__(context, "recipe", context.recipe.model_copy(update={"compare": settings}))
    with pytest.raises(RecipeError, match="compares with 'micro' as a hand-made space"):
        compare._entries(context, result_of(context, space.STAGE).space)
