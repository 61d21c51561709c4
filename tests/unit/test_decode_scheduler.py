"""The plan of a batch decode: every key of every request exactly once, in parts that are even and merged right."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinfer_jit.scheduler import CHUNK_GRANULE, MIN_CHUNK_KEYS, plan_decode

LENGTHS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9000)), max_size=12)
OPTIONS = st.fixed_dictionaries(
    {
        "qo_len": st.sampled_from([1, 3]),
        "max_work_items": st.sampled_from([1, 7, 304]),
        "num_units": st.sampled_from([None, 0.5, 9.5, 38.0]),
        "max_partial_rows": st.sampled_from([0, 20, 100_000]),
        "pad_work_items": st.sampled_from([0, 400]),
        "pad_merge_rows": st.sampled_from([0, 50]),
    }
)


def arrays(lengths):
    begin = np.array([first * 16 for first, _ in lengths], dtype=np.int64)
    return begin, begin + np.array([keys for _, keys in lengths], dtype=np.int64)


def check(plan, begin, end, qo_len):
    """Raise AssertionError unless each key is in one item, and each partial row is written and merged once."""
    merged = {int(row): range(*plan.merge_indptr[i : i + 2]) for i, row in enumerate(plan.merge_rows) if row >= 0}
    written = np.zeros(plan.num_partial_rows, dtype=int)
    covered = [np.zeros(int(e), dtype=int) for e in end]
    seen = np.zeros(len(end), dtype=int)
    for request, first, last, row, stride, *unused in plan.work_items:
        assert unused == [0, 0, 0]
        if last == -1:
            assert row == -1
            continue
        assert first == begin[request] or (first - begin[request]) % CHUNK_GRANULE == 0
        covered[request][first:last] += 1
        seen[request] += 1
        if row < 0:
            assert (first, last) == (begin[request], end[request])
            assert all(request * qo_len + token not in merged for token in range(qo_len))
            continue
        for token in range(qo_len):
            written[row + token * stride] += 1
            assert row + token * stride in merged[request * qo_len + token]
    assert all((keys[int(b) :] == 1).all() and not keys[: int(b)].any() for b, keys in zip(begin, covered, strict=True))
    assert (seen >= 1).all()
    assert (written == 1).all() and sum(map(len, merged.values())) == len(written)
    assert plan.is_split == bool(merged)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, OPTIONS)
def test_every_key_is_covered_once(lengths, options):
    begin, end = arrays(lengths)
    plan = plan_decode(begin, end, **options)
    assert plan.num_partial_rows <= options["max_partial_rows"]
    # A captured graph's lists keep their lengths: the padding is for as many as there can be.
    assert len(plan.work_items) == options["pad_work_items"] or not options["pad_work_items"]
    assert len(plan.merge_rows) >= options["pad_merge_rows"]
    check(plan, begin, end, options["qo_len"])


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(0, 20_000), st.sampled_from([{"fixed_chunk": 192}, {"batch_invariant": True}]))
def test_parts_of_a_request_do_not_depend_on_the_others(others, keys, options):
    limits = {"qo_len": 1, "max_work_items": 9, "max_partial_rows": 100_000, **options}
    alone = plan_decode(*arrays([(0, keys)]), **limits)
    begin, end = arrays([*others, (0, keys)])
    together = plan_decode(begin, end, **limits)
    check(together, begin, end, 1)
    own = together.work_items[together.work_items[:, 0] == len(others)]

    def parts(items):
        return sorted(map(tuple, items[:, 1:3]))

    assert parts(alone.work_items) == parts(own)


def test_parts_fill_the_gpu_evenly():
    random = np.random.default_rng(0)
    end = random.integers(1, 20_000, 64)
    plan = plan_decode(np.zeros_like(end), end, qo_len=1, max_work_items=304, max_partial_rows=10**6)
    keys = plan.work_items[:, 2] - plan.work_items[:, 1]
    assert keys.max() <= max(MIN_CHUNK_KEYS, -(-end.sum() // 304) + CHUNK_GRANULE)
    assert len(keys) <= 304 + 64
    # More than one round: the longest first.
    assert (np.diff(keys // CHUNK_GRANULE) <= 0).all()


@pytest.mark.parametrize("num_requests", [1, 3, 10, 40, 64, 100, 150])
def test_compute_units_finish_together(num_requests):
    """Requests of one length, which cannot make up for one another."""
    num_units, num_keys = 38, 5000
    lengths = np.full(num_requests, num_keys)
    plan = plan_decode(
        np.zeros_like(lengths), lengths, qo_len=1, max_work_items=152, max_partial_rows=10**6, num_units=num_units
    )
    # Units take the next item when they are free, as the hardware's dispatcher does.
    load = np.zeros(num_units)
    for begin, end in plan.work_items[:, 1:3]:
        load[load.argmin()] += end - begin
    shortest = max(MIN_CHUNK_KEYS, num_requests * num_keys / num_units)
    assert load.max() <= 1.2 * shortest
    # And it is not for parts that nobody needs: each has to be merged.
    assert len(plan.work_items) <= 8 * num_units + num_requests


def test_what_is_fixed_is_kept_or_refused():
    limits = {"qo_len": 2, "max_work_items": 9, "max_partial_rows": 19}
    with pytest.raises(ValueError, match="leaves 20 partial rows, and the workspace has room for 19"):
        plan_decode(np.array([0]), np.array([1000]), fixed_chunk=100, **limits)
    assert plan_decode(np.array([0]), np.array([900]), fixed_chunk=100, **limits).num_partial_rows == 18


@pytest.mark.parametrize("options", [{}, {"num_units": 38.0}, {"fixed_chunk": 512}, {"batch_invariant": True}], ids=str)
def test_planning_takes_no_loop_over_requests(options):
    end = np.random.default_rng(0).integers(1, 4096, 4096)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        plan_decode(np.zeros_like(end), end, qo_len=1, max_work_items=152, max_partial_rows=10**6, **options)
        times.append(time.perf_counter() - start)
    # Generous, for machines are busy: it takes well below a millisecond.
    assert min(times) < 0.01
