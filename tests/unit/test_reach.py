"""How quick the quick paths are, in CPU time and the best of several, because test machines are busy."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from flashinfer_jit import presets, warmup
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.cache import LIBRARY, LOG, SOURCE, Cache
from flashinfer_jit.jit.compiler import EXPORTS
from flashinfer_jit.jit.toolchain import find_toolchain
from flashinfer_jit.plan import keys_of
from support import fake_elf

RUNS = 4


def cpu_seconds(argv: list[str]) -> float:
    """Return the CPU seconds of a program beyond those of starting Python, the best of several runs."""

    def best(words: list[str]) -> float:
        times = []
        for _ in range(RUNS):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
            subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    return best(argv) - best(["-c", "pass"])


def test_importing_takes_no_time() -> None:
    assert cpu_seconds(["-c", "import flashinfer_jit"]) <= 0.050


@pytest.mark.parametrize("program", [["flashinfer_jit", "--version"], ["flashinfer_jit.warmup", "--help"]])
def test_command_lines_start_at_once(program) -> None:
    assert cpu_seconds(["-m", *program]) <= 0.150


def test_warmup_of_200_kernels_that_are_there(hipcc, cache_dir, capsys) -> None:
    configs = [config for name in presets.MODELS for config in presets.preset_configs(name, "bfloat16")[0]]
    keys = keys_of(configs, list(ARCHS.values()))[:200]
    assert len(keys) == 200
    cache, toolchain = Cache(cache_dir), find_toolchain()
    resources = {"vgpr": 1, "vgpr_spills": 0, "sgpr_spills": 0}
    # As large as real ones.
    library = fake_elf.kernel_library("gfx942", "k", EXPORTS).ljust(70_000, b"\0")
    for key in keys:
        source, source_key = kernels._source(key)
        with cache.staging() as staged:
            for name, data in ((SOURCE, source.encode()), (LIBRARY, library), (LOG, b"")):
                (staged / name).write_bytes(data)
            cache.publish(staged, key, source_key, toolchain.id, {"key": key.to_dict(), "resources": resources})
    options = [word for key in keys for word in ("--key", key.canonical_json())]
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        assert warmup.main([*options, "--json", "--quiet"]) == 0
        times.append(time.process_time() - start)
        assert json.loads(capsys.readouterr().out)["cached"] == 200
    assert min(times) <= 1.0
