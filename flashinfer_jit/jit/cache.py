"""Where compiled kernels are kept: named by content, published whole by renaming a directory, checked when read.

``<root>/v1/<arch>/<slug>/<source key>/<toolchain id>/{kernel.hip, kernel.so, meta.json, build.log}``

The source key is a digest of what the kernel computes (rendered text, semantic flags, arch); the toolchain id is the
compiler's. Paths, times, host names and the torch version take no part. A directory is either absent or complete.
"""

import atexit
import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashinfer_jit import env
from flashinfer_jit.errors import UnsafeCacheError
from flashinfer_jit.jit.files import fsync, private_mkdir, public_mkdir
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.log import logger, warn_once

SCHEMA = 1
VERSION = f"v{SCHEMA}"
SOURCE, LIBRARY, META, LOG = "kernel.hip", "kernel.so", "meta.json", "build.log"
STALE_STAGING_SECONDS = 3600.0
# Errors that say "not here" rather than "not now": compiling goes on in a directory of this process.
NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG),
)


@dataclass(frozen=True)
class Entry:
    """A complete kernel in a cache.

    Attributes
    ----------
    directory : Path
        Its folder.
    meta : dict
        What meta.json says: key, toolchain, resources, seconds, size and digest of the library.
    """

    directory: Path
    meta: dict[str, Any]

    @property
    def library(self) -> Path:
        """The shared library."""
        return self.directory / LIBRARY


def user_root() -> Path:
    """Return the cache directory of this user as the environment sets it, whether it exists or not."""
    explicit = env.CACHE_DIR.get()
    if explicit is not None:
        return explicit.absolute()
    base = env.XDG_CACHE_HOME.get()
    if base is None:
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            # A container may run under a user that has neither HOME nor an entry in the user database.
            return Path(tempfile.gettempdir()) / f"flashinfer_jit-{os.geteuid()}"
    return base.absolute() / "flashinfer_jit"


