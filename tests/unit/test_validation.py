"""Bad input is refused before anything is looked up or launched, naming argument, value and what is allowed."""

import inspect
import math

import numpy
import pytest
import torch

from flashinfer_jit import prefill, runtime, validation
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import GFX942
from flashinfer_jit.jit.params import PREFILL
from flashinfer_jit.variants import AttentionVariant


class RecordingRuntime:
    """Stands in for a runtime on CPU tensors; records launches and runs nothing."""

    kind = "emulator"
    device_type = "cpu"

    def __init__(self):
        self.launches = []

    def device(self):
        return torch.device("cpu")

    def arch(self, device):
        return GFX942

    def launch(self, kernel, params, tensors, stream):
        self.launches.append((kernel, params, tensors))


class FakeKernel:
    params_type = PREFILL.struct

    def __init__(self, key):
        self.key = key


@pytest.fixture
def recorder(monkeypatch):
    recorder = RecordingRuntime()
    monkeypatch.setattr(runtime, "current", lambda: recorder)
    monkeypatch.setattr(kernels, "get_kernel", lambda key, active: FakeKernel(key))
    monkeypatch.setattr(prefill, "_problems", {})
    monkeypatch.delenv("FLASHINFER_JIT_BACKEND", raising=False)
    return recorder


@pytest.fixture
def refused(recorder, monkeypatch):
    """The call must raise before a kernel is even looked up."""

    def fail(key, active):
        raise AssertionError("a kernel was looked up for bad input")

    monkeypatch.setattr(kernels, "get_kernel", fail)
    yield prefill.single_prefill_with_kv_cache
    assert recorder.launches == []


def make(qo_len=5, kv_len=9, num_qo_heads=4, num_kv_heads=2, head_dim=64, dtype=torch.float16, layout="NHD"):
    kv_shape = (kv_len, num_kv_heads, head_dim) if layout == "NHD" else (num_kv_heads, kv_len, head_dim)
    q = torch.zeros(qo_len, num_qo_heads, head_dim, dtype=dtype)
    return q, torch.zeros(kv_shape, dtype=dtype), torch.zeros(kv_shape, dtype=dtype)


def test_signature_is_flashinfers():
    """Names, positions and defaults as FlashInfer 0.5 has them; what 0.6 added can be given by name."""
    empty = inspect.Parameter.empty
    # fmt: off
    expected = {
        "q": empty, "k": empty, "v": empty, "scale_q": None, "scale_k": None, "scale_v": None, "o_dtype": None,
        "custom_mask": None, "packed_custom_mask": None, "causal": False, "kv_layout": "NHD",
        "pos_encoding_mode": "NONE", "use_fp16_qk_reduction": False, "sm_scale": None, "window_left": -1,
        "logits_soft_cap": None, "rope_scale": None, "rope_theta": None, "backend": "auto", "return_lse": False,
    }
    # fmt: on
    parameters = inspect.signature(prefill.single_prefill_with_kv_cache).parameters
    positional = {name: p.default for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(expected.items())
    assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == [
        *("k_scale", "v_scale", "kv_cache_sf"),
        *("variant", "variant_args"),
    ]


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ({"kv_cache_sf": torch.ones(2)}, "None"),
        ({"use_fp16_qk_reduction": True}, "False"),
        ({"o_dtype": torch.float64}, "torch.float16 or torch.bfloat16 or torch.float32"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_not_built_is_refused_by_name(refused, arguments, allowed):
    (name,) = arguments
    with pytest.raises(UnsupportedConfigError) as caught:
        refused(*make(), **arguments)
    assert name in str(caught.value)
    assert f"expected {allowed}" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"custom_mask": torch.ones(5, 8, dtype=torch.bool)}, r"custom_mask: expected \[5, 9\].*got \[5, 8\]"),
        ({"custom_mask": torch.ones(5, 9)}, r"custom_mask: expected torch.bool, got torch.float32"),
        ({"packed_custom_mask": torch.ones(5, dtype=torch.uint8)}, r"packed_custom_mask: expected at least \[6\]"),
        ({"packed_custom_mask": torch.ones(6, dtype=torch.int32)}, r"packed_custom_mask: expected torch.uint8"),
        ({"scale_k": 2.0, "k_scale": 2.0}, r"scale_k and k_scale are the same scale"),
        ({"scale_v": -1.0}, r"scale_v=-1.0"),
        ({"scale_v": torch.tensor([1.0, -1.0])}, r"scale_v=-1.0"),
        ({"scale_q": torch.ones(3)}, r"scale_q: expected .* \[4\], on cpu, got \[3\]"),
        ({"k_scale": torch.ones(1, 2)}, r"k_scale: expected .* \[2\], on cpu, got \[1, 2\]"),
        ({"rope_scale": 2.0}, r"rope_scale=2.0 has no meaning with pos_encoding_mode='NONE'"),
        ({"rope_theta": 0.0, "pos_encoding_mode": "ROPE_LLAMA"}, r"rope_theta=0.0"),
        ({"window_left": -2}, r"window_left=-2"),
        ({"logits_soft_cap": -1.0}, r"logits_soft_cap=-1.0"),
    ],
)
def test_options_out_of_range(refused, arguments, message):
    with pytest.raises(ValueError, match=message):
        refused(*make(), **arguments)


