"""The verb `import`: what it tells, writes and refuses."""

import json

import torch

from spaceevo.nets import published
from spaceevo.nets.network import Network
from spaceevo.spaces.hyperspace import load_hyperspace
from spaceevo.train.checkpoints import load_weights

SPACE = "micro-243-000"


def test_help_names_what_becomes_of_offsets(cli):
    done = cli("import", "--help")
    assert done.returncode == 0
    assert "integer zero points" in done.stdout


def test_an_unknown_space_or_file_is_one_paragraph(cli, tmp_path):
    file = tmp_path / "supernet.pth"
    for arguments, words in (
        (("import", file, "--space", "onnxw-151922-023231"), ("stage4", "0 to 5")),
        (("import", file, "--space", "onnxv-151122-023231"), ("onnxv", "onnxw")),
        (("import", file, "--space", "onnxw-151122-023231"), ("supernet.pth", "cannot be read")),
    ):
        done = cli(*arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert all(word in done.stderr for word in words), done.stderr


def test_a_checkpoint_that_lacks_a_layer(cli, tmp_path):
    file = tmp_path / "supernet.pth"
    torch.save({"stages.logits.blocks.0.linear.bias": torch.zeros(3)}, file)
    done = cli("import", file, "--space", "onnxw-151122-023231", "--fp32")
    assert done.returncode == 1
    assert "first_conv" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_space_without_published_checkpoints(cli, tmp_path):
    file = tmp_path / "supernet.pth"
    torch.save({"stages.logits.blocks.0.linear.bias": torch.zeros(3)}, file)
    done = cli("import", file, "--space", "mobilenetv4--")
    assert done.returncode == 1
    assert "no block type fused-ib, uib" in done.stderr


def checkpoint_of(network, kinds):
    """A checkpoint in the published layout with the network's own weights, offsets a quarter of a step off."""
    state = {}
    for weighted in network.weighted_operators():
        module, norm = published._modules(weighted.node.role, kinds)
        state[f"{module}.weight"] = weighted.weight.detach()
        state[f"{module}.sw"] = weighted.weight.detach().abs().max().view(1) / 127
        state[f"{module}.sa"] = torch.tensor([0.1])
        state[f"{module}.beta"] = torch.tensor([-100.25 * 0.1])
        if weighted.gamma is not None:
            state |= {f"{norm}.weight": weighted.gamma.detach(), f"{norm}.bias": weighted.bias.detach()}
            state |= {f"{norm}.{leaf}": getattr(weighted, leaf) for leaf in ("running_mean", "running_var")}
        else:
            state[f"{module}.bias"] = weighted.bias.detach()
    return state


def test_a_whole_checkpoint(cli, tmp_path):
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(hyperspace.decode(SPACE), 7)
    network = Network(space.largest_nodes("published"), 127, torch.Generator().manual_seed(0))
    kinds = {stage.name: stage.choice.block_type.kind for stage in space.stages}
    file, out = tmp_path / "supernet.pth", tmp_path / "supernet.safetensors"
    torch.save(checkpoint_of(network, kinds), file)

    done = cli("import", file, "--space", SPACE, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_classes"] == 7
    assert result["num_moved_offsets"] == result["num_quantizers"] == len(network.weighted)
    assert abs(result["max_shift_steps"] - 0.25) < 1e-3
    assert result["logits_relative_rms_change"]["smallest"] > 0
    loaded = Network(space.largest_nodes("published"), 127, torch.Generator())
    assert load_weights(loaded, out)["placement"] == "published"
    for name, weighted in network.weighted.items():
        assert torch.equal(loaded.weighted[name].weight, weighted.weight)

    told = cli("import", file, "--space", SPACE)
    assert told.returncode == 0, told.stderr
    assert "0.250 quantization steps on average" in told.stdout


def test_numbers_that_are_none_are_no_supernet(cli, tmp_path):
    hyperspace = load_hyperspace("micro")
    space = hyperspace.space(hyperspace.decode(SPACE), 7)
    network = Network(space.largest_nodes("published"), 127, torch.Generator().manual_seed(0))
    state = checkpoint_of(network, {stage.name: stage.choice.block_type.kind for stage in space.stages})
    scale = next(key for key in state if key.endswith(".sw"))
    weight = scale.replace(".sw", ".weight")
    file, out = tmp_path / "supernet.pth", tmp_path / "supernet.safetensors"
    for change, word in (
        ({scale: torch.rand(16) + 0.1}, "[16]"),
        ({weight: state[weight] * float("nan")}, weight),
        ({weight: torch.full_like(state[weight], 1e38)}, "computes nothing"),
    ):
        torch.save(state | change, file)
        done = cli("import", file, "--space", SPACE, "--out", out, *(["--fp32"] if word == "computes nothing" else []))
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert word in done.stderr.replace("\n", "")
        assert not out.exists()
