"""The text of rendered kernels, kept whole: a change of a template shows in review as a change of kernels.

After a deliberate change: PYTHONPATH=. python tests/golden/test_golden.py writes them anew.
"""

from pathlib import Path

import pytest

from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.tiling import candidates

FOLDER = Path(__file__).resolve().parent


def prefill(arch, tile, dtype, head_dim, **axes):
    values = {"dtype_q": dtype, "dtype_kv": dtype, "dtype_o": dtype, "head_dim_qk": head_dim, "head_dim_vo": head_dim}
    config = AttentionConfig(phase="prefill", **{**values, **axes})
    return KernelKey(config, candidates(config, ARCHS[arch])[tile], ARCHS[arch])


# Between them they have every branch of the templates.
KEYS = {
    f"{arch}-{name}": key
    for arch in ARCHS
    for name, key in {
        "prefill-main": prefill(arch, -1, "float16", 128, group_size=4, mask_mode="causal"),
        "prefill-key-waves": prefill(arch, 0, "bfloat16", 64, group_size=3),
        "prefill-masks": prefill(arch, -1, "bfloat16", 80, mask_mode="custom", has_window=True, dtype_o="float32"),
        "prefill-logits": prefill(arch, -1, "float16", 64, position_encoding="alibi", has_soft_cap=True),
        "prefill-rope": prefill(arch, -1, "bfloat16", 64, position_encoding="rope_llama", mask_mode="causal"),
        "prefill-fp8": prefill(arch, -1, "float16", 64, dtype_kv="float8_e4m3fn", mask_mode="causal"),
        "prefill-ragged": prefill(arch, -1, "float16", 64, kv_source="ragged", mask_mode="custom", has_sinks=True),
        "prefill-pages": prefill(arch, -1, "bfloat16", 128, kv_source="page_size_multiple", group_size=4),
        "prefill-page-any": prefill(
            arch, -1, "float16", 64, kv_source="page_size_any", dtype_kv="float8_e4m3fn", mask_mode="causal"
        ),
        "prefill-fp8-queries": prefill(arch, -1, "float16", 64, dtype_q="float8_e5m2", dtype_kv="float8_e4m3fnuz"),
        "prefill-fp8-fnuz": prefill(arch, -1, "bfloat16", 128, dtype_kv="float8_e5m2fnuz"),
    }.items()
}


@pytest.mark.parametrize("name", KEYS)
def test_rendered_text_is_as_kept(name):
    kept = (FOLDER / f"{name}.hip").read_text()
    assert render(KEYS[name]) == kept, (
        f"{name} changed: if this was meant, run PYTHONPATH=. python tests/golden/test_golden.py"
    )


@pytest.mark.parametrize("name", KEYS)
def test_kernels_keep_their_budget(name):
    from support.kernel_lines import kernel_lines  # only on pytest's path

    # Loading from pages takes its share.
    assert kernel_lines(render(KEYS[name])) <= (660 if "page" in KEYS[name].config.kv_source else 600)


def test_no_kept_kernel_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.hip")} == set(KEYS)


if __name__ == "__main__":
    for name, key in KEYS.items():
        (FOLDER / f"{name}.hip").write_text(render(key))
