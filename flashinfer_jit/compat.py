"""Standing in for flashinfer: programs that import it get this package, without a change to them."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

__all__ = ["install_as_flashinfer"]

ALIAS = "flashinfer"
PACKAGE = "flashinfer_jit"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``flashinfer`` and ``flashinfer.x`` as this package and its submodules: the same modules, not copies."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != ALIAS and not name.startswith(ALIAS + "."):
            return None
        own = importlib.util.find_spec(PACKAGE + name.removeprefix(ALIAS))
        if own is None:
            return None
        is_package = own.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(name, self, origin=own.origin, is_package=is_package)

    def __init__(self) -> None:
        self._own_specs: dict[ModuleType, importlib.machinery.ModuleSpec | None] = {}

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(PACKAGE + spec.name.removeprefix(ALIAS))
        self._own_specs[module] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back: it has been executed under its own name."""
        module.__spec__ = self._own_specs.pop(module)


def install_as_flashinfer() -> ModuleType:
    """Make ``import flashinfer``, and that of its submodules, give this package from now on.

    Calling it again changes nothing. Names that this package does not have stay absent: importing them fails.

    Returns
    -------
    module
        This package.

    Raises
    ------
    ImportError
        If FlashInfer itself can be imported, or has been: then which of the two a program gets would depend on order.

    Examples
    --------
    >>> import flashinfer_jit
    >>> flashinfer = flashinfer_jit.install_as_flashinfer()
    >>> from flashinfer.prefill import single_prefill_with_kv_cache
    """
    package = importlib.import_module(PACKAGE)
    loaded = sys.modules.get(ALIAS)
    if loaded is package:
        return package
    spec = None if loaded is not None else importlib.util.find_spec(ALIAS)
    if loaded is not None or spec is not None:
        where = getattr(loaded, "__file__", None) if spec is None else spec.origin
        raise ImportError(
            f"{ALIAS} itself is installed ({where}): uninstall it first, or import {PACKAGE} by its own name",
            name=ALIAS,
        )
    sys.meta_path.insert(0, _Finder())
    sys.modules[ALIAS] = package
    return package
