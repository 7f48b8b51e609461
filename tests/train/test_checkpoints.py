"""Weights on disk."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spaceevo.errors import ArtifactError
from spaceevo.train.checkpoints import (
    load_optimizer_state,
    load_tensors,
    load_weights,
    optimizer_state,
    put_weights,
    save_tensors,
)


def module(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def stepped(net, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 3, generator=generator)).square().sum().backward()
        optimizer.step()


def optimizers(net):
    return {
        "sgd": torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True),
        "adamw": torch.optim.AdamW(net.parameters(), lr=0.01),
    }


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "weights.safetensors"
    tensors = {
        "a": torch.randn(3, 4).t(),  # not contiguous
        "b.c": torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(1.5),
        "half": torch.ones(2, dtype=torch.float16),
        "codes": torch.tensor([1, -2], dtype=torch.int8),
    }
    notes = {"step": 3, "curve": [0.1, 1 / 3], "name": "ü"}
    save_tensors(path, tensors, notes)
    loaded, loaded_notes = load_tensors(path)
    assert loaded_notes == notes
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing temporary stays"


def test_weights_round_trip(tmp_path):
    source, target = module(seed=0), module(seed=1)
    save_tensors(tmp_path / "w", source.state_dict(), {"note": 1})
    assert load_weights(target, tmp_path / "w") == {"note": 1}
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_training_goes_on_with_the_optimizers_state(tmp_path, kind):
    undisturbed = module()
    optimizer = optimizers(undisturbed)[kind]
    stepped(undisturbed, optimizer, 3, seed=0)
    state = undisturbed.state_dict() | optimizer_state(undisturbed, optimizer)
    save_tensors(tmp_path / "checkpoint", state, {})

    resumed = module(seed=5)
    own = optimizers(resumed)[kind]
    load_weights(resumed, tmp_path / "checkpoint")
    load_optimizer_state(resumed, own, load_tensors(tmp_path / "checkpoint")[0])
    stepped(undisturbed, optimizer, 3, seed=1)
    stepped(resumed, own, 3, seed=1)
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated(tmp_path, share):
    path = tmp_path / "w.safetensors"
    save_tensors(path, module().state_dict(), {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ArtifactError, match="not a whole file") as error:
        load_tensors(path)
    assert str(path) in str(error.value)


def test_foreign(tmp_path):
    path = tmp_path / "w.safetensors"
    for content in (b"not weights at all", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            load_tensors(path)
    for metadata in (None, {"other": "1"}, {"spaceevo": "{"}):
        save_file({"a": torch.ones(2)}, path, metadata=metadata)
        with pytest.raises(ArtifactError, match=r"w\.safetensors"):
            load_weights(module(), path)
    with pytest.raises(ArtifactError):
        load_tensors(tmp_path / "missing")


@pytest.mark.parametrize("other", [module(width=5), nn.Linear(3, 4)])
def test_other_architecture(tmp_path, other):
    path = tmp_path / "w.safetensors"
    save_tensors(path, module().state_dict(), {})
    with pytest.raises(ArtifactError, match="another network"):
        load_weights(other, path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"0.weight": torch.full((4, 3), float("nan"))}, "not finite numbers.*12 of 12 values in 0.weight"),
        ({"1.running_var": torch.tensor([1.0, 1, 1, -1])}, "negative.*1.running_var"),
        ({"0.weight": torch.ones(4, 3, dtype=torch.int8)}, "0.weight in .* no floating-point numbers.*int8"),
        ({"0.weight": torch.ones(3, 4)}, r"another network.*0.weight has the shape \[3, 4\].*\[4, 3\]"),
        ({"0.weight": torch.ones(0)}, r"another network.*0.weight has the shape \[0\]"),
    ],
)
def test_numbers_that_are_none_of_a_network(tmp_path, change, told):
    path = tmp_path / "w.safetensors"
    save_tensors(path, module().state_dict() | change, {})
    with pytest.raises(ArtifactError, match=told):
        load_weights(module(), path)


def test_what_a_diverged_training_left_is_put_back(tmp_path):
    """It goes back by itself to where it was well."""
    path, net = tmp_path / "checkpoint.safetensors", module()
    state = module().state_dict() | {"0.weight": torch.full((4, 3), float("nan"))}
    put_weights(net, state, path)
    assert net[0].weight.isnan().all()
    with pytest.raises(ArtifactError, match=r"2.bias, .*is missing"):
        put_weights(net, {key: value for key, value in state.items() if key != "2.bias"}, path)
