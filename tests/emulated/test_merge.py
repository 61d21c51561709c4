"""merge_state, merge_state_in_place and merge_states on both emulated GPUs against their definition in float64."""

import math

import pytest
import torch

from flashinfer_jit import merge_state, merge_state_in_place, merge_states
from flashinfer_jit.merge import merge_key
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
TOLERANCE = {**TOLERANCES, F32: Tolerance(1e-5, 1e-5)}
# dtype, rows, heads, head_dim
CASES = ((F16, 5, 6, 128), (BF16, 3, 1, 80), (F32, 7, 5, 64), (F32, 1, 3, 1))


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for dtype, _, _, head_dim in CASES:
        name = str(dtype).removeprefix("torch.")
        yield merge_key(arch, name, name, head_dim)


def make_states(dtype, rows, states, heads, head_dim, seed=0):
    """Return states among which one row has an unseen set, whose output is NaN, and one row nothing but those."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(rows, states, heads, head_dim, generator=generator).to(dtype)
    s = torch.randn(rows, states, heads, generator=generator) * 4
    s[0, 1], v[0, 1] = -math.inf, math.nan
    if rows > 1:
        s[-1], v[-1] = -math.inf, math.nan
    return v, s


def reference(v, s):
    weights = torch.exp2(s.double() - s.double().amax(1, keepdim=True).nan_to_num(neginf=0.0))
    total = weights.sum(1)
    merged = (v.double().nan_to_num() * weights[..., None]).sum(1) / total.clamp_min(1e-300)[..., None]
    return merged, s.double().amax(1).nan_to_num(neginf=0.0) + torch.log2(total)


def assert_merged(v, s, states_v, states_s):
    expected_v, expected_s = reference(states_v, states_s)
    assert TOLERANCE[v.dtype].worst(v, expected_v) <= 1
    assert LSE_TOLERANCE.worst(s, expected_s) <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("num_states", [2, 5])
def test_merge_states(case, num_states):
    dtype, rows, heads, head_dim = case
    v, s = make_states(dtype, rows, num_states, heads, head_dim)
    merged_v, merged_s = merge_states(v, s)
    assert (merged_v.dtype, merged_s.dtype) == (dtype, F32)
    assert_merged(merged_v, merged_s, v, s)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_merge_state(case):
    dtype, rows, heads, head_dim = case
    v, s = make_states(dtype, rows, 2, heads, head_dim, seed=1)
    # Slices of a larger tensor: rows and heads are apart.
    merged_v, merged_s = merge_state(v[:, 0], s[:, 0], v[:, 1], s[:, 1])
    assert_merged(merged_v, merged_s, v, s)


@pytest.mark.parametrize("dtype_s", [F32, F16, torch.float64])
def test_merge_state_in_place_updates_the_caller_s_tensors(dtype_s):
    v, s = make_states(F16, 5, 2, 6, 128, seed=2)
    s = s.to(dtype_s)
    own_v, own_s = v[:, 0].clone(), s[:, 0]
    states = s.clone()
    merge_state_in_place(own_v, own_s, v[:, 1].contiguous(), s[:, 1])
    assert own_s.dtype == dtype_s
    expected_v, expected_s = reference(v, states)
    assert TOLERANCE[F16].worst(own_v, expected_v) <= 1
    tolerance = Tolerance(1e-3, 1e-3) if dtype_s == F16 else LSE_TOLERANCE
    assert tolerance.worst(s[:, 0], expected_s) <= 1
    assert torch.equal(s[:, 1], states[:, 1])


def test_masked_rows_are_left_alone():
    v, s = make_states(F32, 7, 2, 5, 64, seed=3)
    mask = torch.tensor([True, False, True, False, False, True, False])
    own_v, own_s = v[:, 0].clone(), s[:, 0].clone()
    merge_state_in_place(own_v, own_s, v[:, 1], s[:, 1], mask=mask)
    expected_v, expected_s = reference(v, s)
    assert TOLERANCE[F32].worst(own_v[mask], expected_v[mask]) <= 1
    assert LSE_TOLERANCE.worst(own_s[mask], expected_s[mask]) <= 1
    assert torch.equal(own_v[~mask][:3], v[~mask, 0][:3])
    assert torch.equal(own_s[~mask], s[~mask, 0])


@pytest.mark.parametrize("name", ["v", "s"])
def test_states_in_one_place_are_refused_before_anything_is_written(name):
    v, s = make_states(F32, 7, 2, 5, 64, seed=4)
    own = {"v": v[:, 0].clone(), "s": s[:, 0].clone()}
    own[name] = own[name][1:2].expand_as(own[name])
    before = {name: tensor.clone() for name, tensor in own.items()}
    with pytest.raises(ValueError, match=f"Invalid strides of {name}: it is written, and strides"):
        merge_state_in_place(own["v"], own["s"], v[:, 1], s[:, 1])
    assert all(torch.equal(own[name].nan_to_num(), before[name].nan_to_num()) for name in own)


def test_no_rows():
    v, s = merge_states(torch.empty(0, 2, 3, 64), torch.empty(0, 2, 3))
    assert (v.shape, s.shape) == ((0, 3, 64), (0, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s_b": torch.zeros(4, 3)}, r"Invalid shape of s_b: expected \[5, 3\]"),
        ({"v_b": torch.zeros(5, 3, 32)}, r"Invalid v_b: expected \[5, 3, 64\]"),
        ({"s_a": torch.zeros(5, 3, dtype=torch.int32)}, "Invalid dtype of s_a"),
        ({"v_a": torch.zeros(5, 3, 64, dtype=torch.float64)}, "Invalid dtype of v_a"),
        ({"v_a": torch.zeros(5, 64, 3).transpose(1, 2)}, "Invalid strides of v_a"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    state = {
        "v_a": torch.zeros(5, 3, 64),
        "s_a": torch.zeros(5, 3),
        "v_b": torch.zeros(5, 3, 64),
        "s_b": torch.zeros(5, 3),
    }
    with pytest.raises(ValueError, match=message):
        merge_state(**{**state, **change})
