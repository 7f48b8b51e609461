"""Files of weights: what others wrote is read or told, and no file makes a reader do anything else."""

import argparse
import io
import shlex
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save, save_file

from spaceevo.errors import ArtifactError
from spaceevo.nets.published import read_checkpoint
from spaceevo.nets.weights import is_safetensors, misfits, read_notes, read_safetensors, read_torch, weight

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archive(kind):
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("sys_info"))
    elif kind == "npz":
        np.savez(buffer, a=np.zeros(3))
    else:
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("model/data.pkl", b"\x80\x02}.")
            file.writestr("model/constants.pkl", b"\x80\x02).")
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved(tmp_path, legacy):
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"state_dict": STATE, "epoch": 3}, _use_new_zipfile_serialization=not legacy))
    assert not is_safetensors(path)
    assert torch.equal(read_torch(path)["state_dict"]["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "page of HTML.*Download the file"),
        (saved(STATE)[:-40], "zip archive that is cut off after"),
        (archive("tar"), "tar archive, as torch wrote before"),
        (archive("npz"), "zip archive that holds no tensors of torch.save"),
        (archive("script")[:-9], "zip archive that is cut off"),
        (b"\x1f\x8b\x08\x00", "gzip.*Unpack"),
        (b"\x89HDF\r\n", "Keras"),
        (b"\x08\x07weights of someone", "bytes begin with"),
        (save(STATE)[:-4], "damaged safetensors file"),
    ],
)
def test_what_is_no_file_of_weights_is_told(tmp_path, content, told):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    for read in (read_torch, read_safetensors):
        with pytest.raises(ArtifactError, match=f"(?s)w.pth .*{told}") as error:
            read(path)
        assert "\x1b" not in str(error.value)
        assert "weights_only" not in str(error.value)


def test_torchscript(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(archive("script"))
    with pytest.raises(ArtifactError, match="TorchScript"):
        read_torch(path)


@pytest.mark.parametrize("read", [read_torch, read_safetensors])
def test_what_is_no_file(tmp_path, read):
    for path, told in ((tmp_path, "folder"), (tmp_path / "missing", "not there")):
        with pytest.raises(ArtifactError, match=told):
            read(path)


@pytest.mark.parametrize("read", [read_torch, read_safetensors, read_checkpoint])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, read):
    path = tmp_path / "w.safetensors"
    save_file(STATE, path)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ArtifactError, match=r"Permission denied.*Make it readable"):
        read(path)
    with pytest.raises(ArtifactError, match="not there"):
        read(Path("a" * 5000))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_a_checkpoint_with_its_arguments_beside_it(tmp_path, monkeypatch, legacy, key):
    path = tmp_path / "it's mine.pth"
    content = {"args": argparse.Namespace(lr=0.1)} | ({key: STATE} if key else STATE)
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(ArtifactError, match=r"argparse\.Namespace.*could execute any code") as error:
        read_torch(path)
    assert "\x1b" not in str(error.value)
    command = shlex.split(error.value.remedy.split("`")[1])  # what the error tells works
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["-c", command[3]])
    assert command[:2] == ["python", "-c"]
    exec(command[2], {})
    assert read_torch(tmp_path / "tensors.pth").keys() == STATE.keys()


def test_a_pickle_is_no_safetensors_file(tmp_path):
    path = tmp_path / "w.safetensors"
    for legacy in (False, True):
        path.write_bytes(saved(STATE, _use_new_zipfile_serialization=not legacy))
        with pytest.raises(ArtifactError, match=r"torch\.save.*may execute code.*save_file"):
            read_safetensors(path)


def test_notes(tmp_path):
    path = tmp_path / "w"
    for metadata, notes in ((None, None), ({"format": "pt"}, None), ({"spaceevo": '{"a": 1}'}, {"a": 1}),
                            ({"spaceevo": "[]"}, None)):  # fmt: skip
        save_file(STATE, path, metadata)
        assert read_notes(path, read_safetensors(path)[1]) == notes
    for broken in ("{", "[" * 100_000):
        with pytest.raises(ArtifactError, match="notes in w are damaged"):
            read_notes(Path("w"), {"spaceevo": broken})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_point_type_is_read(dtype):
    value = torch.tensor([0.5, -2.0], dtype=dtype)
    read = weight("a.weight", value, "file")
    assert read.dtype == torch.float32
    assert read.tolist() == [0.5, -2.0]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        (
            "a.weight",
            torch.tensor([[1.0, float("nan")], [float("inf"), 0.0]]),
            "2 of 4 values in a.weight.*first is nan",
        ),
        ("a.weight", torch.tensor([1.0, -float("inf")], dtype=torch.float16), "1 of 2 .*float16, the first is -inf"),
        ("a.weight", torch.tensor([1e300], dtype=torch.float64), r"1e\+300, more than float32 holds"),
        ("a.weight", torch.tensor([1, 2], dtype=torch.int8), r"no floating-point numbers.*torch.int8, \[2\]"),
        ("a.weight", torch.tensor([True]), "no floating-point numbers"),
        ("a.weight", torch.ones(2).to(torch.float8_e4m3fn), "no floating-point numbers.*float8_e4m3fn.*their scales"),
        ("a.weight", torch.tensor([1j]), "no floating-point numbers"),
        ("a.weight", torch.zeros(4, 0), r"a.weight in file is empty.*\[4, 0\]"),
        ("a.weight", torch.eye(2).to_sparse(), "no plain tensor.*sparse"),
        ("a.weight", torch.zeros(2, device="meta"), "no plain tensor.*without content"),
        ("a.norm.running_var", torch.tensor([1.0, -0.1]), "variance of batch norm that is negative.*-0.1 in a.norm"),
    ],
)
def test_numbers_that_are_none_of_a_network(key, value, told):
    with pytest.raises(ArtifactError, match=told):
        weight(key, value, "file")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor():
    with pytest.raises(ArtifactError, match=r"a.weight in file is no plain tensor.*nested"):
        weight("a.weight", torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "file")


def test_misfits():
    assert misfits(STATE, STATE | {"more": torch.ones(1)}) == []
    assert misfits(STATE, {"a.weight": torch.ones(3, 2)}) == [
        "a.weight has the shape [3, 2], that of the network [2, 3]", "a.bias, [2], is missing"]  # fmt: skip


@settings(max_examples=60, derandomize=True)
@given(data=st.data())
def test_damaged_bytes_are_read_or_told(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "w"
    content = bytearray(
        data.draw(st.sampled_from([saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE)]))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_torch, read_safetensors):
        with suppress(ArtifactError):  # nothing else
            read(path)
