"""single_decode_with_kv_cache on both emulated GPUs against attention computed in float64."""

import ctypes
import itertools
import math

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator, merge_state, scheduler
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.merge import merge_key
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance
from flashinfer_jit.validation import DTYPE_NAMES
from support.decode_reference import decode_reference

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
E4M3, E4M3_FNUZ, E5M2, E5M2_FNUZ = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
PLAIN, WINDOW, CAP = {}, {"window_left": 99}, {"logits_soft_cap": 4.0}
ROPE, ALIBI = {"pos_encoding_mode": "ROPE_LLAMA"}, {"pos_encoding_mode": "ALIBI"}
# dtype, dtype of k and v or None, head_dim_qk, head_dim_vo, group size, KV heads, layout, kv_len, options
CASES = (
    (F16, None, 128, 128, 8, 2, "NHD", 1000, PLAIN),
    (F16, None, 128, 128, 8, 1, "HND", 4097, PLAIN),
    (BF16, None, 32, 32, 16, 1, "HND", 255, CAP),
    (BF16, None, 48, 48, 1, 3, "NHD", 256, WINDOW),
    (F16, None, 64, 64, 3, 2, "HND", 257, WINDOW | CAP),
    (F16, None, 80, 80, 5, 2, "NHD", 130, ROPE),
    (BF16, None, 96, 96, 12, 1, "NHD", 700, ALIBI),
    (F16, None, 112, 112, 7, 2, "HND", 129, PLAIN),
    (BF16, None, 128, 128, 4, 2, "HND", 300, ROPE | WINDOW | {"rope_theta": 5e5, "rope_scale": 4.0}),
    (F16, None, 144, 144, 6, 1, "NHD", 100, ALIBI | CAP),
    (BF16, None, 192, 128, 16, 1, "NHD", 300, PLAIN),
    (F16, None, 256, 256, 2, 2, "HND", 515, CAP | WINDOW),
    (BF16, E4M3, 128, 128, 8, 2, "NHD", 600, PLAIN),
    (F16, E4M3_FNUZ, 64, 64, 9, 1, "HND", 200, WINDOW),
    (F16, E5M2, 96, 96, 10, 1, "NHD", 65, ROPE),
    (BF16, E5M2_FNUZ, 80, 80, 11, 1, "NHD", 63, CAP),
    (F16, None, 128, 128, 32, 1, "NHD", 600, PLAIN),
    (BF16, None, 64, 64, 64, 2, "HND", 100, ALIBI),
    (F16, None, 64, 64, 71, 1, "NHD", 300, WINDOW),
    (BF16, None, 128, 128, 128, 1, "NHD", 513, PLAIN),
    (F16, E4M3, 256, 256, 40, 1, "HND", 70, ROPE),
)
OTHER_GROUP_SIZES = (13, 14, 15)
LENGTHS = (0, 1, 15, 16, 17, 63, 64, 65, 127, 255, 256, 257, 511, 512, 513, 1000, 4097)
# Rotated bfloat16 queries and keys are rounded to bfloat16, and the log-sum-exp shows it.
ROPE_BF16_LSE = Tolerance(6e-3, 0.0)


def find_key(arch, dtype, dtype_kv, head_dim_qk, head_dim_vo, group_size, options):
    name = DTYPE_NAMES[dtype]
    config = AttentionConfig(
        phase="decode",
        dtype_q=name,
        dtype_kv=DTYPE_NAMES[dtype_kv or dtype],
        dtype_o=name,
        head_dim_qk=head_dim_qk,
        head_dim_vo=head_dim_vo,
        group_size=group_size,
        mask_mode="causal",
        position_encoding=options.get("pos_encoding_mode", "none").lower(),
        has_window="window_left" in options,
        has_soft_cap="logits_soft_cap" in options,
    )
    return KernelKey(config, tiling.smallest_holding(tiling.candidates(config, arch), group_size), arch)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for dtype, dtype_kv, head_dim_qk, head_dim_vo, group_size, _, _, kv_len, options in CASES:
        yield find_key(arch, dtype, dtype_kv, head_dim_qk, head_dim_vo, group_size, options)
        if kv_len >= 2 * scheduler.MIN_CHUNK_KEYS:
            yield merge_key(arch, "float32", DTYPE_NAMES[dtype], head_dim_vo)
    for group_size in OTHER_GROUP_SIZES:
        yield find_key(arch, F16, None, 64, 64, group_size, PLAIN)


