"""The way from a key to a loaded kernel: memory, prebuilt folders, the user's cache, the compiler.

``get_kernel`` is what the public functions call; ``build_kernel`` stops before loading and needs no device.
"""

import contextlib
import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashinfer_jit import env, log
from flashinfer_jit.errors import InvalidSettingError, MissingKernelError, ToolchainNotFoundError
from flashinfer_jit.jit import cache, diagnostics
from flashinfer_jit.jit.cache import Cache, Entry
from flashinfer_jit.jit.compiler import StepFailed, compile_kernel
from flashinfer_jit.jit.files import private_mkdir
from flashinfer_jit.jit.key import KernelKey, key_from_dict
from flashinfer_jit.jit.loader import Kernel, Runtime, load
from flashinfer_jit.jit.lock import compile_slot, locked
from flashinfer_jit.jit.machine import max_jobs
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.toolchain import Toolchain, find_toolchain, semantic_flags
from flashinfer_jit.log import logger, warn_once

__all__ = [
    "CompileEvent", "Kernel", "KernelKey", "Runtime", "build_kernel", "find_entry", "forget", "freeze", "get_kernel",
    "key_from_dict", "lookup_in", "on_compile",
]  # fmt: skip

FREEZE_MODES = ("off", "warn", "error")


@dataclass(frozen=True)
class CompileEvent:
    """One finished compilation, as hooks of on_compile receive it.

    Attributes
    ----------
    key : KernelKey
        What was compiled.
    seconds : float
        Time in compiler and linker.
    entry : Entry
        Where it is now.
    """

    key: KernelKey
    seconds: float
    entry: Entry


_memo: dict[KernelKey, Kernel] = {}
_key_locks: dict[KernelKey, threading.Lock] = {}
_guard = threading.Lock()
_hooks: list[Callable[[CompileEvent], object]] = []
_freeze_mode = "off"


def get_kernel(key: KernelKey, runtime: Runtime) -> Kernel:
    """Return the loaded kernel of ``key``; compiles it if no process of this user has done so before.

    Parameters
    ----------
    key : KernelKey
        What is wanted.
    runtime : Runtime
        The HIP runtime of this process.

    Raises
    ------
    MissingKernelError
        If it is not compiled and FLASHINFER_JIT_DISABLE, freeze or a stream capture forbids compiling.
    ToolchainNotFoundError, CompilationError, CacheLockTimeout, UnsafeCacheError
        If it cannot be compiled.
    KernelLoadError
        If it cannot be loaded.
    """
    kernel = _memo.get(key)
    return kernel if kernel is not None else _load_first(key, runtime)


def _load_first(key: KernelKey, runtime: Runtime) -> Kernel:
    with _guard:
        key_lock = _key_locks.setdefault(key, threading.Lock())
    with key_lock:
        kernel = _memo.get(key)
        if kernel is None:
            if runtime.is_capturing():
                raise MissingKernelError(
                    f"{key} is not loaded, and nothing can be compiled or loaded while a stream is being captured. "
                    "Run the call once before the capture"
                )
            kernel = load(build_kernel(key), key, runtime)
            _record(key)
            _memo[key] = kernel
    return kernel


def build_kernel(key: KernelKey) -> Entry:
    """Return the cache entry of ``key``, compiling it if there is none. Needs neither torch nor a device.

    Raises the errors of get_kernel except those of loading.
    """
    _start()
    source, source_key = _source(key)
    entry = _find(key, source_key)
    if entry is not None:
        cache.mark_used(entry)
        return entry
    _refuse_unless_allowed(key)
    user = _user_cache()
    toolchain = find_toolchain(_memo_dir(user))
    try:
        return _compile_once(user, key, source, source_key, toolchain)
    except OSError as error:
        if error.errno not in cache.NOT_WRITABLE:
            raise
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    warn_once(
        "cache not writable",
        f"the kernel cache cannot be written ({reason}): kernels compiled now are lost when this process ends. "
        f"Set {env.CACHE_DIR.name} to a directory that can be written",
    )
    return _compile_once(cache.temporary_cache(), key, source, source_key, toolchain)


def find_entry(key: KernelKey) -> Entry | None:
    """Return the cache entry of ``key`` if there is one; never compiles."""
    return _find(key, _source(key)[1])


def lookup_in(where: Cache, key: KernelKey) -> Entry | None:
    """Return the entry of ``key`` in one cache, whatever compiled it."""
    return where.lookup(key, _source(key)[1], None)


def _source(key: KernelKey) -> tuple[str, str]:
    source = render(key)
    return source, cache.source_key(source, semantic_flags(key.arch.name), key.arch.name)


def _find(key: KernelKey, source_key: str) -> Entry | None:
    for folder in env.PREBUILT_PATH.get():
        if not folder.is_dir():
            warn_once(f"prebuilt {folder}", f"{env.PREBUILT_PATH.name}: there is no directory {folder}")
        entry = Cache(folder).lookup(key, source_key, None)
        if entry is not None:
            return entry
    user = _user_cache()
    caches = [user, *cache.temporary_caches()]
    if not any(where.kernel_directory(key, source_key).is_dir() for where in caches):
        return None
    try:
        toolchain_id = find_toolchain(_memo_dir(user)).id
    except ToolchainNotFoundError:
        # What an absent compiler made is as good as what a present one would make.
        toolchain_id = None
    found = (where.lookup(key, source_key, toolchain_id) for where in caches)
    return next((entry for entry in found if entry is not None), None)


