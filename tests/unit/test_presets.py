"""What a preset warms is what serving its model asks for: calls of its own sizes on the host, under freeze()."""

import dataclasses
import types
from collections.abc import Callable, Iterator

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator, presets
from flashinfer_jit.errors import MissingKernelError
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.loader import Kernel
from flashinfer_jit.jit.params import table_of
from flashinfer_jit.plan import keys_of
from flashinfer_jit.runtime.emulated import EmulatedRuntime

Warm = Callable[[str, str], set[KernelKey]]


@pytest.fixture
def warm(monkeypatch) -> Iterator[Warm]:
    """Have exactly a preset's kernels in the cache; they load as kernels whose launch does nothing."""
    cached: set[KernelKey] = set()
    loaded: set[KernelKey] = set()

    def load(entry: object, key: KernelKey, runtime: object) -> Kernel:
        loaded.add(key)
        struct = table_of(key.config).struct
        return Kernel(key, key.kernel_name, lambda *_: 0, struct, {}, entry, None, runtime)

    monkeypatch.setattr(kernels, "_source", lambda key: ("", ""))
    monkeypatch.setattr(kernels, "_find", lambda key, _: types.SimpleNamespace(key=key) if key in cached else None)
    monkeypatch.setattr(kernels.cache, "mark_used", lambda entry: None)
    monkeypatch.setattr(kernels, "load", load)
    monkeypatch.setattr(EmulatedRuntime, "launch", lambda *_: None)
    kernels.forget()

    def preset(name: str, arch: str) -> set[KernelKey]:
        cached.clear()
        cached.update(keys_of(presets.preset_configs(name, "bfloat16")[0], [ARCHS[arch]]))
        return loaded

    with flashinfer_jit.freeze("error"):
        yield preset
    kernels.forget()


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


