"""The published string of a subnet."""

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from spaceevo.errors import EncodingError
from spaceevo.spaces.encoding import decode, encode, is_encoding, words
from spaceevo.spaces.hyperspace import load_hyperspace

MICRO = load_hyperspace("micro")
SPACE = MICRO.space(MICRO.decode("micro-012-000"), 10)
V4 = load_hyperspace("mobilenetv4")
SPACE_OF_UIB = V4.space(V4.decode("mobilenetv4--"), 1000)
GOOD = "d1#1#1#1_k3#3#5#3_w16#16#24#48_e0#0#2.0#4.0_r32"


@given(st.integers(0, 2**32), st.booleans())
def test_round_trip(seed, has_pairs):
    rng = random.Random(seed)
    space = SPACE_OF_UIB if has_pairs else MICRO.space(MICRO.sample(rng), 10)
    subnet = space.sample(rng)
    text = encode(subnet)
    assert is_encoding(text)
    back = decode(text, space)
    assert back == subnet
    assert repr(back) == repr(subnet), "types, too"
    assert encode(back) == text


def test_by_hand():
    subnet = decode(GOOD, SPACE)
    assert encode(subnet) == GOOD
    assert subnet.resolution == 32
    assert [str(stage.block_type) for stage in subnet.stages] == ["conv-relu", "mbv1-dual-relu", "mbv2-relu6",
                                                                  "mbv3-hard-swish"]  # fmt: skip
    assert [(b.width, b.kernel_size, b.expand_ratio) for s in subnet.stages for b in s.blocks] == [
        (16, 3, 0),
        (16, 3, 0),
        (24, 5, 2),
        (48, 3, 4),
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("_r32", "_r33", ["resolution 33", "32, 36, 40"]),
        ("_r32", "_r32#36", ["2 resolutions"]),
        ("_r32", "", ["dD#..._kK#..."]),
        ("_r32", "_r32_x1", ["dD#..._kK#..."]),
        ("_r32", "_r", ["'' after 'r'"]),
        ("d1#1#1#1_k3", "k3#3#5#3_d1", ["dD#..._kK#..."]),
        ("d1#1#1#1", "d1#1#1", ["3 depths", "4 stages"]),
        ("d1#1#1#1", "d1#2#1#1", ["4 values after 'k'", "5 blocks"]),
        ("d1#1#1#1", "d2#0#1#1", ["depth 2", "stem", "Allowed there: 1"]),
        ("d1#1#1#1", "d1#-1#3#1", ["depth -1", "stage1", "1, 2, 3"]),
        ("_k3#3#5#3", "_k3#3#7#3", ["kernel size 7", "block 0 of stage2", "3, 5"]),
        ("_k3#3#5#3", "_k3#3#3+5#3", ["kernel size 3+5", "block 0 of stage2", "3, 5"]),
        ("_k3#3#5#3", "_k3#3#35#3", ["kernel size 35", "block 0 of stage2", "3, 5"]),
        ("_k3#3#5#3", "_k3#3#5+#3", ["after 'k'"]),
        ("_k3#3#5#3", "_k3#3#5", ["3 values after 'k'", "4 blocks"]),
        ("_w16#16#24#48", "_w16#16#24#49", ["width 49", "block 0 of stage3", "48, 56, 64"]),
        ("_w16#16#24#48", "_w16#16#24#48#48", ["5 values after 'w'"]),
        ("_e0#0#2.0#4.0", "_e0#0#2.5#4.0", ["expand ratio 2.5", "block 0 of stage2", "2, 3, 4"]),
        ("_e0#0#2.0#4.0", "_e0#1#2.0#4.0", ["expand ratio 1", "block 0 of stage1", "Allowed there: 0"]),
        ("_e0#0#2.0#4.0", "_e0#0#nan#4.0", ["expand ratio nan"]),
        ("_e0#0#2.0#4.0", "_e0#0##4.0", ["after 'e'"]),
        ("_w16", "_wx", ["after 'w'"]),
    ],
)
def test_malformed(old, new, told):
    assert old in GOOD
    bad = GOOD.replace(old, new)
    with pytest.raises(EncodingError) as error:
        decode(bad, SPACE)
    for part in [repr(bad), *told]:
        assert part in str(error.value)


@pytest.mark.parametrize("space", [SPACE, SPACE_OF_UIB], ids=["micro", "uib"])
@given(st.text(alphabet="dkwer0123456789#_.-+"))
def test_any_text_is_refused_or_decoded(space, text):
    with contextlib.suppress(EncodingError):
        decode(text, space)


def test_a_number_written_otherwise_is_that_of_the_space():
    written = GOOD.replace("_w16#16#24#48", "_w16.0#16#24#48").replace("_e0#0#2.0#4.0", "_e0.0#0#2#4")
    back = decode(written, SPACE)
    assert repr(back) == repr(decode(GOOD, SPACE))
    assert encode(back) == GOOD


def test_pairs_of_kernel_sizes():
    smallest = SPACE_OF_UIB.smallest()
    stages = list(smallest.stages)
    pairs = ((0, 3), (3, 0), (5, 5))
    stages[3] = replace(stages[3], blocks=tuple(stages[3].blocks[0]._replace(kernel_size=pair) for pair in pairs))
    subnet = replace(smallest, stages=tuple(stages))
    text = encode(subnet)
    assert text.startswith("d1#1#1#3#3_k3#3#0+3#0+3#3+0#5+5#0+3#0+3#0+3_w32#")
    assert decode(text, SPACE_OF_UIB) == subnet
    for old in ("35", "55", "3", "5+2", "3+5+0"):
        with pytest.raises(EncodingError) as error:
            decode(text.replace("#5+5#", f"#{old}#"), SPACE_OF_UIB)
        assert f"kernel size {old} in block 2 of stage3" in str(error.value)
        assert "Allowed there: 0+3, 0+5, 3+0, 3+3, 3+5, 5+0, 5+3, 5+5" in str(error.value)


def test_words_are_those_of_the_encoding():
    subnet = decode(GOOD, SPACE)
    blocks = [words(block) for stage in subnet.stages for block in stage.blocks]
    kernel_sizes, widths, ratios = ("#".join(column) for column in zip(*blocks, strict=True))
    assert f"d1#1#1#1_k{kernel_sizes}_w{widths}_e{ratios}_r32" == GOOD
