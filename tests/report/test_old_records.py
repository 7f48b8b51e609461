"""Records of version 0.2.0 are read, and kinds are those that there are."""

from __future__ import annotations

import json

import pytest
from made_up_report import make_model, make_summary
from pydantic import ValidationError

from spaceevo.records import ComparedSpace, ExportedModels, Summary, TrainingPoint


def old(models: list[dict[str, object]]) -> list[dict[str, object]]:
    """As version 0.2.0 wrote them."""
    return [{key: value for key, value in model.items() if key != "origin"} for model in models]


def test_where_models_come_from_is_read_off_their_key_in_old_files() -> None:
    now = make_summary()
    content = json.loads(now.model_dump_json())
    assert {model["origin"] for model in content["models"]} == {"found"}
    assert {model["origin"] for model in content["baselines"]} == {"hand-made"}
    then = content | {key: old(content[key]) for key in ("models", "baselines")}
    assert Summary.model_validate_json(json.dumps(then)) == now
    exported = {key: then[key] for key in ("models", "baselines")}
    assert ExportedModels.model_validate_json(json.dumps(exported)).baselines == now.baselines


def test_a_model_stands_under_its_origin() -> None:
    model = make_model(1.0, 0.8)
    with pytest.raises(ValidationError, match="does not have the origin 'hand-made'"):
        ExportedModels(models=(model,), baselines=(model,))
    for wrong in ("models", "baselines"):
        with pytest.raises(ValidationError):
            ExportedModels.model_validate({"models": [], "baselines": []} | {wrong: 3})


def test_kinds_are_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match="'fp32' or 'lsq\\+'"):
        TrainingPoint.model_validate({"phase": "int8", "step": 0, "loss": 1.0, "lr": 0.1})
    space = {
        "name": "a",
        "encoding": "",
        "networks": [],
        "fronts": [],
        "hypervolumes": [],
        "hypervolume_interval": None,
    }
    assert ComparedSpace.model_validate(space | {"kind": "hand-made"}).kind == "hand-made"
    with pytest.raises(ValidationError, match="'searched'"):
        ComparedSpace.model_validate(space | {"kind": "handmade"})
