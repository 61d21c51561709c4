"""single_prefill_with_kv_cache on both emulated GPUs against attention computed in float64."""

import ctypes
import itertools
import math
import threading

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from flashinfer_jit.validation import DTYPE_NAMES

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
# dtype, head_dim, num_qo_heads, num_kv_heads, causal, layout, qo_len, kv_len: every pair of values of two axes occurs
# (test_cases_are_pairwise), with group sizes 1 to 9 and tile boundaries of 32, 64 and 128 rows and keys.
CASES = (
    (F16, 64, 9, 3, True, "NHD", 37, 37),
    (F16, 64, 4, 4, False, "HND", 128, 65),
    (F16, 128, 8, 2, True, "HND", 129, 200),
    (F16, 128, 5, 1, False, "NHD", 1, 257),
    (BF16, 64, 8, 1, True, "HND", 17, 64),
    (BF16, 64, 7, 7, False, "NHD", 64, 1),
    (BF16, 128, 6, 2, False, "HND", 63, 129),
    (BF16, 128, 4, 1, True, "NHD", 31, 300),
    (F16, 64, 16, 2, True, "NHD", 2, 127),
    (BF16, 128, 7, 1, True, "HND", 33, 33),
)
HEAD_DIMS = ((32, 32), (80, 80), (192, 128), (256, 256))
LENGTHS = (1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)


# The configurations of the tests below that are not among CASES: dtype, head_dim, group size, causal.
OTHER_KERNELS = (
    (F16, 64, 3, False),
    (F16, 64, 3, True),
    (F16, 128, 4, False),
    (F16, 64, 1, False),
    (BF16, 64, 1, True),
)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    wanted = {
        *((dtype, (dim, dim), group_size, causal) for dtype, dim, group_size, causal in OTHER_KERNELS),
        *((case[0], (case[1], case[1]), case[2] // case[3], case[4]) for case in CASES),
        *((F16, head_dims, 2, True) for head_dims in HEAD_DIMS),
    }
    for dtype, (head_dim_qk, head_dim_vo), group_size, causal in wanted:
        name = DTYPE_NAMES[dtype]
        config = AttentionConfig(
            phase="prefill",
            dtype_q=name,
            dtype_kv=name,
            dtype_o=name,
            head_dim_qk=head_dim_qk,
            head_dim_vo=head_dim_vo,
            group_size=group_size,
            mask_mode="causal" if causal else "none",
        )
        for tile in tiling.candidates(config, arch):
            yield KernelKey(config, tile, arch)


def make(dtype, head_dim, num_qo_heads, num_kv_heads, layout, qo_len, kv_len, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kv_shape = (kv_len, num_kv_heads, head_dim) if layout == "NHD" else (num_kv_heads, kv_len, head_dim)
    q = torch.randn(qo_len, num_qo_heads, head_dim, generator=generator).to(dtype)
    k, v = (torch.randn(kv_shape, generator=generator).to(dtype) for _ in range(2))
    return q, k, v


def assert_matches(q, k, v, **options):
    """Run with and without log-sum-exp, and compare both results with the reference."""
    o, lse = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, **options, return_lse=True)
    o_reference, lse_reference = attention_reference(q, k, v, **options)
    assert o.dtype == q.dtype
    assert lse.dtype == torch.float32
    assert o.shape == o_reference.shape
    assert lse.shape == lse_reference.shape
    assert TOLERANCES[q.dtype].worst(o, o_reference) <= 1
    assert LSE_TOLERANCE.worst(lse, lse_reference) <= 1
    assert torch.equal(flashinfer_jit.single_prefill_with_kv_cache(q, k, v, **options), o)
    return o, lse


def test_cases_are_pairwise():
    axes = [(F16, BF16), (64, 128), (True, False), ("NHD", "HND")]
    columns = [0, 1, 4, 5]
    for (i, first), (j, second) in itertools.combinations(zip(columns, axes, strict=True), 2):
        seen = {(case[i], case[j]) for case in CASES}
        assert seen == set(itertools.product(first, second))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value).removeprefix("torch.") for value in case))
def test_against_float64(case):
    dtype, head_dim, num_qo_heads, num_kv_heads, causal, layout, qo_len, kv_len = case
    q, k, v = make(dtype, head_dim, num_qo_heads, num_kv_heads, layout, qo_len, kv_len)
    assert_matches(q, k, v, causal=causal, kv_layout=layout)


@pytest.mark.parametrize("causal", [False, True])
def test_lengths_around_tile_boundaries(causal):
    for step, qo_len in enumerate(LENGTHS):
        # Another pairing for every row: all lengths occur on both sides, the product would say little more.
        kv_len = max(LENGTHS[(step * 7 + 3) % len(LENGTHS)], qo_len if causal else 1)
        q, k, v = make(F16, 64, 3, 1, "NHD", qo_len, kv_len, seed=step)
        assert_matches(q, k, v, causal=causal)


@pytest.mark.parametrize("head_dims", HEAD_DIMS, ids=lambda dims: "x".join(map(str, dims)))
def test_head_dims(head_dims):
    head_dim_qk, head_dim_vo = head_dims
    q, k, _ = make(F16, head_dim_qk, 2, 1, "NHD", 20, 70)
    _, _, v = make(F16, head_dim_vo, 2, 1, "NHD", 20, 70)
    assert_matches(q, k, v, causal=True)


def test_long_keys():
    assert_matches(*make(BF16, 64, 2, 2, "NHD", 3, 1000), causal=True)


