"""The package's logger: warnings are shown as Python shows them by default, more only on FLASHINFER_JIT_LOG_LEVEL."""

import contextlib
import logging
import time
from collections.abc import Iterator

from flashinfer_jit import env

logger = logging.getLogger("flashinfer_jit")

_said: set[str] = set()
_handler: logging.Handler | None = None


def configure() -> None:
    """Attach a handler to standard error when FLASHINFER_JIT_LOG_LEVEL is set; without it the application decides."""
    global _handler
    level = env.LOG_LEVEL.get()
    if level is None:
        return
    if _handler is None:
        _handler = logging.StreamHandler()
        _handler.setFormatter(logging.Formatter("flashinfer_jit %(levelname)s: %(message)s"))
        logger.addHandler(_handler)
        logger.propagate = False
    logger.setLevel(level.upper())


def warn_once(key: str, message: str) -> None:
    """Warn about a lasting condition once in a process, not at every call that meets it."""
    if key not in _said:
        _said.add(key)
        logger.warning("%s", message)


@contextlib.contextmanager
def phase(name: str, subject: str) -> Iterator[None]:
    """Log the start and the end of a step that takes noticeable time, with the seconds it took."""
    logger.debug("%s: start: %s", name, subject)
    start = time.perf_counter()
    try:
        yield
    except BaseException:
        logger.debug("%s: failed after %.3f s: %s", name, time.perf_counter() - start, subject)
        raise
    logger.debug("%s: done in %.3f s: %s", name, time.perf_counter() - start, subject)
