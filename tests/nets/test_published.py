"""Published checkpoints: every key lands where it belongs, and nothing that is loaded can execute code.

The logits of whole published supernets are compared in tests/tools/test_reference.py, where the reference is there.
"""

import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file

from spaceevo.errors import ArtifactError
from spaceevo.nets import published
from spaceevo.nets.network import extract, program_of
from spaceevo.nets.published import (
    import_supernet,
    logits_of,
    num_classes_of,
    read_checkpoint,
    zero_point_effect,
)
from spaceevo.spaces.search_space import BlockChoice, ElasticStage, SearchSpace
from spaceevo.spaces.subnet import Block, BlockType, Head

KINDS = ("mbv1-dual", "mbv2", "mbv3", "mbv2-k3", "mbv3-k3", "bottleneck", "bottleneck-se", "fused-mbconv",
         "fused-mbconv-se", "mbv2-identity")  # fmt: skip
SIZE = 16


def space_of(kind, activation="swish"):
    ratios = (0.0,) if kind == "mbv1-dual" else (2.0, 3.0)
    stem = ElasticStage("first_conv", BlockChoice(BlockType("conv", "relu"), (3,)), (8, 16), (1,), 2)
    stage = ElasticStage("stage1", BlockChoice(BlockType(kind, activation), (3, 5), ratios), (16, 24), (1, 2), 1)
    return SearchSpace("small-0-0", (stem, stage), Head(16, 24, "hard_swish"), (SIZE,), 5)


def module_keys(name, channels, in_channels, kernel_size=1, leaf="conv"):
    conv = f"{name}.{leaf}"
    keys = {f"{conv}.weight": (channels, in_channels, kernel_size, kernel_size)}
    keys |= {f"{conv}.{quantizer}": (1,) for quantizer in ("sw", "sa", "beta")}
    norm = f"{name}.norm"
    keys |= {f"{norm}.{one}": (channels,) for one in ("weight", "bias", "running_mean", "running_var")}
    return keys | {f"{norm}.num_batches_tracked": ()}


def mbv3_k3_keys():
    """The published layout of the space `mbv3-k3`, written by hand."""
    keys = module_keys("stages.first_conv.blocks.0.conv", 16, 3, 3)
    for block, width in enumerate((16, 24)):
        name, hidden = f"stages.stage1.blocks.{block}", 3 * width
        keys |= module_keys(f"{name}.point_conv1", hidden, width)
        for index in range(2):
            keys |= module_keys(f"{name}.depth_conv", hidden, 1, 3, leaf=f"dwconv.dwconv{index}")
        reduced = {48: 16, 72: 24}[hidden]  # a quarter, never more than 10 % down
        shapes = {"reduce": (reduced, hidden), "expand": (hidden, reduced)}
        for layer, (out_channels, in_channels) in shapes.items():
            fc = f"{name}.se.fc.{layer}"
            keys |= {f"{fc}.weight": (out_channels, in_channels, 1, 1), f"{fc}.bias": (out_channels,)}
            keys |= {f"{fc}.{quantizer}": (1,) for quantizer in ("sw", "sa", "beta")}
        keys |= module_keys(f"{name}.point_conv2", 24, hidden)
        keys |= module_keys(f"{name}.downsample", 24, width)
    keys |= module_keys("stages.final_expand.blocks.0.conv", 16, 24)
    keys |= module_keys("stages.feature_mix.blocks.0.conv", 24, 16)
    logits = "stages.logits.blocks.0.linear"
    keys |= {f"{logits}.weight": (5, 24), f"{logits}.bias": (5,)}
    return keys | {f"{logits}.{quantizer}": (1,) for quantizer in ("sw", "sa", "beta")}