def test_a_mask_that_is_no_tensor(refused):
    with pytest.raises(TypeError, match=r"custom_mask must be a torch.Tensor, got list"):
        refused(*make(), custom_mask=[[True]])


def test_every_argument_takes_part(recorder):
    """An argument that was ignored, or forgotten in the memo's key, would launch the same as the call without it."""

    def launched(**arguments):
        prefill.single_prefill_with_kv_cache(*make(), **arguments)
        kernel, params, tensors = recorder.launches[-1]
        pointers = {field.name for field in PREFILL.fields if field.c_type.endswith("*")}
        values = {name: getattr(params, name) for name, _ in params._fields_ if name not in pointers}
        return kernel.key, values, frozenset(tensors)

    mask = torch.ones(5, 9, dtype=torch.bool)
    # fmt: off
    others = {
        "scale_q": 2.0, "scale_k": torch.tensor(2.0), "scale_v": 2.0, "o_dtype": torch.float32, "custom_mask": mask,
        "packed_custom_mask": torch.zeros(6, dtype=torch.uint8), "causal": True, "pos_encoding_mode": "ALIBI",
        "sm_scale": 0.3, "window_left": 7, "logits_soft_cap": 5.0, "k_scale": 2.0, "v_scale": torch.tensor([2.0]),
        "return_lse": True, "variant": AttentionVariant("half", logits_transform="return logits * 0.5f;"),
    }
    refused_values = {
        "use_fp16_qk_reduction": True, "backend": "aiter", "kv_cache_sf": mask, "kv_layout": "XYZ",
        "variant_args": (1.0,),
    }
    # fmt: on
    rope = {"rope_scale": 2.0, "rope_theta": 5e5}
    parameters = set(inspect.signature(prefill.single_prefill_with_kv_cache).parameters)
    assert parameters == {*others, *refused_values, *rope, "q", "k", "v"}
    plain = launched()
    assert launched() == plain
    for name, value in others.items():
        assert launched(**{name: value}) != plain, name
    rotated = launched(pos_encoding_mode="ROPE_LLAMA")
    for name, value in rope.items():
        assert launched(pos_encoding_mode="ROPE_LLAMA", **{name: value}) != rotated, name
    for name, value in refused_values.items():
        with pytest.raises((ValueError, KeyError)):
            launched(**{name: value})
    q, k, v = make()
    with pytest.raises(ValueError, match=r"causal"):
        prefill.single_prefill_with_kv_cache(q, k[:3], v[:3], causal=True)


