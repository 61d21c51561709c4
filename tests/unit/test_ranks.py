"""A sample of tests/stress.py: processes that want the same kernels at once, some killed while they compile."""

import itertools

import pytest

from flashinfer_jit.jit.machine import max_jobs
from support.ranks import run_round


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_processes_harm_no_other(tmp_path, seed) -> None:
    run_round(tmp_path, processes=6, kernels=5, kills=2, seed=seed, timeout=120).check(6, 5)


def test_all_processes_together_run_no_more_compilers_than_the_machine_bears(tmp_path, monkeypatch) -> None:
    """Four processes with one slot: the compiler's own record of starts and ends never overlaps."""
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("FAKE_HIPCC_SPANS", str(tmp_path / "spans"))
    assert max_jobs() == 1
    run_round(tmp_path, processes=4, kernels=4, kills=0, seed=1, timeout=120).check(4, 4)
    spans = sorted(tuple(map(float, line.split())) for line in (tmp_path / "spans").read_text().splitlines())
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