def test_packed_qkv_is_read_in_place():
    """q, k and v as the columns of one projection, with poison where no head is."""
    qkv = torch.full((70, 9 + 3 + 3 + 1, 64), math.nan, dtype=F16)
    qkv[:, :15] = torch.randn(70, 15, 64, generator=torch.Generator().manual_seed(1)).to(F16)
    q, k, v = qkv[:, :9], qkv[:, 9:12], qkv[:, 12:15]
    assert_matches(q, k, v, causal=True)


def test_poison_around_the_tensors_is_not_read():
    """Tokens before and after, and elements past the head dimension, are NaN: any of them would spread."""
    storage = torch.full((3, 150, 4, 80), math.nan, dtype=BF16)
    storage[:, 20:120, :, :64] = torch.randn(3, 100, 4, 64, generator=torch.Generator().manual_seed(2)).to(BF16)
    q, k, v = storage[:, 20:120, :, :64].unbind()
    assert_matches(q[:50], k, v)
    assert_matches(q, k[:, :2], v[:, :2], causal=True)


def test_keys_of_other_tokens_do_not_matter_under_the_causal_mask():
    q, k, v = make(F16, 64, 3, 1, "NHD", 40, 90)
    o = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=True)
    # Query i sees keys up to i + 50.
    k[61:], v[61:] = 100, 1000
    changed = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=True)
    assert torch.equal(changed[:11], o[:11])
    assert not torch.equal(changed[11:], o[11:])


def test_heads_broadcast_by_stride_zero():
    q, k, v = make(F16, 128, 4, 1, "NHD", 20, 50)
    o, _ = assert_matches(q, k.expand(50, 4, 128), v.expand(50, 4, 128))
    assert TOLERANCES[F16].worst(o, attention_reference(q, k, v)[0]) <= 1


def test_no_keys():
    q, k, v = make(F16, 64, 3, 1, "NHD", 5, 0)
    o, lse = assert_matches(q, k, v)
    assert torch.equal(o, torch.zeros_like(o))
    assert torch.equal(lse, torch.full_like(lse, -math.inf))


def test_no_queries():
    o, lse = flashinfer_jit.single_prefill_with_kv_cache_return_lse(*make(F16, 64, 3, 1, "NHD", 0, 5))
    assert (o.shape, lse.shape) == ((0, 3, 64), (0, 3))


@pytest.mark.parametrize("sm_scale", [1e-3, 0.05, 1.0])
def test_softmax_scale(sm_scale):
    assert_matches(*make(F16, 64, 3, 1, "NHD", 20, 70), sm_scale=sm_scale)


def test_logits_of_great_size():
    """The largest logit of a row takes all; exp of the raw logits would overflow."""
    q, k, v = make(BF16, 64, 3, 1, "NHD", 40, 130)
    o, lse = flashinfer_jit.single_prefill_with_kv_cache(100 * q, k, v, return_lse=True)
    o_reference, lse_reference = attention_reference(100 * q, k, v)
    assert TOLERANCES[BF16].worst(o, o_reference) <= 1
    # float32 has 24 bits, and logits are products of 64 rounded terms.
    assert ((lse - lse_reference).abs() <= 1e-5 * lse_reference.abs()).all()


def test_rows_grow_by_more_than_the_softmax_rescales_lazily():
    """Keys in ascending order of their logits: the running maximum changes in every tile."""
    q, k, v = make(F16, 64, 1, 1, "NHD", 33, 300)
    q[:] = 1
    k[:] = torch.linspace(-8, 8, 300)[:, None, None]
    assert_matches(q, k, v)
    assert_matches(q, k.flip(0), v)


def test_results_repeat_bit_for_bit():
    q, k, v = make(BF16, 128, 6, 2, "HND", 63, 129)
    first = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, kv_layout="HND")
    for _ in range(3):
        assert torch.equal(flashinfer_jit.single_prefill_with_kv_cache(q, k, v, kv_layout="HND"), first)


def test_threads_launch_at_once():
    cases = [make(F16, 64, 3, 1, "NHD", 10 + i, 40 + i, seed=i) for i in range(6)]
    failures = []

    def run(case, arch):
        try:
            with emulator.use_arch(arch):
                assert_matches(*case, causal=True)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(case, arch))
        for case, arch in zip(cases, itertools.cycle(["gfx942", "gfx950"]), strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_launch_on_a_stream_of_the_emulator(arch):
    runtime = flashinfer_jit.runtime.current()
    q, k, v = make(F16, 64, 3, 1, "NHD", 5, 40)
    stream = ctypes.c_void_p()
    # A stream belongs to the device that is current when it is made.
    before = runtime.swap_device(["gfx942", "gfx950"].index(arch))
    runtime.call("hipStreamCreate", ctypes.byref(stream))
    runtime.swap_device(before)
    with flashinfer_jit.use_stream(stream.value):
        assert_matches(q, k, v)
    runtime.call("hipStreamSynchronize", stream)
    runtime.call("hipStreamDestroy", stream)
    with flashinfer_jit.use_stream(stream.value), pytest.raises(HipError, match="stream"):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v)


def test_memory_that_was_not_given_to_the_launch_is_out_of_reach(monkeypatch):
    """A kernel that reads outside its tensors is an error that says where, not a crash, and the next call works."""
    q, k, v = make(F16, 64, 3, 1, "NHD", 5, 40)
    runtime = flashinfer_jit.runtime.current()
    launch = type(runtime).launch
    monkeypatch.setattr(
        type(runtime),
        "launch",
        lambda self, kernel, params, tensors, stream: launch(
            self, kernel, params, {name: t for name, t in tensors.items() if name != "k"}, stream
        ),
    )
    with pytest.raises(HipError) as caught:
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v)
    assert (caught.value.code, caught.value.name) == (700, "hipErrorIllegalAddress")
    assert "prefill_f16_d64_g3" in str(caught.value)
    monkeypatch.undo()
    assert_matches(q, k, v)
