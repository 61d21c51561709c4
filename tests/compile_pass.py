"""Compile the kernels of the tests, several at a time, before any test waits for one: python tests/compile_pass.py.

Tests run without this pass too; it moves compilations out of their time, and sees that no kernel of any test spills.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401  (says where the tests' cache is)
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.machine import max_jobs
from flashinfer_jit.warmup import compile_all

EMULATED = Path(__file__).resolve().parent / "emulated"
# Every file of tests that says which kernels it needs.
SUITES = [
    importlib.import_module(f"emulated.{path.stem}")
    for path in sorted(EMULATED.glob("test_*.py"))
    if "def kernel_keys(" in path.read_text()
]


def spills(resources: dict[str, int]) -> bool:
    """Return whether a kernel keeps registers in memory or in parts of others."""
    return any(resources[name] for name in ("vgpr_spills", "sgpr_spills", "scratch_bytes"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=sorted(ARCHS), help="for this GPU only")
    parser.add_argument("--jobs", type=int, default=max_jobs())
    options, _ = parser.parse_known_args()
    archs = [ARCHS[options.arch]] if options.arch else list(ARCHS.values())
    start = time.perf_counter()
    keys = [key for suite in SUITES for arch in archs for key in suite.kernel_keys(arch)]
    outcomes = list(compile_all(keys, options.jobs))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"{outcome.key}: {outcome.error}", file=sys.stderr)
    spilling = [outcome for outcome in outcomes if outcome.entry and spills(outcome.entry.meta["resources"])]
    for outcome in spilling:
        print(f"{outcome.key}: registers do not suffice: {outcome.entry.meta['resources']}", file=sys.stderr)
    compiled = sum(outcome.status == "compiled" for outcome in outcomes)
    print(f"{len(outcomes)} kernels, {compiled} of them compiled, in {time.perf_counter() - start:.1f} s")
    return 1 if failed or spilling else 0


if __name__ == "__main__":
    sys.exit(main())