def test_environment_backend_is_honoured_at_every_call(recorder, monkeypatch, caplog):
    """What it means where AITER is installed is tested in test_aiter.py."""
    monkeypatch.setattr("flashinfer_jit.log._said", set())
    prefill.single_prefill_with_kv_cache(*make())
    monkeypatch.setenv("FLASHINFER_JIT_BACKEND", "aiter")
    prefill.single_prefill_with_kv_cache(*make(), backend="fa2")
    assert caplog.text == ""
    prefill.single_prefill_with_kv_cache(*make())
    assert "FLASHINFER_JIT_BACKEND='aiter': this package's kernels are used instead of AITER's" in caplog.text
    assert len(recorder.launches) == 3


@pytest.mark.parametrize("value", ["nhd", "NDH", "", None])
def test_unknown_layout_is_a_key_error(refused, value):
    with pytest.raises(KeyError, match=r"Invalid kv_layout .*'NHD' or 'HND'"):
        refused(*make(), kv_layout=value)


def test_unknown_position_encoding_is_a_key_error(refused):
    with pytest.raises(KeyError, match=r"Invalid pos_encoding_mode 'ROPE'.*ROPE_LLAMA"):
        refused(*make(), pos_encoding_mode="ROPE")


def test_unknown_backend_is_a_value_error(refused):
    with pytest.raises(ValueError, match=r"backend='fa3' is unknown: expected one of auto, fa2, aiter"):
        refused(*make(), backend="fa3")


@pytest.mark.parametrize(("name", "index"), [("q", 0), ("k", 1), ("v", 2)])
class TestTensors:
    def test_wrong_rank(self, refused, name, index):
        tensors = list(make())
        tensors[index] = tensors[index][None]
        with pytest.raises(ValueError, match=rf"Invalid shape of {name}: expected \[.*head_dim.*\], got \[1, .*64\]"):
            refused(*tensors)

    def test_scalar(self, refused, name, index):
        tensors = list(make())
        tensors[index] = torch.zeros((), dtype=torch.float16)
        with pytest.raises(ValueError, match=rf"Invalid shape of {name}.*got \[\]"):
            refused(*tensors)

    @pytest.mark.parametrize("value", [None, 3.0, [[1.0]]])
    def test_no_tensor(self, refused, name, index, value):
        tensors = list(make())
        tensors[index] = value
        with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got {type(value).__name__}"):
            refused(*tensors)

    def test_wrong_dtype(self, refused, name, index):
        tensors = list(make())
        tensors[index] = tensors[index].float()
        with pytest.raises(UnsupportedConfigError, match=rf"Invalid dtype of {name}: expected torch.float16.*float32"):
            refused(*tensors)

    def test_wrong_device(self, refused, name, index):
        tensors = list(make())
        tensors[index] = tensors[index].to("meta")
        with pytest.raises(
            ValueError, match=rf"Invalid device of {name}: .*expected cpu, got meta.*FLASHINFER_JIT_DEVICE"
        ):
            refused(*tensors)

    def test_rows_that_are_not_contiguous(self, refused, name, index):
        tensors = list(make())
        tensors[index] = torch.zeros(*tensors[index].shape, 2, dtype=torch.float16)[..., 0]
        with pytest.raises(
            ValueError, match=rf"Invalid strides of {name}: the last dimension.*stride 2.*contiguous\(\)"
        ):
            refused(*tensors)


@pytest.mark.parametrize("index", range(3))
def test_rows_off_alignment_are_copied(recorder, index):
    """Neither a row stride nor an address that is no multiple of 16 bytes reaches a kernel."""
    for misaligned in (
        lambda shape: torch.ones(*shape[:-1], 68, dtype=torch.float16)[..., :64],
        lambda shape: torch.ones(shape.numel() + 64, dtype=torch.float16)[1:][: shape.numel()].view(shape),
    ):
        tensors = list(make())
        tensors[index] = misaligned(tensors[index].shape)
        prefill.single_prefill_with_kv_cache(*tensors)
        _, params, launched = recorder.launches[-1]
        name = "qkv"[index]
        assert torch.equal(launched[name], tensors[index])
        assert launched[name].data_ptr() == getattr(params, name) and launched[name].data_ptr() % 16 == 0
        assert (getattr(params, f"{name}_stride_n"), getattr(params, f"{name}_stride_h")) == launched[name].stride()[:2]


