import ctypes
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
        assert f"static_assert(__builtin_offsetof(Params, {field.name}) == {table.offset(field.name)});" in text
        assert field.comment, "each field says its meaning or unit"
    assert len({field.name for field in table.fields}) == len(table.fields)


def test_the_struct_type_is_made_once() -> None:
    table = next(iter(TABLES.values()))
    assert table.struct is table.struct


def test_an_unknown_c_type_is_an_error() -> None:
    with pytest.raises(KeyError, match="double"):
        ParamsTable("x", (Field("a", "double", ""),)).struct  # noqa: B018
