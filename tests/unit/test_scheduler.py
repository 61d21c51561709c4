"""The plan of a batch of prefills: every visible pair of row and key exactly once, nothing else, evenly."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinfer_jit.scheduler import MIN_CHUNK_KEYS, plan_prefill

LENGTHS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 700)), min_size=0, max_size=6)
OPTIONS = st.fixed_dictionaries(
    {
        "group_size": st.sampled_from([1, 3, 4, 8, 71]),
        "num_kv_heads": st.sampled_from([1, 8]),
        "block_q": st.sampled_from([32, 64, 128]),
        "block_kv": st.sampled_from([32, 64, 128]),
        "causal": st.booleans(),
        "window_left": st.sampled_from([-1, 0, 100]),
        "fixed_split_size": st.sampled_from([None, 1, 100, 256]),
        "disable_split_kv": st.booleans(),
        "num_cus": st.sampled_from([4, 304]),
    }
)


def visible(qo_len, kv_len, causal, window_left):
    own_key = np.arange(qo_len)[:, None] + kv_len - qo_len
    keys = np.arange(kv_len)
    seen = np.ones((qo_len, kv_len), dtype=bool)
    if causal:
        seen &= keys <= own_key
    if window_left >= 0:
        seen &= keys >= own_key - window_left
    return seen


def rows_of(item, qo_len, group_size, block_q):
    """Return the packed rows of an item, as partials/work_items.hip.j2 finds them."""
    end = item[1] + block_q // group_size * group_size
    if group_size > block_q:
        end = min(item[1] + block_q, (item[1] // group_size + 1) * group_size)
    return np.arange(item[1], min(end, qo_len * group_size))


@settings(max_examples=150, deadline=None)
@given(LENGTHS, OPTIONS)
def test_every_visible_pair_is_covered_once(lengths, options):
    qo_lens, kv_lens = [q for q, _ in lengths], [k for _, k in lengths]
    if options["disable_split_kv"]:
        options["fixed_split_size"] = None
    group_size, block_q, block_kv = options["group_size"], options["block_q"], options["block_kv"]
    plan = plan_prefill(qo_lens, kv_lens, **options)
    assert plan.num_work_items == len(plan.work_items)
    covered = [np.zeros((q * group_size, k), dtype=int) for q, k in lengths]
    rows_seen = [np.zeros(q * group_size, dtype=int) for q, _ in lengths]
    merged = {row: (plan.merge_indptr[i], plan.merge_indptr[i + 1]) for i, row in enumerate(plan.merge_rows)}
    partials = np.zeros((plan.num_partial_rows, group_size), dtype=int)
    first_output_row = np.cumsum([0, *qo_lens])
    for item in plan.work_items:
        request, _, begin, end, partial, stride = item[:6]
        rows = rows_of(item, qo_lens[request], group_size, block_q)
        assert len(rows) > 0
        seen = np.repeat(visible(*lengths[request], options["causal"], options["window_left"]), group_size, 0)
        # No tile of keys that no row sees, except one that says so for rows that see none.
        for tile in range(begin, end, block_kv):
            assert tile % block_kv == 0
            assert seen[rows, tile : min(tile + block_kv, end)].any()
        if begin == end:
            assert not seen[rows].any()
        covered[request][rows, begin:end] += 1
        if partial < 0:
            rows_seen[request][rows] += 1
            continue
        for row in rows:
            token = row // group_size
            index = partial + (token - item[1] // group_size) * stride
            first, last = merged[first_output_row[request] + token]
            assert first <= index < last and last - first == stride > 1
            partials[index, row % group_size] += 1
            rows_seen[request][row] = 1
    for (q, k), count, seen_rows in zip(lengths, covered, rows_seen, strict=True):
        seen = np.repeat(visible(q, k, options["causal"], options["window_left"]), group_size, 0)
        assert (count[seen] == 1).all()
        assert (count <= 1).all()
        assert (seen_rows == 1).all()
    # Each partial row is written once for each head, and read by one merged row.
    assert (partials == 1).all()
    assert plan.merge_indptr[0] == 0 and plan.merge_indptr[-1] == plan.num_partial_rows
    if options["disable_split_kv"]:
        assert plan.num_partial_rows == 0


@settings(max_examples=50, deadline=None)
@given(
    LENGTHS,
    st.integers(0, 90),
    st.integers(0, 700),
    st.sampled_from([{"fixed_split_size": 100}, {"disable_split_kv": True}]),
)
def test_parts_of_a_request_do_not_depend_on_the_others(others, qo_len, kv_len, options):
    shape = {"group_size": 4, "num_kv_heads": 2, "block_q": 64, "block_kv": 32, "num_cus": 304, "causal": True}
    alone = plan_prefill([qo_len], [kv_len], **shape, **options).work_items
    together = plan_prefill([q for q, _ in others] + [qo_len], [k for _, k in others] + [kv_len], **shape, **options)
    own = together.work_items[together.work_items[:, 0] == len(others)]

    def key(items):
        return sorted(tuple(item[[1, 2, 3, 5]]) for item in items)

    assert key(alone) == key(own)


SHAPE = {"group_size": 8, "num_kv_heads": 1, "block_q": 128, "block_kv": 64, "num_cus": 304, "causal": True}


def test_the_heaviest_come_first_and_a_long_request_is_split():
    plan = plan_prefill([1] * 40 + [16], [500] * 40 + [100_000], **SHAPE)
    keys = plan.work_items[:, 3] - plan.work_items[:, 2]
    tiles = -(-keys // SHAPE["block_kv"])
    assert (np.diff(tiles) <= 1).all()
    assert keys.max() <= 2 * max(MIN_CHUNK_KEYS, keys.sum() / (2 * 304))
    assert keys.sum() == 40 * 500 + 100_000


@pytest.mark.parametrize("causal", [True, False])
def test_work_is_even_over_compute_units(causal):
    random = np.random.default_rng(0)
    qo_lens = random.integers(1, 2000, 64)
    kv_lens = qo_lens + random.integers(0, 30_000, 64)
    plan = plan_prefill(qo_lens, kv_lens, **{**SHAPE, "causal": causal})
    # Compute units take the next item when they are free, as the hardware's dispatcher does.
    load = np.zeros(304)
    for begin, end in plan.work_items[:, 2:4]:
        load[load.argmin()] += end - begin
    assert load.max() <= 1.05 * load.mean()


def test_few_tiles_fill_the_gpu():
    plan = plan_prefill([128], [65_536], **{**SHAPE, "group_size": 1})
    assert 304 * 0.8 <= plan.num_work_items <= 2 * 304


def test_limits_are_kept_or_refused():
    plan = plan_prefill([16], [100_000], **SHAPE, max_partial_rows=100)
    assert plan.num_partial_rows <= 100
    with pytest.raises(ValueError, match="fixed_split_size=64 .* room for .* 100"):
        plan_prefill([16], [100_000], **SHAPE, max_partial_rows=100, fixed_split_size=64)
    plan = plan_prefill([16], [100_000], **SHAPE, graph_slots=10)
    assert plan.work_items.shape == (10, 8) and plan.num_work_items <= 10
    with pytest.raises(ValueError, match="11 tiles .* captured for 10"):
        plan_prefill([11 * 16], [11 * 16], **SHAPE, graph_slots=10)


def test_nothing_to_do():
    for lengths in ([], [0, 0]):
        plan = plan_prefill(lengths, lengths, **SHAPE)
        assert plan.work_items.shape == (0, 8) and plan.num_partial_rows == 0 and len(plan.merge_indptr) == 1


def test_planning_takes_time_in_proportion_to_the_tiles():
    random = np.random.default_rng(0)

    def seconds(num_requests):
        qo_lens = random.integers(1, 300, num_requests)
        kv_lens = qo_lens + 1000
        times = []
        for _ in range(7):
            start = time.perf_counter()
            plan_prefill(qo_lens, kv_lens, **SHAPE)
            times.append(time.perf_counter() - start)
        return min(times)

    # Generous: the machine may be busy. A loop over requests in Python would take a hundred times as long.
    assert seconds(4096) < 0.05