class Server:
    """The attention of one model as an engine calls it; tensors have the right shapes and no content."""

    def __init__(self, model: presets.Model) -> None:
        self.model = model
        self.heads = (model.num_qo_heads, model.num_kv_heads)
        self.options = {"logits_soft_cap": 50.0 if model.has_soft_cap else None}
        self.dtypes = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}
        self.windows = [model.window if has_window else -1 for has_window in model.windows]
        self.sinks = [{}, {"sinks": torch.empty(model.num_qo_heads)}] if model.has_sinks else [{}]

    def q(self, num_tokens: int) -> torch.Tensor:
        return torch.empty(num_tokens, self.model.num_qo_heads, self.model.head_dim_qk, dtype=torch.bfloat16)

    def kv(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        heads, dims = self.model.num_kv_heads, (self.model.head_dim_qk, self.model.head_dim_vo)
        return tuple(torch.empty(num_tokens, heads, dim, dtype=torch.bfloat16) for dim in dims)

    def workspace(self) -> torch.Tensor:
        return torch.empty(128 << 20, dtype=torch.uint8)

    def cache(self, page_size: int) -> torch.Tensor:
        # All requests share one page: nothing is read.
        return torch.empty(1, 2, page_size, self.model.num_kv_heads, self.model.head_dim_qk, dtype=torch.bfloat16)

    def table(self, kv_lens: list[int], page_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pages = [-(-n // page_size) for n in kv_lens]
        indptr = ints(0, *torch.tensor(pages).cumsum(0).tolist())
        last = ints(*((n - 1) % page_size + 1 for n in kv_lens))
        return indptr, torch.zeros(sum(pages), dtype=torch.int32), last

    def single(self, qo_len: int, kv_len: int) -> None:
        for window in self.windows:
            arguments = {**self.options, "window_left": window}
            flashinfer_jit.single_prefill_with_kv_cache(self.q(qo_len), *self.kv(kv_len), causal=True, **arguments)
            if not self.model.is_latent:
                flashinfer_jit.single_decode_with_kv_cache(self.q(1)[0], *self.kv(kv_len), **arguments)
        if self.model.has_full_layers:
            flashinfer_jit.single_prefill_with_kv_cache(self.q(qo_len), *self.kv(kv_len), **self.options)

    def ragged(self, qo_lens: list[int], causal: bool = True) -> None:
        indptr = ints(0, *torch.tensor(qo_lens).cumsum(0).tolist())
        wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(self.workspace())
        dims = (self.model.head_dim_qk, self.model.head_dim_vo)
        for window in self.windows if causal else [-1]:
            options = {**self.options, **self.dtypes, "window_left": window, "causal": causal}
            wrapper.plan(indptr, indptr, *self.heads, *dims, **options)
            for sinks in self.sinks if causal else [{}]:
                wrapper.run(self.q(sum(qo_lens)), *self.kv(sum(qo_lens)), **sinks)

    def paged(self, qo_lens: list[int], kv_lens: list[int], page_size: int) -> None:
        indptr = ints(0, *torch.tensor(qo_lens).cumsum(0).tolist())
        wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(self.workspace())
        sizes = (*self.table(kv_lens, page_size), *self.heads, self.model.head_dim_qk, page_size)
        for window in self.windows:
            wrapper.plan(indptr, *sizes, **self.options, **self.dtypes, window_left=window, causal=True)
            for sinks in self.sinks:
                wrapper.run(self.q(sum(qo_lens)), self.cache(page_size), **sinks)

    def decode(self, kv_lens: list[int], page_size: int) -> None:
        wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(self.workspace())
        sizes = (*self.table(kv_lens, page_size), *self.heads, self.model.head_dim_qk, page_size)
        for window in self.windows:
            wrapper.plan(*sizes, **self.options, **self.dtypes, window_left=window)
            for sinks in self.sinks:
                wrapper.run(self.q(len(kv_lens)), self.cache(page_size), **sinks)

    def rotate(self, num_tokens: int) -> None:
        q, (k, _), place = self.q(num_tokens), self.kv(num_tokens), torch.arange(num_tokens)
        flashinfer_jit.apply_rope_pos_ids_inplace(q, k, place, rotary_dim=32)
        table = torch.empty(num_tokens, 32)
        flashinfer_jit.apply_rope_with_cos_sin_cache_inplace(place, q.flatten(1), k.flatten(1), q.shape[2], table)

    def append(self, qo_lens: list[int], kv_lens: list[int], page_size: int) -> None:
        new, table = sum(qo_lens), self.table(kv_lens, page_size)
        starts = ints(0, *torch.tensor(qo_lens).cumsum(0).tolist())
        flashinfer_jit.get_batch_indices_positions(starts, ints(*kv_lens), new)
        places = torch.zeros(new, dtype=torch.int32), torch.zeros(new, dtype=torch.int32)
        indptr, indices, last = table
        flashinfer_jit.append_paged_kv_cache(*self.kv(new), *places, self.cache(page_size), indices, indptr, last)

    def append_latent(self, qo_lens: list[int], kv_lens: list[int], page_size: int) -> None:
        new, (indptr, indices, last) = sum(qo_lens), self.table(kv_lens, page_size)
        starts = ints(0, *torch.tensor(qo_lens).cumsum(0).tolist())
        flashinfer_jit.get_batch_indices_positions(starts, ints(*kv_lens), new)
        places = torch.zeros(new, dtype=torch.int32), torch.zeros(new, dtype=torch.int32)
        tokens = (torch.empty(new, dim, dtype=torch.bfloat16) for dim in presets.LATENT_DIMS)
        caches = (torch.empty(1, page_size, dim, dtype=torch.bfloat16) for dim in presets.LATENT_DIMS)
        flashinfer_jit.append_paged_mla_kv_cache(*tokens, *places, *caches, indices, indptr, last)

    def cascade(self, qo_lens: list[int], prefix: int, kv_lens: list[int], page_size: int) -> None:
        total = sum(qo_lens)
        wrapper = flashinfer_jit.MultiLevelCascadeAttentionWrapper(2, self.workspace())
        levels = [self.table([prefix], page_size), self.table(kv_lens, page_size)]
        starts = [ints(0, total), ints(0, *torch.tensor(qo_lens).cumsum(0).tolist())]
        tables = [list(part) for part in zip(*levels, strict=True)]
        # Of decoding, every token is the last of its request: no mask.
        for causal in (True, False):
            sizes = (*self.heads, self.model.head_dim_qk, page_size)
            wrapper.plan(starts, *tables, *sizes, causal=causal, **self.options, **self.dtypes)
            wrapper.run(self.q(total), self.cache(page_size))

    def serve(self) -> None:
        """Long and short prompts, alone and together, chunks of prompts, then tokens for many requests."""
        for qo_len, kv_len in ((1, 1), (5, 300), (700, 700), (4096, 8192)):
            self.single(qo_len, kv_len)
        self.rotate(9)
        for qo_lens in ([1], [3, 1], [512, 17, 64], [4096, 4096]):
            self.ragged(qo_lens)
            if self.model.is_latent:
                self.ragged(qo_lens, causal=False)
        if self.model.is_latent:
            state = (self.q(8)[:, :, : self.model.head_dim_vo].contiguous(), torch.empty(8, self.heads[0]))
            flashinfer_jit.merge_state(*state, *state)
            self.append_latent([512, 17, 64], [600, 17, 9000], 16)
            return
        for page_size in (1, 16, 64, 256):
            self.append([512, 17, 64], [600, 17, 9000], page_size)
            for qo_lens, kv_lens in (([1], [1]), ([512, 17, 64], [600, 17, 9000]), ([4096, 2048], [4096, 60_000])):
                self.paged(qo_lens, kv_lens, page_size)
            for kv_lens in ([1], [100_000], [7, 800, 3000], [2000] * 256):
                self.decode(kv_lens, page_size)
            # Windows count positions across levels, which a cascade cannot.
            if self.model.has_full_layers:
                self.cascade([1] * 64, 2048, [100] * 64, page_size)
                self.cascade([300, 20], 500, [300, 50], page_size)


@pytest.mark.parametrize("name", presets.MODELS)
def test_serving_a_warmed_model_compiles_nothing(name, warm) -> None:
    model = presets.MODELS[name]
    # One GPU with all heads, and one of as many as there are KV heads: other tiles, other splits.
    shard = dataclasses.replace(model, num_qo_heads=model.num_qo_heads // model.num_kv_heads, num_kv_heads=1)
    for arch, heads in zip(ARCHS, (model, shard), strict=True):
        with emulator.use_arch(arch):
            used = warm(name, arch)
            Server(heads).serve()
            assert len(used) >= 8 and {key.arch.name for key in used} == {arch}
            used.clear()


@pytest.mark.parametrize("name", ["llama-3-8b", "gpt-oss-20b", "gemma-2-9b", "deepseek-v3"])
def test_no_kernel_of_a_preset_is_there_in_vain(name, warm) -> None:
    """Every configuration is asked for by the calls above: presets do not grow without anybody noticing."""
    with emulator.use_arch("gfx942"):
        used = warm(name, "gfx942")
        model = presets.MODELS[name]
        Server(model).serve()
        Server(
            dataclasses.replace(model, num_qo_heads=model.num_qo_heads // model.num_kv_heads, num_kv_heads=1)
        ).serve()
    asked = {key.config for key in used}
    assert {config.slug() for config in presets.preset_configs(name, "bfloat16")[0] if config not in asked} == set()


def test_what_is_not_warm_is_an_error_with_the_command(warm) -> None:
    model = presets.MODELS["llama-3-8b"]
    warm("llama-3-8b", "gfx942")
    q, (k, v) = Server(model).q(4), Server(model).kv(4)
    with (
        emulator.use_arch("gfx942"),
        pytest.raises(MissingKernelError, match=r"freeze\(\) is in force. Run: python -m flashinfer_jit.warmup --key"),
    ):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, custom_mask=torch.ones(4, 4, dtype=torch.bool))


def test_a_cache_of_fp8_has_its_own_kernels_and_ragged_keys_stay() -> None:
    plain, narrow = (presets.preset_configs("llama-3-8b", "bfloat16", kv)[0] for kv in ("auto", "float8_e4m3fnuz"))
    changed = {config.slug() for config in set(narrow) - set(plain)}
    assert changed and all("e4m3fnuz" in slug for slug in changed)
    assert {config.kv_source for config in narrow if getattr(config, "dtype_kv", "") == "bfloat16"} == {
        "contiguous",
        "ragged",
    }
    assert all(config.dtype_kv == "float8_e4m3fnuz" for config in narrow if "page" in getattr(config, "kv_source", ""))


def test_every_model_says_where_its_numbers_were_read() -> None:
    for name, model in presets.MODELS.items():
        assert model.checked.count("/") >= 1, name
        assert model.window is None or 0 < model.window < 8192
        assert model.has_full_layers or model.window is not None