def make(dtype, dtype_kv, head_dim_qk, head_dim_vo, group_size, num_kv_heads, layout, kv_len, seed=0):
    """Return q, and k and v as views of caches that are NaN where no key is."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(group_size * num_kv_heads, head_dim_qk, generator=generator).to(dtype)
    caches = []
    for head_dim in (head_dim_qk, head_dim_vo):
        cache = torch.full((kv_len + 40, num_kv_heads, head_dim + 16), math.nan)
        cache[20 : 20 + kv_len, :, :head_dim] = torch.randn(kv_len, num_kv_heads, head_dim, generator=generator)
        cache = cache.to(dtype_kv or dtype)
        if layout == "HND":
            cache = cache.transpose(0, 1).contiguous()
            caches.append(cache[:, 20 : 20 + kv_len, :head_dim])
        else:
            caches.append(cache[20 : 20 + kv_len, :, :head_dim])
    return q, *caches


def assert_matches(q, k, v, layout="NHD", **options):
    """Run with and without log-sum-exp, and compare with the reference."""
    o, lse = flashinfer_jit.single_decode_with_kv_cache(q, k, v, kv_layout=layout, return_lse=True, **options)
    if layout == "HND":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    o_reference, lse_reference = decode_reference(q[None], k, v, **options)
    assert (o.dtype, lse.dtype) == (q.dtype, torch.float32)
    assert (o.shape, lse.shape) == (o_reference.shape[1:], lse_reference.shape[1:])
    assert TOLERANCES[q.dtype].worst(o, o_reference[0]) <= 1
    rounded = options.get("pos_encoding_mode") == "ROPE_LLAMA" and q.dtype == BF16
    assert (ROPE_BF16_LSE if rounded else LSE_TOLERANCE).worst(lse, lse_reference[0]) <= 1
    return o, lse


def test_cases_cover_the_axes():
    """Every value of every axis occurs, and every pair of dtype, layout, cap, window and position encoding."""
    assert {case[4] for case in CASES} | set(OTHER_GROUP_SIZES) >= {*range(1, 17), 32, 64, 71, 128}
    assert {case[1] for case in CASES} == {None, E4M3, E4M3_FNUZ, E5M2, E5M2_FNUZ}
    rows = [
        (case[0], case[6], "logits_soft_cap" in case[8], case[8].get("pos_encoding_mode", "NONE")) for case in CASES
    ]
    axes = ((F16, BF16), ("NHD", "HND"), (True, False), ("NONE", "ROPE_LLAMA", "ALIBI"))
    for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2):
        missing = set(itertools.product(first, second)) - {(row[i], row[j]) for row in rows}
        assert missing <= {(True, "ROPE_LLAMA")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value).removeprefix("torch.") for value in case))
def test_against_float64(case):
    assert_matches(*make(*case[:8]), layout=case[6], **case[8])


@pytest.mark.parametrize("group_size", OTHER_GROUP_SIZES)
def test_group_sizes(group_size):
    assert_matches(*make(F16, None, 64, 64, group_size, 1, "NHD", 50))


@pytest.mark.parametrize("kv_len", LENGTHS)
def test_lengths(kv_len):
    """The log-sum-exp is right at every length, split or not."""
    o, lse = assert_matches(*make(F16, None, 128, 128, 8, 1, "NHD", kv_len, seed=kv_len))
    assert kv_len > 0 or (torch.equal(o, torch.zeros_like(o)) and torch.equal(lse, torch.full_like(lse, -math.inf)))


@pytest.mark.parametrize("window_left", [0, 1, 98, 255, 256])
def test_window(window_left):
    q, k, v = make(F16, None, 64, 64, 71, 1, "NHD", 300)
    assert_matches(q, k, v, window_left=window_left)
    # Keys outside the window are not even looked at.
    k[: 300 - 1 - window_left], v[: 300 - 1 - window_left] = math.nan, math.nan
    o = flashinfer_jit.single_decode_with_kv_cache(q, k, v, window_left=window_left)
    assert not o.isnan().any()


def test_scales_per_head():
    """A long request, whose parts are merged, and a short one."""
    q, k, v = make(F16, None, 128, 128, 8, 2, "NHD", 1000)
    num_qo_heads, num_kv_heads = q.shape[0], k.shape[1]
    q_scale, k_scale = torch.linspace(0.5, 2, num_qo_heads), torch.linspace(0.25, 1, num_kv_heads)
    for kv_len in (len(k), 3):
        o, lse = flashinfer_jit.single_decode_with_kv_cache(
            q, k[:kv_len], v[:kv_len], q_scale=q_scale, k_scale=k_scale, v_scale=k_scale, return_lse=True
        )
        o_reference, lse_reference = decode_reference(
            q[None] * q_scale[:, None].double(),
            k[:kv_len] * k_scale[:, None].double(),
            v[:kv_len] * k_scale[:, None].double(),
        )
        assert TOLERANCES[q.dtype].worst(o[None], o_reference) <= 1
        assert LSE_TOLERANCE.worst(lse[None], lse_reference) <= 1


def test_scales():
    q, k, v = make(F16, None, 128, 128, 8, 1, "NHD", 1000)
    for kv_len in (100, 1000):
        o, lse = flashinfer_jit.single_decode_with_kv_cache(
            q, k[:kv_len], v[:kv_len], q_scale=0.5, k_scale=0.25, v_scale=3.0, sm_scale=0.7, return_lse=True
        )
        o_reference, lse_reference = decode_reference(q[None], k[:kv_len], v[:kv_len] * 3, sm_scale=0.7 / 8)
        assert TOLERANCES[F16].worst(o / 3, o_reference[0] / 3) <= 1
        assert LSE_TOLERANCE.worst(lse, lse_reference[0]) <= 1


def test_parts_merge_to_the_whole():
    q, k, v = make(F16, None, 128, 128, 8, 1, "NHD", 4097)
    whole_o, whole_lse = flashinfer_jit.single_decode_with_kv_cache(q, k, v, return_lse=True)
    parts = [
        flashinfer_jit.single_decode_with_kv_cache(q, k[part], v[part], return_lse=True)
        for part in (slice(0, 200), slice(200, 4097))
    ]
    o, lse = merge_state(*(x[None] for part in parts for x in part))
    assert TOLERANCES[F16].worst(o[0], whole_o.double()) <= 1
    assert LSE_TOLERANCE.worst(lse[0], whole_lse.double()) <= 1


@pytest.mark.parametrize(("group_size", "kv_len"), [(8, 1000), (8, 4097), (32, 600)])
def test_every_key_is_read_once(monkeypatch, group_size, kv_len):
    """Bytes that the kernel asks of k and v are those of k and v: nothing twice, whatever heads share them."""
    q, k, v = make(F16, None, 128, 128, group_size, 1, "NHD", kv_len)
    runtime = flashinfer_jit.runtime.current()
    launch, reports = type(runtime).launch, []

    def launch_and_keep(self, *args):
        launch(self, *args)
        reports.append(emulator.last_report())

    monkeypatch.setattr(type(runtime), "launch", launch_and_keep)
    flashinfer_jit.single_decode_with_kv_cache(q, k, v)
    assert reports[0].kernel.startswith("decode")
    read = {traffic.name: traffic.read for traffic in reports[0].buffers}
    for name, tensor in (("k", k), ("v", v)):
        num_bytes = tensor.numel() * tensor.element_size()
        assert num_bytes <= read[name] <= 1.02 * num_bytes


def test_no_registers_are_spilled():
    for key in kernel_keys(emulator.current_arch()):
        meta = kernels.get_kernel(key, flashinfer_jit.runtime.current()).meta
        assert meta["vgpr_spills"] == meta["sgpr_spills"] == meta["scratch_bytes"] == 0
        assert meta["vgpr"] + meta["agpr"] <= 512 // key.tile.waves_per_simd


def test_captured_and_replayed_on_new_contents(arch):
    """Split or not, a call only launches: a graph of it computes again from whatever the tensors hold."""
    q, k, v = make(F16, None, 128, 128, 8, 1, "NHD", 1000)
    flashinfer_jit.single_decode_with_kv_cache(q, k, v)
    active = flashinfer_jit.runtime.current()
    stream, graph, executable = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    # A stream belongs to the device that is current when it is created.
    previous = active.swap_device(list(ARCHS).index(arch))
    active.call("hipStreamCreate", ctypes.byref(stream))
    active.call("hipStreamBeginCapture", stream, 2)
    with flashinfer_jit.use_stream(stream.value):
        o, lse = flashinfer_jit.single_decode_with_kv_cache(q, k, v, return_lse=True)
    active.call("hipStreamEndCapture", stream, ctypes.byref(graph))
    active.call("hipGraphInstantiate", ctypes.byref(executable), graph, None, None, 0)
    q.copy_(-q)
    k.copy_(k.flip(0))
    active.call("hipGraphLaunch", executable, stream)
    active.call("hipStreamSynchronize", stream)
    o_reference, lse_reference = decode_reference(q[None], k, v)
    assert TOLERANCES[F16].worst(o, o_reference[0]) <= 1
    assert LSE_TOLERANCE.worst(lse, lse_reference[0]) <= 1
    active.call("hipGraphExecDestroy", executable)
    active.call("hipGraphDestroy", graph)
    active.call("hipStreamDestroy", stream)
    active.swap_device(previous)


def valid():
    q, k, v = make(F16, None, 64, 64, 3, 2, "NHD", 50)
    return {"q": q, "k": k, "v": v}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kv_layout": "NDH"}, KeyError, "Invalid kv_layout 'NDH'"),
        ({"pos_encoding_mode": "YARN"}, KeyError, "Invalid pos_encoding_mode 'YARN'"),
        ({"q": torch.zeros(1, 6, 64, dtype=F16)}, ValueError, "Invalid shape of q"),
        ({"q": torch.zeros(5, 64, dtype=F16)}, ValueError, "num_qo_heads=5"),
        ({"q": torch.zeros(6, 64)}, ValueError, "Invalid dtype of q"),
        ({"k": torch.zeros(50, 2, 64, dtype=BF16)}, ValueError, "Invalid dtype of k"),
        ({"k": torch.zeros(50, 2, 80, dtype=F16)}, ValueError, "head_dim_qk 64 as that of q, got 80"),
        ({"v": torch.zeros(51, 2, 64, dtype=F16)}, ValueError, "kv_len 50 as that of k, got 51"),
        ({"v": torch.zeros(50, 3, 64, dtype=F16)}, ValueError, "num_kv_heads 2 as that of k, got 3"),
        ({"v": torch.zeros(50, 2, 64, dtype=E4M3)}, ValueError, "Invalid dtype of v"),
        ({"k": torch.zeros(50, 64, 2, dtype=F16).transpose(1, 2)}, ValueError, "Invalid strides of k"),
        ({"k": [1]}, TypeError, "k must be a torch.Tensor"),
        ({"window_left": -2}, ValueError, "window_left=-2"),
        ({"logits_soft_cap": -1.0}, ValueError, "logits_soft_cap=-1.0"),
        ({"sm_scale": 0.0}, ValueError, "sm_scale=0.0"),
        ({"v_scale": math.nan}, ValueError, "v_scale=nan"),
        ({"rope_theta": 1e4}, ValueError, "rope_theta=10000.0 has no meaning"),
        ({"pos_encoding_mode": "ROPE_LLAMA", "rope_scale": 0}, ValueError, "rope_scale=0"),
    ],
)
def test_bad_input_is_refused_by_name(monkeypatch, change, error, message):
    def launch(*_args):
        raise AssertionError("launched")

    monkeypatch.setattr(type(flashinfer_jit.runtime.current()), "launch", launch)
    with pytest.raises(error, match=message):
        flashinfer_jit.single_decode_with_kv_cache(**{**valid(), **change})
