"""From a configuration to a loaded kernel; kernels.py is the entrance, the other modules are its steps."""

import importlib
from typing import Any

# FlashInfer's programs ask for these here; imported when they do.
__all__ = [
    f"gen_customize_{name}_module" for name in ("single_prefill", "single_decode", "batch_prefill", "batch_decode")
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.attention"), name)