def filled(keys, zero_point=112.0):
    rng = np.random.Generator(np.random.PCG64(0))
    state = {}
    for key, shape in keys.items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf in ("sa", "beta"):
            value = np.full(shape, 1 / 32 if leaf == "sa" else -zero_point / 32)
        elif leaf == "running_var":
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape) * (0.5 if len(shape) < 2 else np.prod(shape[1:]) ** -0.5)
        state[key] = torch.from_numpy(np.asarray(value, np.float32))
    for key in keys:
        if key.endswith(".sw"):
            state[key] = (2 * state[key.removesuffix("sw") + "weight"].abs().max() / 255).reshape(1)
    return state


@pytest.fixture(scope="module")
def state():
    return filled(mbv3_k3_keys())


class ByHand:
    """The published network written out: the fixed subnet k = 5, widths 16 and 24, one block."""

    def __init__(self, state, quantized):
        self.state, self.quantized = state, quantized

    def conv(self, x, name, leaf="conv", stride=1, groups=1, bias=None, channels=None):
        module = f"{name}.{leaf}" if leaf else name
        weight = self.state[f"{module}.weight"][:channels]
        if self.quantized:
            sw, sa, beta = (self.state[f"{module}.{one}"] for one in ("sw", "sa", "beta"))
            x = F.hardtanh((x - beta) / sa, 0, 255).round() * sa + beta
            weight = F.hardtanh(weight / sw, -128, 127).round() * sw
        if weight.dim() == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, groups)

    def norm(self, x, name):
        one = {key: self.state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, **one, eps=1e-5)

    def conv_norm(self, x, name, **options):
        return self.norm(self.conv(x, name, **options), name)

    def __call__(self, x):
        x = F.relu(self.conv_norm(x, "stages.first_conv.blocks.0.conv", stride=2))
        block = "stages.stage1.blocks.0"
        source = self.conv_norm(x, f"{block}.downsample")
        x = F.silu(self.conv_norm(x, f"{block}.point_conv1"))
        for index in range(2):
            x = self.conv(x, f"{block}.depth_conv", leaf=f"dwconv.dwconv{index}", groups=48)
        x = F.silu(self.norm(x, f"{block}.depth_conv"))
        gate = x.mean((2, 3), keepdim=True)
        fc = f"{block}.se.fc"
        gate = F.relu(self.conv(gate, f"{fc}.reduce", leaf="", bias=self.state[f"{fc}.reduce.bias"]))
        gate = self.conv(gate, f"{fc}.expand", leaf="", bias=self.state[f"{fc}.expand.bias"])
        x = self.conv_norm(x * F.hardsigmoid(gate), f"{block}.point_conv2") + source
        x = F.hardswish(self.conv_norm(x, "stages.final_expand.blocks.0.conv")).mean((2, 3), keepdim=True)
        x = F.hardswish(self.conv_norm(x, "stages.feature_mix.blocks.0.conv")).flatten(1)
        logits = "stages.logits.blocks.0"
        return self.conv(x, logits, leaf="linear", bias=self.state[f"{logits}.linear.bias"])


def by_hand_subnet(space):
    stem, stage = space.stages
    return space.subnet(SIZE, (stem.stage((Block(16, 3, 0.0),)), stage.stage((Block(24, 5, 3.0),))))


