"""What a bug report needs to say of a machine, each part looked up by itself so that one failure hides no other.

Neither torch nor a HIP library is loaded for it: what a process has loaded is read from its ``/proc/<pid>/maps``.
"""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flashinfer_jit import __version__, env
from flashinfer_jit.jit import cache, inventory, machine, toolchain
from flashinfer_jit.jit.render import templates_dir
from flashinfer_jit.maps import RUNTIME_NAME, parse_maps

PACKAGES = (
    "torch",
    "jinja2",
    "filelock",
    "numpy",
    "hip-python",
    "ziglang",
    "flashinfer-python",
    "amd-flashinfer",
    "amd-aiter",
    "aiter",
)
LIBRARY_FOLDERS = ("/opt/rocm/lib", "/opt/rocm/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib")
KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")


@dataclass(frozen=True)
class HipLibrary:
    """One HIP runtime file.

    Attributes
    ----------
    device, inode : int
        What tells files apart, whatever the paths.
    paths : tuple of str
        Where it is installed, or mapped from.
    is_loaded : bool
        Whether the process looked at has it mapped.
    """

    device: int
    inode: int
    paths: tuple[str, ...]
    is_loaded: bool


def collect(pid: int | None = None) -> dict[str, Any]:
    """Return everything, by heading.

    Parameters
    ----------
    pid : int, optional
        The process whose loaded libraries are of interest; this one if not given.

    Raises OSError if there is no such process, or it is another user's.
    """
    if pid is not None:
        # Wrong here is the option, not the machine.
        Path(f"/proc/{pid}/maps").open().close()
    probes: dict[str, Callable[[], Any]] = {
        "flashinfer_jit": lambda: {"version": __version__, "package": str(Path(__file__).parent)},
        "templates": lambda: str(templates_dir()),
        "python": lambda: f"{platform.python_version()} at {sys.executable}",
        "system": platform.platform,
        "cpu": _cpu,
        "cores": machine.usable_cores,
        "memory_available_bytes": machine.available_bytes,
        "jobs": machine.max_jobs,
        "packages": _packages,
        "torch_hip": _torch_hip,
        "compilers": _compilers,
        "gpus": _gpus,
        "hip_libraries": lambda: [vars(library) for library in hip_libraries(pid)],
        "environment": _environment,
        "cache": lambda: inventory.stats(cache.Cache(cache.user_root())),
    }  # fmt: skip
    return {name: _guarded(probe) for name, probe in probes.items()}


def _guarded(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception as error:  # A report that fails is of no use to anybody.
        return f"cannot be found out: {type(error).__name__}: {error}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _compilers() -> list[str]:
    memo_dir = cache.Cache(cache.user_root()).base / "toolchains"
    return [found.title for found in toolchain.find_all(memo_dir if memo_dir.is_dir() else None)]


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _torch_hip() -> str:
    """Return the HIP version that torch was built for, read from its version file without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    text = (Path(spec.origin).parent / "version.py").read_text()
    match = re.search(r"^hip\b[^=]*=\s*(?:'([^']*)'|\"([^\"]*)\"|None)", text, re.M)
    version = match and (match[1] or match[2])
    return version or "torch is no ROCm build"


def _gpus() -> list[str]:
    """Return the LLVM names of the AMD GPUs that the kernel driver knows."""
    found = []
    for node in sorted(KFD_NODES.glob("*/properties")):
        for line in node.read_text().splitlines():
            name, _, value = line.partition(" ")
            # 90402 stands for gfx942: major, minor and stepping in two decimal digits each; CPUs have 0.
            if name == "gfx_target_version" and value.isdecimal() and int(value):
                version = int(value)
                found.append(f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}")
    return found


def _environment() -> dict[str, str]:
    known = {var.name for var in env.TABLE}
    mine = {name: value for name, value in os.environ.items() if name in known or name.startswith(env.PREFIX)}
    return dict(sorted(mine.items()))


def _folders() -> list[Path]:
    roots = [root for var in (env.ROCM_PATH, env.ROCM_HOME, env.HIP_PATH) if (root := var.get()) is not None]
    folders = [root / "lib" for root in roots] + [Path(folder) for folder in LIBRARY_FOLDERS]
    for package in ("torch", "_rocm_sdk_core", "_rocm_sdk_devel"):
        spec = find_spec(package)
        folders += [Path(place) / "lib" for place in (spec.submodule_search_locations or ())] if spec else []
    folders += [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]
    return list(dict.fromkeys(folders))


def hip_libraries(pid: int | None = None) -> list[HipLibrary]:
    """Return every HIP runtime that is installed in a known place or mapped into a process, one per file.

    Two of them with ``is_loaded`` are the error that kernels fail with on the framework's streams only.
    """
    paths: dict[tuple[int, int], dict[str, None]] = {}
    for folder in _folders():
        for path in sorted(folder.glob(f"{RUNTIME_NAME}.so*")):
            with contextlib.suppress(OSError):
                status = path.stat()
                paths.setdefault((status.st_dev, status.st_ino), {})[str(path)] = None
    loaded = set()
    text = Path(f"/proc/{pid or 'self'}/maps").read_text(errors="surrogateescape")
    for mapped in parse_maps(text):
        major, minor = (int(part, 16) for part in mapped.device.split(":"))
        file = (os.makedev(major, minor), mapped.inode)
        loaded.add(file)
        paths.setdefault(file, {})[str(mapped)] = None
    return [HipLibrary(*file, tuple(found), file in loaded) for file, found in paths.items()]