def test_tokens_too_far_apart(refused):
    q, k, v = make(kv_len=2, num_kv_heads=1)
    k = torch.empty(2**23 + 4096, dtype=torch.float16).as_strided((2, 1, 64), (2**23 + 8, 64, 1))
    with pytest.raises(
        ValueError, match=r"Invalid strides of k: tokens may be at most 16777216 bytes apart, got 16777232"
    ):
        refused(q, k, v)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": (9, 2, 128)}, "Invalid shape of k: expected head_dim_qk 64 as that of q, got 128"),
        ({"v": (9, 1, 64)}, "Invalid shape of v: expected num_kv_heads 2 as that of k, got 1"),
        ({"v": (8, 2, 64)}, "Invalid shape of v: expected kv_len 9 as that of k, got 8"),
        ({"k": (9, 3, 64), "v": (9, 3, 64)}, "num_qo_heads=4 of q must be a positive multiple of num_kv_heads=3"),
        ({"k": (9, 8, 64), "v": (9, 8, 64)}, "num_qo_heads=4 of q must be a positive multiple of num_kv_heads=8"),
        ({"k": (9, 0, 64), "v": (9, 0, 64)}, "num_kv_heads=0"),
        ({"q": (5, 0, 64)}, "num_qo_heads=0"),
    ],
)
def test_shapes_that_do_not_fit(refused, changes, message):
    tensors = dict(zip("qkv", make(), strict=True))
    tensors |= {name: torch.zeros(shape, dtype=torch.float16) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        refused(**tensors)


def test_shapes_are_checked_at_every_call(recorder):
    q, k, v = make()
    prefill.single_prefill_with_kv_cache(q, k, v)
    with pytest.raises(ValueError, match=r"Invalid shape of v: expected kv_len 9"):
        prefill.single_prefill_with_kv_cache(q, k, v[:-1])
    with pytest.raises(ValueError, match=r"num_kv_heads"):
        prefill.single_prefill_with_kv_cache(q, k, v[:, :1])
    with pytest.raises(ValueError, match=r"Invalid shape of k"):
        prefill.single_prefill_with_kv_cache(q, k[0], v)
    assert len(recorder.launches) == 1


@pytest.mark.parametrize("head_dim", [16, 24, 72, 272, 512])
def test_head_dims_without_a_kernel(refused, head_dim):
    with pytest.raises(UnsupportedConfigError, match=str(head_dim)):
        refused(*make(head_dim=head_dim))


def test_unequal_head_dims_without_a_kernel(refused):
    q, k, _ = make(head_dim=128)
    v = torch.zeros(9, 2, 64, dtype=torch.float16)
    with pytest.raises(UnsupportedConfigError, match=r"64"):
        refused(q, k, v)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]
)
def test_fp8_keys_with_other_values_are_refused_by_name(refused, dtype):
    q, k, v = make()
    with pytest.raises(UnsupportedConfigError, match=rf"Invalid dtype of v: expected {dtype}"):
        refused(q, k.to(dtype), v)


def test_causal_with_more_queries_than_keys(refused):
    with pytest.raises(ValueError, match=r"kv_len must be greater than or equal to qo_len.*kv_len=4 and qo_len=5"):
        refused(*make(kv_len=4), causal=True)
    with pytest.raises(ValueError, match=r"kv_len=0"):
        refused(*make(kv_len=0), causal=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.3, "0.1", torch.tensor(0.1)])
def test_sm_scale_must_be_a_positive_number(refused, value):
    with pytest.raises(ValueError, match=r"sm_scale=.* must be a positive finite number"):
        refused(*make(), sm_scale=value)


@pytest.mark.parametrize("value", [-2, 1.5, None, True])
def test_window_left_must_be_a_count(refused, value):
    with pytest.raises(ValueError, match=r"window_left=.* must be -1"):
        refused(*make(), window_left=value)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "30"])
