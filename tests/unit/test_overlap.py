"""Memory that tensors share, against the sets of their elements' places."""

import random

import pytest
import torch

from flashinfer_jit import overlap

BYTES = torch.zeros(2000, dtype=torch.int16)
PLACES = torch.arange(2000)


def view(generator):
    """Return places as a slice of a ``[rows, heads, columns]`` tensor, in either order, or as a run of them."""
    if generator.random() < 0.3:
        begin = generator.randrange(1500)
        return PLACES[begin : begin + generator.randint(1, 300)]
    whole = PLACES[:1200].view(5, 12, 20)
    ends = [sorted(generator.sample(range(size + 1), 2)) for size in whole.shape]
    if generator.random() < 0.5:
        ends[2] = [0, 20]
    part = whole[tuple(slice(*pair) for pair in ends)]
    if generator.random() < 0.1:
        part = part[:, :1].expand(-1, 3, -1)
    return part if generator.random() < 0.5 else part.transpose(0, 1)


def test_sharing_is_found_exactly():
    generator = random.Random(0)
    found = 0
    for _ in range(3000):
        places = [view(generator), view(generator)]
        tensors = [BYTES.as_strided(x.shape, x.stride(), x.storage_offset()) for x in places]
        a, b = (set(x.flatten().tolist()) for x in places)
        assert overlap.share_memory(*tensors) == bool(a & b), [(x.shape, x.stride()) for x in tensors]
        found += bool(a & b)
    assert 500 < found < 2500


def test_elements_in_one_place_are_refused():
    for whole in (BYTES, BYTES[:600].view(5, 6, 20)[:, 1:3].transpose(0, 2), BYTES[:0], BYTES[:20][None, ::3]):
        overlap.check_writable("out", whole)
    for shared in (BYTES[:20].expand(3, 20), BYTES.as_strided((4, 6), (5, 1))):
        with pytest.raises(ValueError, match=r"Invalid strides of out: it is written, and strides \["):
            overlap.check_writable("out", shared)


def test_results_may_be_what_they_replace_but_no_part_of_it():
    q, k, lse = BYTES[:40].view(2, 20), BYTES[40:100], BYTES[100:120]
    overlap.check_apart({"out": q, "lse": lse}, {"q": q, "k": k}, may_be="q")
    for written, name in (
        ({"out": q}, "q"),
        ({"out": BYTES[20:60].view(2, 20)}, "q"),
        ({"out": lse, "lse": lse}, "lse"),
    ):
        may_be = "q" if written["out"] is not q else ""
        with pytest.raises(ValueError, match=f"Invalid out: it is written, and shares memory with {name}; pass"):
            overlap.check_apart(written, {"q": q, "k": k}, may_be=may_be)
