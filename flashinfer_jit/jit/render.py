"""From a kernel's key to its HIP source text, which depends on the key and the templates only: no dates, no paths."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from flashinfer_jit import env
from flashinfer_jit.errors import InvalidSettingError, UnsupportedConfigError
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.params import table_of

if TYPE_CHECKING:
    import jinja2

# Version of the interface between a compiled kernel and the loader; partials/launcher.hip.j2 exports it.
ABI_VERSION = 1

C_TYPES = {"float16": "_Float16", "bfloat16": "__bf16", "float32": "float"}


def templates_dir() -> Path:
    """Return the folder of the packaged templates: inside the package when installed, beside it in the repository."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"


def _search_path() -> tuple[Path, ...]:
    own = env.TEMPLATE_DIR.get()
    if own is None:
        return (templates_dir(),)
    if not own.is_dir():
        raise InvalidSettingError(f"{env.TEMPLATE_DIR.name}={str(own)!r} is not allowed: expected a directory")
    return (own, templates_dir())


def _c_type(dtype: str) -> str:
    # fp8 values are bytes to the compiler: conversion instructions give them their meaning.
    return C_TYPES.get(dtype, "uint8_t")


@functools.cache
def _environment(search_path: tuple[Path, ...]) -> "jinja2.Environment":
    # Imported here because a process that only runs cached kernels by name needs no templates.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(search_path),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters["c_type"] = _c_type
    environment.filters["c_string"] = json.dumps
    return environment


def render(key: KernelKey) -> str:
    """Return the HIP source of ``key``.

    Raises UnsupportedConfigError if there is no template for it, InvalidSettingError if FLASHINFER_JIT_TEMPLATE_DIR
    is no directory.
    """
    import jinja2

    search_path = _search_path()
    try:
        template = _environment(search_path).get_template(key.config.template)
    except jinja2.TemplateNotFound as error:
        where = ", ".join(map(str, search_path))
        raise UnsupportedConfigError(f"there is no template {error.name!r} for {key}: searched {where}") from None
    return template.render(
        config=key.config,
        tile=key.tile,
        arch=key.arch,
        params=table_of(key.config),
        kernel_name=key.kernel_name,
        key_json=key.canonical_json(),
        abi_version=ABI_VERSION,
        **key.config.context(key.arch, key.tile),
    )
