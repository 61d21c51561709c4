"""Finding the one HIP runtime of a process: recorded maps texts, and two real shared libraries in a child process."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

from flashinfer_jit.errors import HipRuntimeMismatchError, KernelLoadError
from flashinfer_jit.runtime.libraries import MappedLibrary, parse_maps, require_one

# A process with a ROCm build of PyTorch: the runtime has four mappings; other files have alike names.
TORCH = "/venv/lib/python3.12/site-packages/torch/lib"
TORCH_ONLY = f"""\
55d0c0a00000-55d0c0a01000 r--p 00000000 fd:01 1311                       /usr/bin/python3.12
7f21c8000000-7f21c8021000 rw-p 00000000 00:00 0
7f21d0c00000-7f21d0d4e000 r--p 00000000 fd:01 2621550                    {TORCH}/libamdhip64.so
7f21d0d4e000-7f21d1b00000 r-xp 0014e000 fd:01 2621550                    {TORCH}/libamdhip64.so
7f21d1b00000-7f21d1c00000 r--p 00f00000 fd:01 2621550                    {TORCH}/libamdhip64.so
7f21d1c00000-7f21d1c10000 rw-p 01000000 fd:01 2621550                    {TORCH}/libamdhip64.so
7f21d2000000-7f21d2100000 r--p 00000000 fd:01 2621551                    {TORCH}/libamdhip64_extra.so
7f21d2200000-7f21d2300000 r--p 00000000 fd:01 2621552                    /tmp/notes about libamdhip64.so.txt
7ffd3b5c0000-7ffd3b5e1000 rw-p 00000000 00:00 0                          [stack]
"""
# hip-python opened the system's copy by path beside it.
WITH_SYSTEM_COPY = TORCH_ONLY + (
    "7f2200000000-7f2200100000 r-xp 00000000 fd:01 914    /opt/rocm-7.2.1/lib/libamdhip64.so.7.2.70201\n"
)
# The same file under a second path (a hard link), and a path with a blank in it.
SAME_FILE_TWICE = TORCH_ONLY + "7f2200000000-7f2200100000 r-xp 00000000 fd:01 2621550   /my libs/libamdhip64.so.7\n"
DELETED = "7f2200000000-7f2200100000 r-xp 00000000 fd:01 77   /my libs/libamdhip64.so.7 (deleted)\n"


def test_one_runtime_with_many_mappings_is_one_library():
    found = parse_maps(TORCH_ONLY)
    assert found == (MappedLibrary("fd:01", 2621550, "/venv/lib/python3.12/site-packages/torch/lib/libamdhip64.so"),)
    assert require_one(found) is found[0]


def test_versioned_name_is_found_and_alike_names_are_not():
    assert [library.path.rsplit("/", 1)[-1] for library in parse_maps(WITH_SYSTEM_COPY)] == [
        "libamdhip64.so",
        "libamdhip64.so.7.2.70201",
    ]


def test_two_runtimes_are_refused_and_both_are_named():
    with pytest.raises(HipRuntimeMismatchError) as caught:
        require_one(parse_maps(WITH_SYSTEM_COPY))
    message = str(caught.value)
    assert "/torch/lib/libamdhip64.so (PyTorch's own copy)" in message
    assert "/opt/rocm-7.2.1/lib/libamdhip64.so.7.2.70201 (the system's ROCm)" in message
    assert "Import torch before" in message


def test_one_file_under_two_paths_is_one_runtime():
    assert require_one(parse_maps(SAME_FILE_TWICE)).inode == 2621550


def test_another_file_than_the_expected_one_is_refused():
    (expected,) = parse_maps(TORCH_ONLY)
    assert require_one(parse_maps(TORCH_ONLY), expected) == expected
    with pytest.raises(HipRuntimeMismatchError, match="70201"):
        require_one(parse_maps(WITH_SYSTEM_COPY)[1:], expected)


def test_blanks_and_deleted_files_are_read():
    (library,) = parse_maps(DELETED)
    assert library == MappedLibrary("fd:01", 77, "/my libs/libamdhip64.so.7", is_deleted=True)
    assert str(library).endswith("(deleted)")


def test_no_runtime_is_an_error_that_says_what_to_do():
    with pytest.raises(KernelLoadError, match=r"import torch"):
        require_one(parse_maps("7f00-7f01 r-xp 00000000 fd:01 5 /usr/lib/libc.so.6\n"))


# The child opens a real shared library, copied under the runtime's name, privately, as a framework does. Its symbol
# must be visible after promotion and not before; a second copy (another inode) must be refused.
CHILD = """
import ctypes, os, shutil, sys
from flashinfer_jit.errors import HipRuntimeMismatchError
from flashinfer_jit.runtime import libraries

source, folder = sys.argv[1:]
first, second = os.path.join(folder, "a", "libamdhip64.so.7"), os.path.join(folder, "b", "libamdhip64.so")
for path in (first, second):
    os.makedirs(os.path.dirname(path))
    shutil.copyfile(source, path)

def is_visible():
    try:
        return bool(ctypes.CDLL(None).PyInit_bit_generator)
    except AttributeError:
        return False

ctypes.CDLL(first, mode=os.RTLD_NOW | os.RTLD_LOCAL)
assert not is_visible()
library = libraries.require_one(libraries.mapped_libraries())
assert library.path == first, library
libraries.promote(library)
assert is_visible()

ctypes.CDLL(second, mode=os.RTLD_NOW | os.RTLD_LOCAL)
try:
    libraries.require_one(libraries.mapped_libraries(), library)
except HipRuntimeMismatchError as error:
    assert first in str(error) and second in str(error), error
    print("refused")
"""


def test_promotion_and_second_copy_with_real_libraries(tmp_path):
    # NumPy's extension modules are ordinary shared libraries with a symbol that nothing else in the child defines.
    library = importlib.util.find_spec("numpy.random.bit_generator").origin
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), library, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "refused"
