"""Locks between processes: one per kernel, and a few slots that bound how many compilers run at once.

They only save work: what makes the cache correct is the rename in cache.py. The operating system frees
an flock when its holder dies, however it dies; lock files are never deleted, because a waiter would then hold a lock on
a file that nobody else sees.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flashinfer_jit import env
from flashinfer_jit.errors import CacheLockTimeout
from flashinfer_jit.jit.files import private_mkdir
from flashinfer_jit.log import logger, warn_once

if TYPE_CHECKING:
    import filelock

ANNOUNCE_SECONDS = 5.0
SLOT_POLL_SECONDS = 0.02
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock ``path`` while ``what`` is done; without lock support, warn once and go on.

    Raises
    ------
    CacheLockTimeout
        After FLASHINFER_JIT_LOCK_TIMEOUT seconds, naming the holder.
    OSError
        If the lock file cannot be made.
    """
    import filelock

    private_mkdir(path.parent)
    lock = filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)
    owner = path.with_suffix(".owner")
    timeout = env.LOCK_TIMEOUT.get()
    start = time.monotonic()
    held = False
    try:
        while not held:
            waited = time.monotonic() - start
            try:
                lock.acquire(timeout=max(0.0, min(ANNOUNCE_SECONDS, timeout - waited)))
                held = True
            except filelock.Timeout:
                waited = time.monotonic() - start
                holder = _holder(owner)
                if waited >= timeout:
                    raise CacheLockTimeout(
                        f"{what}: {holder} has held {path} for {waited:.0f} s. If it hangs, end it and call again; "
                        f"if it only is slow, set {env.LOCK_TIMEOUT.name} above {timeout:g}"
                    ) from None
                logger.warning("%s: waiting for %s, %.0f s so far (%s)", what, holder, waited, path)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                warn_once(
                    "no locks", f"{path.parent} has no file locks ({error.strerror}): processes may compile twice"
                )
                break
        if held:
            with contextlib.suppress(OSError):
                owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "what": what}))
        yield
    finally:
        if held:
            lock.release()


@contextlib.contextmanager
def compile_slot(folder: Path, count: int, what: str) -> Iterator[None]:
    """Hold one of ``count`` slots of this machine while a compiler runs, so that many processes do not exhaust it.

    A cap is no reason to fail: without lock support, or after FLASHINFER_JIT_LOCK_TIMEOUT seconds, the work goes on.
    """
    import filelock

    # A cache on a network file system serves several machines, each with slots of its own.
    folder = folder / socket.gethostname()
    private_mkdir(folder)
    paths = [folder / f"slot-{number}.lock" for number in range(count)]
    slots: list[filelock.BaseFileLock] = [
        filelock.FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False) for path in paths
    ]
    start = announced = time.monotonic()
    held = None
    try:
        while held is None:
            held = _take_any(slots)
            now = time.monotonic()
            if held is None and now - start >= env.LOCK_TIMEOUT.get():
                logger.warning("%s: no free slot after %.0f s, going on without one (%s)", what, now - start, folder)
                break
            if held is None and now - announced >= ANNOUNCE_SECONDS:
                announced = now
                message = "%s: waiting for one of %d compile slots of this machine, %.0f s so far (%s)"
                logger.info(message, what, count, now - start, folder)
            if held is None:
                time.sleep(SLOT_POLL_SECONDS)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn_once("no slots", f"{folder} has no file locks ({error.strerror}): the number of compilers is not bounded")
    try:
        yield
    finally:
        if held is not None:
            held.release()


def _take_any(slots: list["filelock.BaseFileLock"]) -> "filelock.BaseFileLock | None":
    import filelock

    for slot in slots:
        with contextlib.suppress(filelock.Timeout):
            slot.acquire(timeout=0)
            return slot
    return None


def _holder(owner: Path) -> str:
    try:
        said = json.loads(owner.read_text())
        return f"process {said['pid']} on {said['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