def _user_cache() -> Cache:
    """Return the user's cache, refused if others can write it: even the memo about compilers would be theirs."""
    user = Cache(cache.user_root())
    if user.root.is_dir():
        cache.check_safe(user.root)
    return user


def _memo_dir(user: Cache) -> Path:
    return user.base / "toolchains"


def _compile_once(where: Cache, key: KernelKey, source: str, source_key: str, toolchain: Toolchain) -> Entry:
    name = f"{key.arch.name}-{key.slug()}-{source_key}-{toolchain.id}.lock"
    private_mkdir(where.root)
    cache.check_safe(where.root)
    with locked(where.base / "locks" / name, f"compiling {key}"):
        entry = where.lookup(key, source_key, toolchain.id)
        return entry if entry is not None else _compile(where, key, source, source_key, toolchain)


def _compile(where: Cache, key: KernelKey, source: str, source_key: str, toolchain: Toolchain) -> Entry:
    logger.info("compiling %s with %s; to compile ahead: %s", key, toolchain.title, warmup_command(key))
    slot = compile_slot(where.base / "locks" / "slots", max_jobs(), f"compiling {key}")
    with where.staging() as staged, log.phase("compile", str(key)):
        try:
            with slot:
                compiled = compile_kernel(key, source, toolchain, staged)
        except StepFailed as failure:
            kept = where.keep_failed(staged, key, source_key)
            raise diagnostics.compilation_error(failure, toolchain, kept) from None
        meta = {
            "key": key.to_dict(),
            "source_key": source_key,
            "toolchain": {"id": toolchain.id, "title": toolchain.title, "version": toolchain.version},
            "flags": list(semantic_flags(key.arch.name)),
            "resources": compiled.resources,
            "compile_seconds": round(compiled.seconds, 4),
        }
        entry = where.publish(staged, key, source_key, toolchain.id, meta)
    event = CompileEvent(key, compiled.seconds, entry)
    for hook in tuple(_hooks):
        hook(event)
    return entry


def warmup_command(key: KernelKey) -> str:
    """Return the shell command that compiles exactly this kernel."""
    return f"python -m flashinfer_jit.warmup --key {shlex.quote(key.canonical_json())}"


def _refuse_unless_allowed(key: KernelKey) -> None:
    if env.DISABLE.get():
        raise MissingKernelError(f"{key} is not compiled, and {env.DISABLE.name}=1. Run: {warmup_command(key)}")
    if _freeze_mode == "error":
        raise MissingKernelError(f"{key} is not compiled, and freeze() is in force. Run: {warmup_command(key)}")
    if _freeze_mode == "warn":
        logger.warning("%s is compiled although freeze('warn') is in force. Run: %s", key, warmup_command(key))


class _Frozen(contextlib.AbstractContextManager["_Frozen"]):
    def __init__(self, previous: str) -> None:
        self._previous = previous

    def __exit__(self, *exception: object) -> None:
        freeze(self._previous)


def freeze(mode: str = "error") -> contextlib.AbstractContextManager[Any]:
    """Say that from now on nothing should need to be compiled.

    Parameters
    ----------
    mode : str
        ``error``: a kernel that is not compiled raises MissingKernelError; ``warn``: it is compiled, with a warning;
        ``off``: compiling is normal again.

    Returns
    -------
    context manager
        At the end of a ``with`` block the mode before is in force again; without one the mode stays.
    """
    global _freeze_mode
    if mode not in FREEZE_MODES:
        raise InvalidSettingError(f"mode={mode!r} is not allowed: expected {', '.join(map(repr, FREEZE_MODES))}")
    previous, _freeze_mode = _freeze_mode, mode
    return _Frozen(previous)


def on_compile(hook: Callable[[CompileEvent], object]) -> Callable[[], None]:
    """Have ``hook`` called after every compilation in this process, and return a function that ends that."""
    _hooks.append(hook)

    def remove() -> None:
        with contextlib.suppress(ValueError):
            _hooks.remove(hook)

    return remove


def forget() -> None:
    """Forget the kernels loaded in this process, for tests that change where kernels come from."""
    _memo.clear()


def _after_fork() -> None:
    """Replace locks that a thread of the parent may have held; loaded kernels stay valid in the child."""
    global _guard
    _guard = threading.Lock()
    _key_locks.clear()


os.register_at_fork(after_in_child=_after_fork)

_started = False


def _start() -> None:
    """Do once in a process what importing must not do."""
    global _started
    if not _started:
        _started = True
        log.configure()
        for name in env.unknown():
            logger.warning("%s is set but is not one of the variables that flashinfer_jit reads", name)


def _record(key: KernelKey) -> None:
    """Append the key to FLASHINFER_JIT_RECORD; one write, so that processes can share the file."""
    path = env.RECORD.get()
    if path is not None:
        line = key.canonical_json() + "\n"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidSettingError(
                f"{env.RECORD.name}={str(path)!r} is not allowed: expected a file to write to ({error.strerror})"
            ) from None
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
