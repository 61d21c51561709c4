"""Small file operations that the cache and its neighbours share."""

import os
from pathlib import Path


def private_mkdir(path: Path) -> None:
    """Make a directory and its missing parents, each for this user alone, whatever the umask."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        if path.parent == path:
            break
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)


def public_mkdir(path: Path, root: Path) -> None:
    """Make a directory and its parents up to ``root``, all readable by everybody, whatever the umask."""
    private_mkdir(path)
    for directory in (path, *path.parents):
        directory.chmod(0o755)
        if directory == root:
            break


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old contents or all of the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Have the contents of a file, or the names in a directory, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
