"""Reading ``/proc/<pid>/maps``: which shared libraries of a name a process has mapped, told apart by inode."""

from dataclasses import dataclass

RUNTIME_NAME = "libamdhip64"
DELETED = " (deleted)"


@dataclass(frozen=True)
class MappedLibrary:
    """A file that is mapped into a process.

    Attributes
    ----------
    device, inode : str, int
        What tells files apart: two paths may be one file, one path may have been two files.
    path : str
        The first path under which it is mapped, without the kernel's ``(deleted)`` mark.
    is_deleted : bool
        Whether the path names another file now, or none.
    """

    device: str
    inode: int
    path: str
    is_deleted: bool = False

    def is_same_file(self, other: "MappedLibrary") -> bool:
        """Return whether both are one file, under whatever paths."""
        return (self.device, self.inode) == (other.device, other.inode)

    def __str__(self) -> str:
        return self.path + (DELETED if self.is_deleted else "")


def parse_maps(text: str, name: str = RUNTIME_NAME) -> tuple[MappedLibrary, ...]:
    """Return the libraries called ``name`` in the text of a ``/proc/<pid>/maps``, in the order of their addresses.

    Parameters
    ----------
    text : str
        Lines of ``address perms offset device inode path``; the path may contain blanks.
    name : str
        File name up to ``.so``; versions behind it (``libamdhip64.so.7.2.1``) count as the same library.
    """
    found: dict[tuple[str, int], MappedLibrary] = {}
    for line in text.splitlines():
        if name not in line:
            continue
        parts = line.split(maxsplit=5)
        if len(parts) < 6 or not parts[4].isdigit():
            continue
        device, inode, path = parts[3], int(parts[4]), parts[5]
        is_deleted = path.endswith(DELETED)
        path = path.removesuffix(DELETED)
        file_name = path.rsplit("/", 1)[-1]
        if file_name == f"{name}.so" or file_name.startswith(f"{name}.so."):
            found.setdefault((device, inode), MappedLibrary(device, inode, path, is_deleted))
    return tuple(found.values())
