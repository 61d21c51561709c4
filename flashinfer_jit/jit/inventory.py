"""What is in a cache, and taking things out. Reading changes nothing; nothing is removed without being asked.

A kernel that a process has loaded stays loaded when its file is removed: the next process compiles it again.
"""

import contextlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashinfer_jit.errors import UnsafeCacheError
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.cache import LIBRARY, META, VERSION, Cache, read_entry
from flashinfer_jit.jit.files import private_mkdir

# What is beside the kernels. Lock files stay for ever: see lock.py.
SIDE_FOLDERS = ("failed", "broken", "staging", "toolchains")
EMULATOR = "emulator"


@dataclass(frozen=True)
class Item:
    """One kernel folder, whole or damaged.

    Attributes
    ----------
    directory : Path
        ``<root>/v1/<arch>/<slug>/<source key>/<toolchain id>``.
    meta : dict
        What its meta.json says; empty if that cannot be read.
    num_bytes : int
        Size of its files.
    last_used : float
        Seconds since the epoch, to the hour: when a process last wanted it.
    """

    directory: Path
    meta: dict[str, Any]
    num_bytes: int
    last_used: float

    @property
    def arch(self) -> str:
        """The GPU it is for."""
        return self.directory.parts[-4]

    @property
    def slug(self) -> str:
        """Its readable name."""
        return self.directory.parts[-3]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        kept = {name: self.meta.get(name) for name in ("key", "resources", "compile_seconds", "toolchain")}
        place = {"kernel": self.slug, "arch": self.arch, "directory": str(self.directory)}
        return {**place, "bytes": self.num_bytes, "last_used": int(self.last_used), **kept}


def items(cache: Cache) -> list[Item]:
    """Return all kernels of a cache, by name."""
    found = []
    for arch in ARCHS:
        for directory in sorted((cache.base / arch).glob("*/*/*")):
            if directory.is_dir():
                found.append(_item(directory))
    return found


def _item(directory: Path) -> Item:
    try:
        meta = json.loads((directory / META).read_bytes())
    except (OSError, ValueError):
        meta = {}
    try:
        last_used = (directory / LIBRARY).stat().st_atime
    except OSError:
        last_used = 0.0
    return Item(directory, meta if isinstance(meta, dict) else {}, folder_bytes(directory), last_used)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; what vanishes meanwhile counts nothing."""
    return sum(size for path in folder.rglob("*") if (size := _file_bytes(path)))


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def stats(cache: Cache) -> dict[str, Any]:
    """Return numbers and sizes: of kernels by architecture, of the emulated GPU, and of what is beside them."""
    all_items = items(cache)
    archs = {
        arch: {"kernels": len(mine), "bytes": sum(item.num_bytes for item in mine)}
        for arch in ARCHS
        if (mine := [item for item in all_items if item.arch == arch])
    }
    beside = {name: folder_bytes(cache.base / name) for name in (EMULATOR, *SIDE_FOLDERS)}
    old = {path.name: folder_bytes(path) for path in old_versions(cache)}
    return {
        "root": str(cache.root),
        "kernels": len(all_items),
        "bytes": sum(item.num_bytes for item in all_items),
        "archs": archs,
        "beside": {name: size for name, size in beside.items() if size},
        "old_versions": old,
    }


def old_versions(cache: Cache) -> list[Path]:
    """Return the folders that earlier or later versions of this package have left in the same root."""
    if not cache.root.is_dir():
        return []
    return sorted(p for p in cache.root.iterdir() if re.fullmatch(r"v\d+", p.name) and p.name != VERSION)


def problem(item: Item) -> str:
    """Return what is wrong with an item, or nothing: the same checks as before it is loaded."""
    try:
        read_entry(item.directory)
        return ""
    except UnsafeCacheError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {error.filename}: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        return str(error) or "damaged"


def to_prune(cache: Cache, max_bytes: int | None, older_than_seconds: float | None) -> list[Item]:
    """Return the kernels to remove: those not used for so long, then those used longest ago until the rest fits."""
    by_use = sorted(items(cache), key=lambda item: item.last_used)
    limit = time.time() - older_than_seconds if older_than_seconds is not None else float("-inf")
    chosen = [item for item in by_use if item.last_used < limit]
    if max_bytes is not None:
        left = sum(item.num_bytes for item in by_use) - sum(item.num_bytes for item in chosen)
        for item in by_use[len(chosen) :]:
            if left <= max_bytes:
                break
            chosen.append(item)
            left -= item.num_bytes
    return chosen


def remove(cache: Cache, folders: Iterable[Path]) -> int:
    """Remove folders, each renamed first so that nobody sees half of one; return the bytes that this frees.

    Raises OSError if the cache cannot be written.
    """
    staging = cache.base / "staging"
    freed = 0
    for folder in folders:
        if not folder.exists():
            continue
        private_mkdir(staging)
        freed += folder_bytes(folder)
        aside = staging / f"removed-{uuid.uuid4().hex}"
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
        for parent in _empty_parents(folder, cache.base):
            # Another process may be publishing there at this moment.
            with contextlib.suppress(OSError):
                parent.rmdir()
    return freed


def _empty_parents(folder: Path, base: Path) -> Iterator[Path]:
    for parent in folder.parents:
        if parent == base or base not in parent.parents:
            return
        yield parent


def leftovers(cache: Cache) -> list[Path]:
    """Return what no process needs: failed and broken kernels, and other versions' folders."""
    return [*(cache.base / name for name in ("failed", "broken")), *old_versions(cache)]


def everything(cache: Cache, with_emulator: bool) -> list[Path]:
    """Return the folders of all kernels and all that is beside them, but for locks and, unless asked, the emulator."""
    names = (*ARCHS, "failed", "broken", "toolchains", *((EMULATOR,) if with_emulator else ()))
    return [*(cache.base / name for name in names), *old_versions(cache)]
