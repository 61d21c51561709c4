"""How long a rendered kernel is."""

import re

# HIP's functions and the parameters with their offsets are declared, one to a line: tables, which no budget counts.
DECLARATIONS = re.compile(
    r"#ifndef FIJ_MINI_HIP.*?^struct Params {.*?^};(\nstatic_assert\([^\n]*\bParams\b[^\n]*)*", re.DOTALL | re.MULTILINE
)


def kernel_lines(text: str) -> int:
    """Return the lines of a rendered kernel that are code."""
    lines = DECLARATIONS.sub("", text).splitlines()
    return sum(1 for line in lines if line.strip() and not line.lstrip().startswith("//"))