@pytest.mark.parametrize("quantized", [False, True])
def test_logits_are_those_of_the_published_network(state, quantized):
    space = space_of("mbv3-k3")
    imported = import_supernet(state, space, quantized)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    program = program_of(by_hand_subnet(space), "published")
    with torch.no_grad():
        expected = ByHand(state, quantized)(x)
        ours = imported.network(x, program)
        assert torch.equal(extract(imported.network, program)(x, program), ours)
    difference = (ours - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert difference <= 1e-6
    assert imported.unused == ()


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_has_one_published_module(kind):
    space = space_of(kind)
    weighted = [
        node.role for node in space.largest_nodes("published").values() if node.has_weights and not node.weights
    ]
    modules = [published._modules(role, {"first_conv": "conv", "stage1": kind})[0] for role in weighted]
    assert len(set(modules)) == len(modules)
    assert all(re.fullmatch(r"stages\.\w+\.blocks\.\d\.[\w.]+", module) for module in modules)


@settings(max_examples=20)
@given(zero_point=st.floats(0, 255))
def test_the_offset_moves_by_at_most_half_a_step(zero_point):
    space = space_of("mbv3-k3")
    imported = import_supernet(filled(mbv3_k3_keys(), zero_point), space, quantized=True)
    assert imported.num_clamped == 0
    for name, shift in imported.shifts.items():
        assert shift == pytest.approx(round(zero_point) - zero_point, abs=1e-3) or abs(shift) > 0.499
        assert imported.network.quant_params(name)[0] == 1 / 32


def test_a_zero_point_out_of_range_is_clamped_and_counted():
    keys = mbv3_k3_keys()
    imported = import_supernet(filled(keys, 300.0), space_of("mbv3-k3"), quantized=True)
    assert imported.num_clamped == len(imported.shifts) == sum(key.endswith(".sa") for key in keys)
    assert set(imported.shifts.values()) == {255.0 - 300.0}


def test_effect_of_integer_zero_points():
    space = space_of("mbv3-k3")
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    exact = import_supernet(filled(mbv3_k3_keys()), space, quantized=True)
    assert zero_point_effect(exact, space, x) == {"smallest": 0.0, "largest": 0.0}

    state = filled(mbv3_k3_keys(), 112.4)
    moved = import_supernet(state, space, quantized=True)
    # What the published network computes, with its float offsets, is known for one subnet: make it the largest.
    (stem, stage), subnet = space.stages, by_hand_subnet(space)
    stage = ElasticStage(stage.name, stage.choice, (24,), (1,), 1)
    space = SearchSpace(
        space.encoding, (ElasticStage(stem.name, stem.choice, (16,), (1,), 2), stage), *subnet_rest(space)
    )
    assert space.largest() == subnet
    with torch.no_grad():
        expected = ByHand(state, quantized=True)(x)
        ours = moved.network(x, program_of(subnet, "published"))
    effect = ((ours - expected).square().mean() / expected.square().mean()).sqrt().item()
    assert effect > 0.001
    assert zero_point_effect(moved, space, x)["largest"] == pytest.approx(effect, rel=0.2)


def subnet_rest(space):
    return space.head, space.resolutions, space.num_classes


def test_the_lowest_code_is_kept_and_counted(state):
    key = "stages.stage1.blocks.0.point_conv2.conv.weight"
    lowest = state[key].clamp_min(0)
    before = import_supernet(state | {key: lowest}, space_of("mbv3-k3"), quantized=True).num_lowest_codes
    lowest[0, 0] = -130 * state[key.replace("weight", "sw")]
    imported = import_supernet(state | {key: lowest}, space_of("mbv3-k3"), quantized=True)
    assert imported.num_lowest_codes == before + 1


def test_larger_input_channels_are_cut_and_smaller_ones_refused(state):
    key = "stages.stage1.blocks.0.point_conv1.conv.weight"
    wide = torch.cat([state[key], torch.full((48, 8, 1, 1), float("nan"))], 1)
    imported = import_supernet(state | {key: wide}, space_of("mbv3-k3"), quantized=False)
    assert torch.equal(imported.network.weighted["stage1/0/expand:linear"].weight, state[key])
    with pytest.raises(ArtifactError, match=r"point_conv1.conv.weight.*\[48, 8, 1, 1\].*\[48, 16, 1, 1\]"):
        import_supernet(state | {key: state[key][:, :8]}, space_of("mbv3-k3"), quantized=False)


def test_a_tensor_that_is_sparse(state):
    key = "stages.stage1.blocks.0.point_conv1.conv.weight"
    with pytest.raises(ArtifactError, match=f"{re.escape(key)}.*no plain tensor.*sparse"):
        import_supernet(state | {key: state[key].to_sparse()}, space_of("mbv3-k3"), quantized=False)


def test_a_missing_key_is_named(state):
    key = "stages.stage1.blocks.1.depth_conv.dwconv.dwconv1.weight"
    with pytest.raises(ArtifactError, match=re.escape(key)):
        import_supernet({k: v for k, v in state.items() if k != key}, space_of("mbv3-k3"), quantized=False)


def test_an_fp32_checkpoint_has_no_lsq_mode(state):
    plain = {k: v for k, v in state.items() if not k.endswith((".sw", ".sa", ".beta"))}
    assert import_supernet(plain, space_of("mbv3-k3"), quantized=False).shifts == {}
    with pytest.raises(ArtifactError, match=r"\.sw"):
        import_supernet(plain, space_of("mbv3-k3"), quantized=True)


def test_unused_keys_are_told(state):
    extra = state | {"stages.stage9.blocks.0.conv.weight": torch.zeros(1)}
    assert import_supernet(extra, space_of("mbv3-k3"), True).unused == ("stages.stage9.blocks.0.conv.weight",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoint_files(state, tmp_path, suffix):
    path = tmp_path / f"supernet{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    else:
        save_file(state, path)
    loaded = read_checkpoint(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert num_classes_of(loaded) == 5

    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(tmp_path / f"missing{suffix}")


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    path = tmp_path / "supernet.pth"
    torch.save({"stages.x": Malicious()}, path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


def test_other_objects_are_not_checkpoints(tmp_path):
    path = tmp_path / "supernet.pth"
    torch.save([1, 2], path)
    with pytest.raises(ArtifactError, match="no state dict"):
        read_checkpoint(path)


WEIGHT = "stages.stage1.blocks.0.point_conv1.conv.weight"


def wrapped(state, *prefixes):
    return {"".join(prefixes) + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(2, 2)}}}},
        lambda state: {"model": state, "rng": {"cpu": torch.zeros(9, dtype=torch.uint8)}, "best": torch.tensor(0.7)},
        lambda state: {"state_dict_ema": state},
        lambda state: {"ema": {"module": wrapped(state, "module.")}},
        lambda state: {**state, "epoch": 3},
        lambda state: wrapped(state, "module.", "module."),
        lambda state: wrapped(state, "_orig_mod."),
        lambda state: wrapped(state, "module.", "_orig_mod.", "student."),
        lambda state: {key.replace(".conv.", ".conv._orig_mod."): value for key, value in state.items()},
        lambda state: {**wrapped(state, "module."), "n_averaged": torch.tensor(7)},
    ],
)
def test_what_lies_around_a_state_dict(state, tmp_path, wrap):
    path = tmp_path / "supernet.pt"
    torch.save(wrap(state), path)
    loaded = read_checkpoint(path)
    assert loaded.keys() - {"n_averaged"} == state.keys()
    assert torch.equal(loaded[WEIGHT], state[WEIGHT])


