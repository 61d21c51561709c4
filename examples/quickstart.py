"""Compile attention kernels, run them, compare with float64.

On a machine with an AMD Instinct GPU the kernels run there. Elsewhere their gfx942 (MI300X) and gfx950 (MI355X) machine
code runs on the emulated GPU; its times say nothing about a real one.

    python examples/quickstart.py                  compile, run, compare
    python examples/quickstart.py --compile-only   compile and report registers; needs no device
"""

import argparse
import contextlib
import sys
import time

import torch

import flashinfer_jit
from flashinfer_jit import command_line, emulator
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.tables import format_table
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference

# dtype, head_dim, num_qo_heads, num_kv_heads, causal: as in SmolLM2, Llama 3, Qwen2 and a plain one.
CASES = (
    (torch.float16, 64, 9, 3, True),
    (torch.float16, 128, 8, 2, False),
    (torch.bfloat16, 64, 7, 1, False),
    (torch.bfloat16, 128, 8, 2, True),
)
QO_LEN, KV_LEN = 100, 300


def config_of(dtype, head_dim, num_qo_heads, num_kv_heads, causal):
    name = str(dtype).removeprefix("torch.")
    return AttentionConfig(
        phase="prefill",
        dtype_q=name,
        dtype_kv=name,
        dtype_o=name,
        head_dim_qk=head_dim,
        head_dim_vo=head_dim,
        group_size=num_qo_heads // num_kv_heads,
        mask_mode="causal" if causal else "none",
    )


def run(case):
    """Return the seconds of a call and the worst errors of o and lse, in units of what is allowed."""
    dtype, head_dim, num_qo_heads, num_kv_heads, causal = case
    torch.manual_seed(0)
    device = flashinfer_jit.device()
    q = torch.randn(QO_LEN, num_qo_heads, head_dim, dtype=dtype, device=device)
    k = torch.randn(KV_LEN, num_kv_heads, head_dim, dtype=dtype, device=device)
    v = torch.randn(KV_LEN, num_kv_heads, head_dim, dtype=dtype, device=device)

    o, lse = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=causal, return_lse=True)
    start = time.perf_counter()
    flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=causal)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start

    o_reference, lse_reference = attention_reference(q.cpu(), k.cpu(), v.cpu(), causal=causal)
    error = (o.cpu().double() - o_reference).abs().max().item()
    worst = max(TOLERANCES[dtype].worst(o.cpu(), o_reference), LSE_TOLERANCE.worst(lse.cpu(), lse_reference))
    return seconds, error, worst


def main():
    parser = command_line.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile-only", action="store_true", help="compile and report registers; needs no device")
    options = parser.parse_args()

    runtime = None if options.compile_only else flashinfer_jit.runtime.current()
    on_gpu = runtime is not None and runtime.kind == "hip"
    archs = [runtime.arch(runtime.device())] if on_gpu else list(ARCHS.values())
    header = ["kernel", "arch", "compile s", "VGPR", "AGPR", "LDS B", "spills"]
    header += [] if options.compile_only else ["run ms", "max error", "of allowed"]
    rows, failures = [], 0
    for arch in archs:
        for case in CASES:
            config = config_of(*case)
            tile = tiling.candidates(config, arch)[-1]
            key = kernels.KernelKey(config, tile, arch)
            meta = kernels.build_kernel(key).meta
            used = meta["resources"]
            spills = used["vgpr_spills"] + used["sgpr_spills"]
            failures += spills > 0
            row = [
                key.slug(),
                arch.name,
                f"{meta['compile_seconds']:.2f}",
                used["vgpr"],
                used["agpr"],
                used["lds_bytes"],
                spills,
            ]
            if not options.compile_only:
                with contextlib.nullcontext() if on_gpu else emulator.use_arch(arch.name):
                    seconds, error, worst = run(case)
                failures += worst > 1
                row += [f"{1e3 * seconds:.1f}", f"{error:.1e}", f"{worst:.2f}" + (" FAILED" if worst > 1 else "")]
            rows.append(row)

    print(format_table(header, rows))
    if runtime is not None:
        where = "the GPU" if on_gpu else "the emulated GPU: its times say nothing about a real one"
        print(f"\n{QO_LEN} query tokens, {KV_LEN} keys, run on {where}.")
        print("max error: against float64; of allowed: the worst error of output and log-sum-exp over the tolerance.")
    if failures:
        print(f"{failures} results are out of tolerance or kernels that spill registers", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