def test_logits_soft_cap_must_be_positive(refused, value):
    with pytest.raises(ValueError, match=r"logits_soft_cap=.* must be None, 0"):
        refused(*make(), logits_soft_cap=value)


def test_hip_refuses_cpu_tensors(refused, recorder):
    recorder.kind, recorder.device_type = "hip", "cuda"
    recorder.device = lambda: torch.device("cuda", 0)
    with pytest.raises(ValueError, match=r"Invalid device of q: kernels run on an AMD GPU: expected cuda:0, got cpu"):
        refused(*make())


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_struct_is_filled_from_the_arguments(recorder, layout):
    storage = torch.zeros(5, 4, 192, dtype=torch.bfloat16)
    q = storage[..., 64:128]
    _, k, v = make(dtype=torch.bfloat16, layout=layout)
    o, lse = prefill.single_prefill_with_kv_cache(
        q, k, v, kv_layout=layout, sm_scale=0.25, causal=True, return_lse=True
    )
    ((kernel, params, tensors),) = recorder.launches
    assert kernel.key.config.mask_mode == "causal"
    assert kernel.key.config.group_size == 2
    assert kernel.key.config.dtype_q == "bfloat16"
    assert (params.q, params.k, params.v) == (q.data_ptr(), k.data_ptr(), v.data_ptr())
    assert (params.o, params.lse) == (o.data_ptr(), lse.data_ptr())
    assert (params.q_stride_n, params.q_stride_h) == (4 * 192, 192)
    expected = (128, 64) if layout == "NHD" else (64, 9 * 64)
    assert (params.k_stride_n, params.k_stride_h) == (params.v_stride_n, params.v_stride_h) == expected
    assert (params.o_stride_n, params.o_stride_h) == (4 * 64, 64)
    assert (params.qo_len, params.kv_len, params.num_qo_heads, params.num_kv_heads) == (5, 9, 4, 2)
    assert params.sm_scale_log2 == pytest.approx(0.25 * math.log2(math.e))
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == ((5, 4, 64), torch.bfloat16, (5, 4), torch.float32)
    assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == {
        name: getattr(params, name) for name in ("q", "k", "v", "o", "lse")
    }


def test_default_scale_and_no_lse(recorder):
    prefill.single_prefill_with_kv_cache(*make(head_dim=128))
    ((_, params, tensors),) = recorder.launches
    assert params.sm_scale_log2 == pytest.approx(math.log2(math.e) / math.sqrt(128))
    assert params.lse is None
    assert len(tensors) == 4


def test_no_query_tokens_launches_nothing(recorder):
    o, lse = prefill.single_prefill_with_kv_cache_return_lse(*make(qo_len=0))
    assert (o.shape, lse.shape) == ((0, 4, 64), (0, 4))
    assert recorder.launches == []


def test_strides_of_dimensions_of_size_one_do_not_matter(recorder):
    q, k, v = make(qo_len=1, kv_len=1, num_qo_heads=1, num_kv_heads=1)
    odd = q.as_strided(q.shape, (3, 5, 1))
    prefill.single_prefill_with_kv_cache(odd, k.as_strided(k.shape, (2**24 + 1, 7, 1)), v)
    assert len(recorder.launches) == 1


def test_broadcast_heads_are_read_in_place(recorder):
    q, k, v = make(num_kv_heads=1)
    prefill.single_prefill_with_kv_cache(q, k.expand(9, 4, 64), v.expand(9, 4, 64))
    ((kernel, params, _),) = recorder.launches
    assert params.k_stride_h == 0
    assert kernel.key.config.group_size == 1


def test_memo_is_used_for_other_lengths(recorder, monkeypatch):
    prefill.single_prefill_with_kv_cache(*make())
    monkeypatch.setattr(prefill, "_validate", lambda *args: pytest.fail("validated again"))
    prefill.single_prefill_with_kv_cache(*make(qo_len=7, kv_len=300))
    assert [launch[1].kv_len for launch in recorder.launches] == [9, 300]


def test_numbers_of_numpy_are_numbers():
    assert validation.check_scale("sm_scale", numpy.float32(0.5)) == 0.5