def source_key(source: str, flags: tuple[str, ...], arch_name: str) -> str:
    """Return 16 hexadecimal digits for what is compiled: equal texts, flags and archs give equal keys."""
    parts = {"schema": SCHEMA, "source": source, "flags": flags, "arch": arch_name}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_safe(path: Path) -> None:
    """Refuse a file or directory that other users could have written.

    Raises
    ------
    UnsafeCacheError
        With the command that mends it.
    """
    if env.TRUST_CACHE.get():
        return
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise UnsafeCacheError(
            f"{path} belongs to user {status.st_uid}: code in it could be anybody's. "
            f"Set {env.CACHE_DIR.name} to a directory of your own, or {env.TRUST_CACHE.name}=1 if you trust that user"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeCacheError(
            f"{path} can be written by other users (mode {stat.S_IMODE(status.st_mode):04o}): code in it could be "
            f"anybody's. Run: chmod -R go-w {path}  (or set {env.TRUST_CACHE.name}=1 if you trust them all)"
        )


def read_entry(directory: Path) -> Entry:
    """Return the entry in a directory, having checked it; changes nothing.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If something of it is missing or damaged.
    UnsafeCacheError
        If others could have written it.
    """
    meta = json.loads((directory / META).read_bytes())
    check_safe(directory)
    check_safe(directory / LIBRARY)
    data = (directory / LIBRARY).read_bytes()
    if meta["schema"] != SCHEMA or meta["library"] != _fingerprint(data):
        raise ValueError(f"{LIBRARY} is not the file that {META} describes")
    return Entry(directory, meta)


class Cache:
    """One cache directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / VERSION

    def kernel_directory(self, key: KernelKey, source: str) -> Path:
        """Return the folder of a kernel; each toolchain has its own folder in it."""
        return self.base / key.arch.name / key.slug() / source

    def lookup(self, key: KernelKey, source: str, toolchain_id: str | None) -> Entry | None:
        """Return the entry of a kernel, or None.

        With ``toolchain_id`` None the newest entry of any toolchain serves: the source key already says that all of
        them compute the same. A damaged entry is moved aside where that is possible, and is a miss.

        Raises
        ------
        UnsafeCacheError
            If others could have written the entry.
        """
        folder = self.kernel_directory(key, source)
        if toolchain_id is not None:
            return self._read(folder / toolchain_id)
        try:
            choices = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        except OSError:
            return None
        entries = (self._read(choice) for choice in choices)
        return next((entry for entry in entries if entry is not None), None)

    def _read(self, directory: Path) -> Entry | None:
        for _ in range(3):
            try:
                return read_entry(directory)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    # A network file system may still show the name of a directory that was just replaced.
                    continue
                if not directory.is_dir():
                    return None
                reason = f"cannot read {error.filename}: {error.strerror}"
            except (ValueError, KeyError, TypeError) as error:
                reason = str(error)
            self.move_aside(directory, reason)
            return None
        return None

    def move_aside(self, directory: Path, reason: str) -> None:
        """Take a damaged entry out of the way, keeping it for whoever wants to know, and say so."""
        target = self.base / "broken" / f"{directory.parent.parent.name}-{uuid.uuid4().hex[:8]}"
        try:
            private_mkdir(target.parent)
            directory.rename(target)
            logger.warning("damaged cache entry (%s): moved from %s to %s, compiling again", reason, directory, target)
        except OSError:
            warn_once(f"damaged {directory}", f"damaged cache entry ignored ({reason}): {directory}")

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a fresh directory on the cache's file system; what is left of it at the end is removed.

        Raises OSError if the cache cannot be written.
        """
        parent = self.base / "staging"
        private_mkdir(parent)
        check_safe(self.root)
        _sweep(parent)
        directory = parent / uuid.uuid4().hex
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def publish(self, staged: Path, key: KernelKey, source: str, toolchain_id: str, meta: dict[str, Any]) -> Entry:
        """Make a compiled kernel visible to all processes, all of it at once.

        If another process was faster its entry is used, unless it is damaged.
        """
        final = self.kernel_directory(key, source) / toolchain_id
        meta = {"schema": SCHEMA, **meta, "library": _fingerprint((staged / LIBRARY).read_bytes())}
        (staged / META).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
        for path in staged.iterdir():
            # Whatever the umask: a file that others could change would be refused when it is read.
            path.chmod(0o600)
            fsync(path)
        fsync(staged)
        private_mkdir(final.parent)
        return self._publish(staged, final, meta)

    def export(self, entry: Entry, key: KernelKey) -> Entry:
        """Copy an entry of another cache into this one, a folder to be shipped: readable by all users.

        Raises OSError if the folder cannot be written.
        """
        relative = Path(VERSION, key.arch.name, key.slug(), entry.directory.parent.name, entry.directory.name)
        existing = self._read(self.root / relative)
        if existing is not None:
            return existing
        with self.staging() as staged:
            staged.chmod(0o755)
            for name in (SOURCE, LIBRARY, META, LOG):
                shutil.copyfile(entry.directory / name, staged / name)
                (staged / name).chmod(0o644)
                fsync(staged / name)
            public_mkdir((self.root / relative).parent, self.root)
            return self._publish(staged, self.root / relative, entry.meta)

    def _publish(self, staged: Path, final: Path, meta: dict[str, Any]) -> Entry:
        for _ in range(3):
            try:
                staged.rename(final)
                fsync(final.parent)
                return Entry(final, meta)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            existing = self._read(final)
            if existing is not None:
                return existing
        raise OSError(errno.EEXIST, "a damaged entry cannot be moved aside", str(final))

    def keep_failed(self, staged: Path, key: KernelKey, source: str) -> Path:
        """Keep the source and the log of a failed compilation where a person can look at them; return the folder."""
        kept = self.base / "failed" / f"{key.arch.name}-{key.slug()}-{source}"
        try:
            shutil.rmtree(kept, ignore_errors=True)
            private_mkdir(kept.parent)
            staged.rename(kept)
        except OSError:
            kept = Path(tempfile.mkdtemp(prefix="flashinfer_jit-failed-"))
            shutil.copytree(staged, kept, dirs_exist_ok=True)
        return kept


# How old the time of last use may be before it is written again: a hit should not cost a write.
USED_GRANULE_SECONDS = 3600.0


def mark_used(entry: Entry) -> None:
    """Remember, as the library's access time, that an entry was wanted now; whatever the mount options say."""
    with contextlib.suppress(OSError):
        status = entry.library.stat()
        now = time.time()
        if now - status.st_atime > USED_GRANULE_SECONDS:
            os.utime(entry.library, ns=(int(now * 1e9), status.st_mtime_ns))


_temporary: Cache | None = None


def temporary_cache() -> Cache:
    """Return a cache for this process alone, removed at its end: for when the user's cannot be written."""
    global _temporary
    if _temporary is None:
        root = Path(tempfile.mkdtemp(prefix="flashinfer_jit-"))
        owner = os.getpid()

        def remove() -> None:
            # A forked child ends too, and must not take the directory with it.
            if os.getpid() == owner:
                shutil.rmtree(root, ignore_errors=True)

        atexit.register(remove)
        _temporary = Cache(root)
    return _temporary


def temporary_caches() -> tuple[Cache, ...]:
    """Return the cache of this process if it has one."""
    return () if _temporary is None else (_temporary,)


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sweep(parent: Path) -> None:
    """Remove what killed processes left behind."""
    oldest = time.time() - max(STALE_STAGING_SECONDS, 8 * env.COMPILE_TIMEOUT.get())
    with contextlib.suppress(OSError):
        for left in parent.iterdir():
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest:
                    shutil.rmtree(left, ignore_errors=True)