def test_two_networks_are_not_chosen_from(state, tmp_path):
    path = tmp_path / "supernet.pth"
    torch.save({"state_dict": state, "state_dict_ema": state}, path)
    with pytest.raises(ArtifactError, match=r"\['state_dict'\], \['state_dict_ema'\].*save it alone") as error:
        read_checkpoint(path)
    torch.save(eval(error.value.remedy.split("torch.save(")[1].split(", 'one.pth'")[0].replace("FILE", "path")), path)
    assert read_checkpoint(path).keys() == state.keys()  # what the error tells works
    torch.save(wrapped(state, "student.") | wrapped(state, "teacher."), path)
    with pytest.raises(ArtifactError, match=r"two networks.*twice, once as teacher\.stages"):
        read_checkpoint(path)


def test_the_name_of_a_file_does_not_count(state, tmp_path):
    safe, pickled = tmp_path / "supernet.pth", tmp_path / "supernet.safetensors"
    save_file(state, safe)
    torch.save(state, pickled)
    for path in (safe, pickled):
        assert torch.equal(read_checkpoint(path)[WEIGHT], state[WEIGHT])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(state, dtype):
    imported = import_supernet({key: value.to(dtype) for key, value in state.items()}, space_of("mbv3-k3"), False)
    weight = imported.network.weighted["stage1/0/expand:linear"].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state[WEIGHT].to(dtype).float())


