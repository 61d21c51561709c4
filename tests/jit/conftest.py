"""Fixtures of the tests that compile for real, but run nothing on a device."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashinfer_jit.errors import ToolchainNotFoundError
from flashinfer_jit.jit import toolchain

# One program of each kind of toolchain that this machine has.
PROGRAMS = {found.kind: found.driver[0] for found in reversed(toolchain.find_all())}
if not PROGRAMS:
    raise ToolchainNotFoundError("these tests need a compiler: pip install -e '.[emulator]'")


@pytest.fixture(params=sorted(PROGRAMS))
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each toolchain of this machine in turn, in force."""
    program = PROGRAMS[request.param]
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", program)
    toolchain.forget()
    yield Path(program)
    toolchain.forget()
