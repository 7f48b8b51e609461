"""How ONNX Runtime computes in integers: what it takes exactly, and that it keeps the contract."""

from __future__ import annotations

from spaceevo.processors import SATURATION_FREE_CODE, Profile
from spaceevo.records import Arithmetic

ARITHMETIC = Arithmetic()  # the contract is its arithmetic on x86; on ARM it adds and pools in fixed point


def w_qmax(profile: Profile) -> int:
    """Largest absolute weight code that is exact on a kind of processor: its u8 x s8 kernels are the fast ones."""
    return SATURATION_FREE_CODE if profile.pair_sums_saturate else 127