def fill(key, value):
    return lambda state: {key: torch.full_like(state[key], value)}


SCALE = WEIGHT.replace("weight", "sw")
STEP, OFFSET, NORM = (WEIGHT.replace("conv.weight", leaf) for leaf in ("conv.sa", "conv.beta", "norm."))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: {SCALE: torch.rand(48) + 0.1}, r"conv.sw of the checkpoint has the shape \[48\].*`fp32`"),
        (lambda state: {STEP: torch.rand(16) + 0.1}, r"conv.sa of the checkpoint has the shape \[16\]"),
        (lambda state: {OFFSET: torch.zeros(0)}, r"conv.beta of the checkpoint has the shape \[0\]"),
        (fill(SCALE, 0.0), "conv.sw of the checkpoint is no scale.*It is 0; a scale is positive"),
        (fill(STEP, -0.1), "conv.sa of the checkpoint is no scale.*It is -0.1"),
        (fill(SCALE, 1e-40), "conv.sw of the checkpoint is no scale.*It is 9.99995e-41.*at least 1.18e-38"),
        (fill(SCALE, float("nan")), "not finite numbers.*conv.sw"),
        (fill(STEP, float("inf")), "not finite numbers.*conv.sa"),
        (fill(OFFSET, float("nan")), "not finite numbers.*conv.beta"),
        (
            lambda state: fill(SCALE, 1.0)(state) | fill(STEP, 1.0)(state) | fill(OFFSET, 0.0)(state),
            "never set.*`fp32`",
        ),
        (fill(WEIGHT, float("nan")), "not finite numbers.*768 of 768 values in .*point_conv1.conv.weight"),
        (lambda state: {WEIGHT: state[WEIGHT].to(torch.int8)}, "no floating-point numbers.*int8"),
        (lambda state: {WEIGHT: state[WEIGHT][:, :, 0, 0]}, r"shape \[48, 16\].*\[48, 16, 1, 1\]"),
        (lambda state: {WEIGHT: state[WEIGHT].flatten()}, r"shape \[768\].*\[48, 16, 1, 1\]"),
        (lambda state: {WEIGHT: torch.tensor(1.0)}, r"shape \[\].*\[48, 16, 1, 1\]"),
        (lambda state: {WEIGHT: torch.zeros(0, 16, 1, 1)}, r"shape \[0, 16, 1, 1\].*\[48, 16, 1, 1\]"),
        (fill(NORM + "running_var", -1.0), "negative.*norm.running_var"),
        (fill(NORM + "running_mean", float("-inf")), "not finite numbers.*norm.running_mean"),
        (fill(NORM + "weight", float("nan")), "not finite numbers.*norm.weight"),
    ],
)
def test_numbers_that_are_none_of_a_network(state, change, told):
    with pytest.raises(ArtifactError, match=told):
        import_supernet(state | change(state), space_of("mbv3-k3"), quantized=True)


@pytest.mark.parametrize("bias", [torch.tensor(1.0), torch.zeros(5, 1), torch.zeros(0)])
def test_logits_of_no_class(state, bias):
    with pytest.raises(ArtifactError, match=r"linear.bias of the checkpoint has the shape"):
        num_classes_of(state | {"stages.logits.blocks.0.linear.bias": bias})


@pytest.mark.parametrize(("value", "told"), [(1e30, "no finite numbers"), (0.0, "all 0")])
def test_a_network_that_computes_nothing(state, value, told):
    """Every number is a number, but not what comes of them."""
    logits = {key: torch.full_like(one, value) for key, one in state.items()
              if key.endswith(("weight", "bias")) and (value or "logits" in key)}  # fmt: skip
    space = space_of("mbv3-k3")
    imported = import_supernet(state | logits, space, quantized=False)
    with pytest.raises(ArtifactError, match=f"computes nothing.*{told}"):
        logits_of(imported, space.smallest(), torch.randn(2, 3, SIZE, SIZE))
