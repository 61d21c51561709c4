"""hip-python, bound to the HIP runtime that this process uses: the only place where it is imported.

By itself hip-python opens a libamdhip64 that it finds by path, which may be another file than the one that PyTorch
brought: two runtimes in one process. It is told the path of the mapped one before its first call.
"""

import functools
from types import ModuleType
from typing import Any

from flashinfer_jit.errors import NoDeviceError
from flashinfer_jit.runtime import current
from flashinfer_jit.runtime.libraries import mapped_libraries, require_one


def hip() -> ModuleType:
    """Return hip-python's ``hip`` module, working on the runtime of ``runtime.current()``.

    Raises
    ------
    HipRuntimeMismatchError
        If hip-python was used before and has opened another HIP runtime.
    NoDeviceError
        If hip-python is not installed, or there is no device to run on.
    """
    path = current().library.path
    module = _import(path)
    # Opens the library on hip-python's side, if nothing did yet; a second one shows as a second mapping.
    module.hipGetDeviceCount()
    require_one(mapped_libraries(), current().library)
    return module


@functools.cache
def _import(path: str) -> ModuleType:
    try:
        from rocm.bindings import hip as module
        from rocm.bindings.util import paths
    except ImportError as error:
        raise NoDeviceError(f"hip-python cannot be imported ({error}): run pip install hip-python") from None
    search = paths.get_library_path

    def get_library_path(name: str, *args: Any, **kwargs: Any) -> bytes:
        return path.encode() if name == "amdhip64" else search(name, *args, **kwargs)

    paths.get_library_path = get_library_path
    return module


def call(outcome: tuple[Any, ...], name: str) -> Any:
    """Return the values of a hip-python call, which are a tuple of an error code and results.

    Parameters
    ----------
    outcome : tuple
        What the call returned.
    name : str
        The function, for the error message.

    Returns
    -------
    object
        None, the one result, or a tuple of the results.

    Raises
    ------
    HipError
        If the code is not hipSuccess.
    """
    code, *values = outcome
    if int(code):
        raise current().error(int(code), name)
    return None if not values else values[0] if len(values) == 1 else tuple(values)
