"""Lists of networks as people keep them: what is read, and which line is at fault."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from spaceevo.errors import ArtifactError, EncodingError, SpaceEvoError
from spaceevo.predict.lists import NamedNetwork, named_networks

ENCODING = "d1_k3_w16_e0_r32"
LINES = [
    "# mine",
    "",
    "ResNet-18",
    f"  micro-014-120\t{ENCODING}  # the fast one",
    f"{ENCODING} ",
    "   ",
    "#",
    "MobileNetV2 #",
]
READ = [("", "ResNet-18"), ("micro-014-120", ENCODING), ("", ENCODING), ("", "MobileNetV2")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with its mark"])
def test_networks_are_read_whatever_editor_wrote_the_list(tmp_path: Path, encoding: str, end: str) -> None:
    file, text = tmp_path / "list.txt", end.join(LINES)
    file.write_bytes(("\ufeff" + text).encode("utf-16-le") if " " in encoding else text.encode(encoding))
    found = list(named_networks(["ResNet-50"], file))
    assert [(one.space, one.word) for one in found] == [("", "ResNet-50"), *READ]
    assert [one.where for one in found] == ["", *(f"Line {number} of {file}" for number in (3, 4, 5, 8))]
    assert found[2].text == f"micro-014-120 {ENCODING}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"ResNet-18\nResNet-18 and ResNet-50\n", "Line 2 of"),
        (b"ResNet-18\n\nR\xe9sNet\n", "Line 3 of"),
        (b"ResNet-18\n\0\n", "Line 2 of"),
        (b"\n# nothing\n", "names none"),
        (b"", "names none"),
        (b"\xff\xfea", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises((EncodingError, ArtifactError), match=told):
        list(named_networks([], file))


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            list(named_networks([], file))
    with pytest.raises(EncodingError, match="no networks to predict"):
        list(named_networks([], None))


@settings(derandomize=True, max_examples=60)
@given(st.binary(max_size=80))
def test_any_bytes_are_networks_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_bytes(content)
    try:
        found = list(named_networks([], file))
    except SpaceEvoError:
        return
    assert found
    assert all(isinstance(one, NamedNetwork) and one.word and not one.word.startswith("#") for one in found)
