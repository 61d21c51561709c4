"""Page tables on the host and, where that is asked for, on a GPU: what is wrong is named before any launch."""

import numpy as np
import pytest
import torch

from flashinfer_jit import env, page_table
from flashinfer_jit.index_guard import TableGuard
from flashinfer_jit.page_table import HostTable, check_max_page, read


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


GOOD = {"indptr": int32(0, 2, 2, 5), "indices": int32(4, 1, 0, 9, 3, -7), "last_page_len": int32(7, 99, 16)}
BAD = [
    ({"indices": int32(4, 1, 0, -9, 3)}, r"indices must not be negative: indices\[3\]=-9"),
    ({"last_page_len": int32(7, 1, 17)}, r"last_page_len\[2\]=17 must be 1 to page_size=16, for request 2 has 3 pages"),
    ({"last_page_len": int32(0, 1, 16)}, r"last_page_len\[0\]=0"),
    ({"seq_lens": int32(23, 0, 47)}, "seq_lens does not agree"),
    ({"indptr_host": int32(0, 1, 2, 5)}, "indptr does not agree with its copy on the host"),
]


@pytest.fixture
def all_on_a_gpu(monkeypatch):
    """Let every tensor pass for one on a GPU."""
    monkeypatch.setattr(page_table, "is_on_host", lambda tensor: False)


def test_a_table_on_the_host_is_known_exactly():
    table = read(**GOOD, page_size=16)
    assert table.kv_end.tolist() == table.min_kv_len.tolist() == [23, 0, 48]
    assert table.max_page == 9
    assert read(int32(0), int32(), int32(), 16).max_page == -1
    check_max_page(table.max_page, 10)
    with pytest.raises(ValueError, match="indices names page 9, and paged_kv_cache has 9 pages"):
        check_max_page(table.max_page, 9)


@pytest.mark.parametrize(("change", "message"), BAD)
def test_wrong_tables_on_the_host_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        read(**{**GOOD, **change}, page_size=16)


@pytest.mark.usefixtures("all_on_a_gpu")
@pytest.mark.parametrize(("change", "message"), BAD)
def test_wrong_tables_on_a_gpu_are_named_when_asked_for(monkeypatch, change, message):
    bounds = read(**{**GOOD, **change}, page_size=16)
    assert bounds.max_page is None
    monkeypatch.setenv(env.CHECK.name, "indices")
    with pytest.raises(ValueError, match=message):
        read(**{**GOOD, **change}, page_size=16)


@pytest.mark.usefixtures("all_on_a_gpu")
def test_checking_does_not_change_the_plan(monkeypatch):
    unchecked = read(**GOOD, page_size=16)
    assert unchecked.kv_end.tolist() == [32, 0, 48] and unchecked.min_kv_len.tolist() == [17, 0, 33]
    monkeypatch.setenv(env.CHECK.name, "indices")
    checked = read(**GOOD, page_size=16)
    assert (checked.kv_end == unchecked.kv_end).all() and (checked.min_kv_len == unchecked.min_kv_len).all()
    assert checked.max_page == 9


class FakeRuntime:
    def __init__(self, kind, capturing=False):
        self.kind = kind
        self.capturing = capturing

    def is_capturing(self):
        return self.capturing


def guard(kind="emulator", has_window=False):
    tensors = (int32(0, 2, 5), int32(4, 1, 0, 9, 3), int32(7, 16))
    lengths = np.array([23, 48])
    planned = HostTable(tensors[0].numpy().copy(), lengths, lengths, 9)
    return TableGuard.make(FakeRuntime(kind), tensors, 16, planned, has_window)


@pytest.mark.parametrize(
    ("tensor", "index", "value", "has_window", "message"),
    [
        (1, 0, 10, False, "indices names page 10, and paged_kv_cache has 10 pages"),
        (1, 4, -1, False, "indices must not be negative"),
        (2, 0, 0, False, r"last_page_len\[0\]=0"),
        (2, 0, 8, False, "page table was changed after plan.* request 0 has 24 keys now, and the plan is for 23"),
        (2, 1, 15, True, "request 1 has 47 keys now, and the plan is for 48"),
        (0, 1, 6, False, "indptr must not decrease"),
        (0, 1, 3, False, "request 0 has 39 keys now"),
    ],
)
def test_changes_after_the_plan_are_found(tensor, index, value, has_window, message):
    table = guard(has_window=has_window)
    assert not table.is_due()
    table.tensors[tensor][index] = value
    assert table.is_due()
    with pytest.raises(ValueError, match=message):
        table.check(10)


def test_changes_that_the_plan_covers_are_fine():
    table = guard()
    table.tensors[1].copy_(int32(0, 1, 2, 3, 4))
    table.tensors[2][1] = 3
    assert table.is_due()
    table.check(5)
    assert not table.is_due()


def test_on_a_gpu_only_when_asked_for_and_not_while_capturing(monkeypatch):
    assert guard("hip") is None
    monkeypatch.setenv(env.CHECK.name, "indices")
    table = guard("hip")
    assert table.is_due()
    table.active.capturing = True
    assert not table.is_due()


def test_tensors_of_inference_mode_are_always_read_again():
    with torch.inference_mode():
        table = guard()
        assert table.is_due()
        table.check(10)
        assert table.is_due()
