"""JIT-compiled attention kernels for AMD Instinct GPUs, with FlashInfer's API.

Importing this package does nothing but name what it has: modules are imported, and the environment, files and devices
are looked at, when something is used for the first time.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flashinfer_jit import emulator, errors, prefill, runtime
    from flashinfer_jit.jit.kernels import freeze, on_compile
    from flashinfer_jit.prefill import single_prefill_with_kv_cache, single_prefill_with_kv_cache_return_lse
    from flashinfer_jit.runtime import device, use_stream

# Public name -> module that defines it; a module's own name stands for the module itself.
_EXPORTS = {
    "device": "runtime",
    "emulator": "emulator",
    "errors": "errors",
    "freeze": "jit.kernels",
    "on_compile": "jit.kernels",
    "prefill": "prefill",
    "runtime": "runtime",
    "single_prefill_with_kv_cache": "prefill",
    "single_prefill_with_kv_cache_return_lse": "prefill",
    "use_stream": "runtime",
}

__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str) -> Any:
    module_name = _EXPORTS.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{module_name}")
    value = module if name == module_name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
