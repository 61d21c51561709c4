"""How quick the quick paths are, in CPU time and the best of several, because test machines are busy."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from flashinfer_jit import bench, bench_warmup, presets, warmup
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


def test_bench_warmup_measures_what_the_goals_speak_of(hipcc, cache_dir, monkeypatch, capsys) -> None:
    # A compiler that takes no time, and few kernels: what is tested is whether the parts fit together.
    monkeypatch.setattr(bench_warmup, "CACHED_RUNS", 1)
    assert bench.main(["warmup", "--preset", "deepseek-v3", "--arch", "gfx942", "--jobs", "1", "--json"]) == 0
    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["kernels"] == len(keys_of(presets.preset_configs("deepseek-v3", "bfloat16")[0], [ARCHS["gfx942"]]))
    assert rows["one_job"] > 0 and rows["ratio"] == pytest.approx(rows["one_job"] / rows["jobs"])
    assert rows["cached"] > 0 and 0 < rows["entry"] < 120 and rows["spilling"] == 0
    assert not cache_dir.exists()
    monkeypatch.setenv("MAX_JOBS", "1")
    assert bench.main(["warmup", "--jobs", "2"]) == 2
    assert "--jobs 2 is not allowed: this machine's cores and memory, and MAX_JOBS, allow 1" in capsys.readouterr().err
