"""Fixtures of the tests that compile for real, but run nothing on a device."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashinfer_jit.errors import ToolchainNotFoundError
from flashinfer_jit.jit import toolchain


def _programs() -> dict[str, str]:
    """Return one program of each kind of toolchain that this machine has."""
    found: dict[str, str] = {}
    for _, _, program in toolchain._candidates():
        path = toolchain._locate(program)
        if path is not None:
            try:
                found.setdefault(toolchain._describe(path, None).kind, str(path))
            except toolchain._NotUsable:
                continue
    return found


PROGRAMS = _programs()
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
