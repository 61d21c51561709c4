"""An emulated AMD Instinct GPU: real gfx942 and gfx950 machine code runs on the CPU, behind HIP's own interface."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashinfer_jit.emulator.library import (
        current_arch,
        last_error,
        last_report,
        load,
        loaded_path,
        recover,
        timed_launches,
        use_arch,
    )
    from flashinfer_jit.emulator.report import Report
    from flashinfer_jit.emulator.run_kernel import run

__all__ = [
    "Report",
    "current_arch",
    "last_error",
    "last_report",
    "load",
    "loaded_path",
    "recover",
    "run",
    "timed_launches",
    "use_arch",
]

_HOMES = {"run": "run_kernel", "Report": "report"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'library')}")
    # No submodule may have one of these names: importing it would put it in the function's place.
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
