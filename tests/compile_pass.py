"""Compile the kernels of the tests, several at a time, before any test waits for one: python tests/compile_pass.py.

Tests run without this pass too; it only moves compilations out of their time.
"""

import argparse
import concurrent.futures
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401  (says where the tests' cache is)
from emulated import test_prefill_kernel, test_single_prefill
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS

SUITES = (test_prefill_kernel, test_single_prefill)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=sorted(ARCHS), help="for this GPU only")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    archs = [ARCHS[options.arch]] if options.arch else list(ARCHS.values())
    keys = {key for suite in SUITES for arch in archs for key in suite.kernel_keys(arch)}
    start = time.perf_counter()
    compiled = []
    kernels.on_compile(compiled.append)
    # Each compilation is a process of its own: threads that wait for them are enough.
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(kernels.build_kernel, keys))
    print(f"{len(keys)} kernels, {len(compiled)} of them compiled, in {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
