import ctypes
import itertools
import re

import pytest

from flashinfer_jit.jit.params import TABLES, Field, ParamsTable


def test_layout_follows_the_c_rules() -> None:
    table = ParamsTable("x", (Field("a", "int32_t", ""), Field("b", "const float*", ""), Field("c", "float", "")))
    assert [table.offset(name) for name in "abc"] == [0, 8, 16]
    assert table.size == 24


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_the_c_text_says_what_ctypes_computed(table: ParamsTable) -> None:
    text = table.c_struct()
    assert f"static_assert(sizeof(Params) == {ctypes.sizeof(table.struct)}," in text
    for field in table.fields:
        assert re.search(rf"^  {re.escape(field.c_type)} {field.name}; +// {re.escape(field.comment)}$", text, re.M)
        assert field.comment, "each field says its meaning or unit"
    asserted = dict(re.findall(r"static_assert\(__builtin_offsetof\(Params, (\w+)\) == (\d+)\);", text))
    assert asserted == {name: str(table.offset(name)) for name in asserted}
    for before, field in itertools.pairwise(table.fields):
        same_size = ctypes.sizeof(before.ctype) == ctypes.sizeof(field.ctype)
        assert same_size or field.name in asserted, "the compiler could place this field elsewhere"
    assert len({field.name for field in table.fields}) == len(table.fields)


def test_the_struct_type_is_made_once() -> None:
    table = next(iter(TABLES.values()))
    assert table.struct is table.struct


def test_an_unknown_c_type_is_an_error() -> None:
    with pytest.raises(KeyError, match="int128_t"):
        ParamsTable("x", (Field("a", "int128_t", ""),)).struct  # noqa: B018
