"""A program with a custom variant whose imports and calls are those of programs that were written for FlashInfer."""

import subprocess
import sys

from support.variants import DUMP

PROGRAM = """
import functools, sys, torch
import flashinfer_jit
flashinfer_jit.install_as_flashinfer()
import flashinfer
from flashinfer.decode import single_decode_with_kv_cache_with_jit_module
from flashinfer.jit import gen_customize_batch_decode_module, gen_customize_batch_prefill_module
from flashinfer.jit.attention import gen_customize_single_decode_module, gen_customize_single_prefill_module
from flashinfer.prefill import single_prefill_with_kv_cache_with_jit_module
from flashinfer.utils import MaskMode, get_compute_capability, is_sm90a_supported

device = flashinfer.device()
assert get_compute_capability(device) in ((9, 4), (9, 5)) and not is_sm90a_supported(device)
f16 = torch.float16
texts = (["output_logits"], ["float"], ["sm_scale"], ["double"], "DumpLogits", sys.argv[1])
module = gen_customize_single_prefill_module("fa2", "uri", f16, f16, f16, 64, 64, *texts).build_and_load()
attend = functools.partial(single_prefill_with_kv_cache_with_jit_module, module)
q, k, v = torch.randn(3, 4, 40, 64).to(f16).transpose(1, 2)
k, v = k[:, :2], v[:, :2]
logits = torch.empty(4, 40, 40)
attend(q, k, v, logits, 0.125, mask_mode=MaskMode.NON_CAUSAL.value)
expected = torch.einsum("qhd,khd->hqk", q.float(), k.float().repeat_interleave(2, 1)) * 0.125
torch.testing.assert_close(logits, expected, rtol=2e-2, atol=2e-2)
try:
    attend(q, k, v, logits, 0.125, mask_mode=MaskMode.MULTIITEMSCORING.value)
except ValueError as error:
    assert "mask_mode=3" in str(error)
else:
    raise AssertionError("multi-item scoring was accepted")
"""


def test_a_program_for_flashinfer():
    done = subprocess.run([sys.executable, "-c", PROGRAM, DUMP], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
