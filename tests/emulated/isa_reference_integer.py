"""References of the integer instructions that saturate under clamp: the exact result, then its bounds."""

from collections.abc import Callable

import numpy as np

from emulated.isa_reference import REFERENCES, Reference, State, put, reference
from emulated.pseudocode.values import Value, fit, mask


def _saturating(
    function: Callable[..., object], kind: str, width: int, packed: bool = False
) -> Callable[[State], None]:
    low, high = (0, mask(width)) if kind == "U" else (-(1 << (width - 1)), mask(width - 1))

    def apply(state: State) -> None:
        result = 0
        clamp = state["CLAMP"].bits != 0
        for shift in range(0, 32, 16) if packed else (0,):
            sources = [state[f"S{n}"] for n in range(3) if f"S{n}" in state]
            exact = np.asarray(
                function(*[Value("B", 32, source.bits >> np.uint64(shift)) for source in sources]), dtype=object
            )
            bits = np.where(clamp, np.clip(exact, low, high), exact & mask(width)).astype(object) & mask(width)
            result = result | bits << shift
        put(state, Value(kind, 32 if packed else width, fit(np.asarray(result, dtype=object), 32 if packed else width)))

    return apply


def _integers(value: Value, kind: str, width: int) -> np.ndarray:
    return value.viewed(kind, width).integers()


_CLAMP_REASON = "the text shows no clamp: integer results saturate (manual 6.5)"
for _name, _kind, _bits, _sign in (
    ("v_add_u32", "U", 32, 1), ("v_sub_u32", "U", 32, -1), ("v_add_u16", "U", 16, 1), ("v_sub_u16", "U", 16, -1),
    ("v_add_i32", "I", 32, 1), ("v_sub_i32", "I", 32, -1), ("v_add_i16", "I", 16, 1), ("v_sub_i16", "I", 16, -1),
):  # fmt: skip
    _op = lambda a, b, kind=_kind, bits=_bits, sign=_sign: _integers(a, kind, bits) + sign * _integers(b, kind, bits)  # noqa: E731
    REFERENCES[_name] = Reference(_saturating(_op, _kind, _bits), _CLAMP_REASON)
    if _kind == "U" and _sign < 0:
        _rev = lambda a, b, op=_op: op(b, a)  # noqa: E731
        REFERENCES[_name.replace("sub", "subrev")] = Reference(_saturating(_rev, _kind, _bits), _CLAMP_REASON)
    if _bits == 16:
        REFERENCES[_name.replace("v_", "v_pk_")] = Reference(_saturating(_op, _kind, _bits, packed=True), _CLAMP_REASON)
for _name, _kind, _from, _bits in (
    ("v_mad_u16", "U", 16, 16), ("v_mad_i16", "I", 16, 16),
    ("v_mad_u32_u24", "U", 24, 32), ("v_mad_i32_i24", "I", 24, 32),
    ("v_mad_u32_u16", "U", 16, 32), ("v_mad_i32_i16", "I", 16, 32),
):  # fmt: skip
    _op = lambda a, b, c, kind=_kind, narrow=_from, bits=_bits: (  # noqa: E731
        _integers(a, kind, narrow) * _integers(b, kind, narrow) + _integers(c, kind, bits)
    )
    REFERENCES[_name] = Reference(_saturating(_op, _kind, _bits), _CLAMP_REASON)
    if _bits == 16:
        REFERENCES[_name.replace("v_", "v_pk_")] = Reference(_saturating(_op, _kind, _bits, packed=True), _CLAMP_REASON)


def _dot(kind: str, width: int) -> Callable[..., np.ndarray]:
    def exact(a: Value, b: Value, c: Value) -> np.ndarray:
        total = _integers(c, kind, 32)
        for shift in range(0, 32, width):
            x, y = (Value(kind, width, fit(value.bits >> np.uint64(shift), width)).integers() for value in (a, b))
            total = total + x * y
        return total

    return exact


for _name, _kind, _bits in (
    ("v_dot2_i32_i16", "I", 16), ("v_dot2_u32_u16", "U", 16), ("v_dot4_i32_i8", "I", 8),
    ("v_dot4_u32_u8", "U", 8), ("v_dot8_i32_i4", "I", 4), ("v_dot8_u32_u4", "U", 4),
):  # fmt: skip
    REFERENCES[_name] = Reference(_saturating(_dot(_kind, _bits), _kind, 32), _CLAMP_REASON)


@reference("v_lshl_add_u64", reason="manual, notes: counts above 4 are taken for 0; the text shows three bits of them")
def _lshl_add_u64(state: State) -> None:
    count = state["S1"].bits & np.uint64(7)
    shifted = state["S0"].bits << np.where(count > 4, np.uint64(0), count)
    put(state, Value("U", 64, shifted + state["S2"].bits))
