import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashinfer_jit.errors import UnsafeCacheError
from flashinfer_jit.jit import cache
from flashinfer_jit.jit.cache import Cache, source_key, user_root
from flashinfer_jit.jit.kernels import build_kernel, find_entry
from support import fake_hipcc
from support.vector_add import vector_add_key

KEY = vector_add_key()


@pytest.fixture
def ordinary_user():
    """Takes away root's power to write where the mode forbids it, as long as the test runs."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Version 3 of the interface: effective, permitted and inheritable sets, 32 bits each, twice.
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] = before & ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    yield
    sets[0] = before
    assert libc.capset(header, sets) == 0


def compilations(monkeypatch, tmp_path: Path) -> Path:
    """Have the fake compiler write a line for each kernel that it compiles."""
    counter = tmp_path / "compilations"
    monkeypatch.setenv("FAKE_HIPCC_COUNTER", str(counter))
    counter.touch()
    return counter


def count(counter: Path) -> int:
    return len(counter.read_text().splitlines())


# Where it is


def test_the_environment_decides_where_the_cache_is(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("FLASHINFER_JIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_root() == tmp_path / "home" / ".cache" / "flashinfer_jit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_root() == tmp_path / "xdg" / "flashinfer_jit"
    monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(tmp_path / "own"))
    assert user_root() == tmp_path / "own"


def test_a_user_without_a_home_has_a_cache_of_its_own(monkeypatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FLASHINFER_JIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert user_root().name == f"flashinfer_jit-{os.geteuid()}"


def test_the_tree_is_the_documented_one(hipcc, cache_dir) -> None:
    entry = build_kernel(KEY)
    version, arch, slug, source, toolchain_id, *rest = entry.library.relative_to(cache_dir).parts
    assert (version, arch, slug, rest) == ("v1", "gfx942", "vector_add-x1-q256x0-w4", ["kernel.so"])
    assert len(source) == 16 and len(toolchain_id) == 12
    meta = json.loads((entry.directory / "meta.json").read_text())
    assert meta["key"] == KEY.to_dict() and meta["resources"]["vgpr"] == 8 and meta["source_key"] == source
    assert meta["library"]["bytes"] == entry.library.stat().st_size


# What is in the key


def test_the_source_key_follows_contents_and_nothing_else() -> None:
    base = source_key("text", ("-O3",), "gfx942")
    assert base == source_key("text", ("-O3",), "gfx942")
    others = [source_key("texu", ("-O3",), "gfx942"), source_key("text", ("-O2",), "gfx942")]
    others += [source_key("text", ("-O3",), "gfx950"), source_key("text", ("-O3", ""), "gfx942")]
    assert len({base, *others}) == 5


def test_places_and_times_are_not_in_the_key(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    """The same templates and compiler elsewhere, with other times, under another name: all hits."""
    counter = compilations(monkeypatch, tmp_path)
    build_kernel(KEY)
    templates = Path(os.environ["FLASHINFER_JIT_TEMPLATE_DIR"])
    moved = shutil.copytree(templates, tmp_path / "moved", copy_function=shutil.copyfile)
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(moved))
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(fake_hipcc.install(tmp_path / "elsewhere")))
    link = tmp_path / "link"
    link.symlink_to(cache_dir)
    monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(link))
    build_kernel(KEY)
    assert count(counter) == 1


@pytest.mark.parametrize("change", ["template", "flags", "debug", "compiler", "arch", "config"])
def test_what_changes_the_kernel_is_in_the_key(hipcc, cache_dir, monkeypatch, tmp_path, change) -> None:
    counter = compilations(monkeypatch, tmp_path)
    build_kernel(KEY)
    key = KEY
    if change == "template":
        moved = shutil.copytree(os.environ["FLASHINFER_JIT_TEMPLATE_DIR"], tmp_path / "moved")
        with open(moved / "vector_add.hip.j2", "a") as template:
            template.write("// changed\n")
        monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(moved))
    elif change == "flags":
        monkeypatch.setenv("FLASHINFER_JIT_EXTRA_HIPCCFLAGS", "-DX")
    elif change == "debug":
        monkeypatch.setenv("FLASHINFER_JIT_DEBUG", "1")
    elif change == "compiler":
        monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(fake_hipcc.install(tmp_path / "newer", "2.0")))
    else:
        key = vector_add_key("gfx950") if change == "arch" else vector_add_key(factor=2)
    build_kernel(key)
    assert count(counter) == 2


# Hits and misses


def test_a_second_process_compiles_nothing(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    counter = compilations(monkeypatch, tmp_path)
    script = "from support.vector_add import vector_add_key; from flashinfer_jit.jit.kernels import build_kernel\n"
    script += "build_kernel(vector_add_key())"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert count(counter) == 1


def test_without_a_compiler_any_toolchains_entry_serves_newest_first(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    build_kernel(KEY)
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(fake_hipcc.install(tmp_path / "newer", "2.0")))
    newer = build_kernel(KEY)
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    found = find_entry(KEY)
    assert found is not None and found.directory == newer.directory
    os.utime(newer.directory, (1, 1))
    found = find_entry(KEY)
    assert found is not None and found.directory != newer.directory


def test_prebuilt_folders_come_first_and_need_no_compiler(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    build_kernel(KEY)
    prebuilt = tmp_path / "prebuilt"
    cache_dir.rename(prebuilt)
    monkeypatch.setenv("FLASHINFER_JIT_PREBUILT_PATH", f"{tmp_path / 'none'}:{prebuilt}")
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    entry = build_kernel(KEY)
    assert entry.library.is_relative_to(prebuilt)
    assert not cache_dir.exists()


# Damage

DAMAGE = {
    "truncated": lambda entry: os.truncate(entry.library, 100),
    "empty": lambda entry: os.truncate(entry.library, 0),
    "bit": lambda entry: entry.library.write_bytes(entry.library.read_bytes()[:-1] + b"\xff"),
    "library gone": lambda entry: entry.library.unlink(),
    "meta gone": lambda entry: (entry.directory / "meta.json").unlink(),
    "meta empty": lambda entry: os.truncate(entry.directory / "meta.json", 0),
    "meta not json": lambda entry: (entry.directory / "meta.json").write_text("{"),
    "meta other json": lambda entry: (entry.directory / "meta.json").write_text("[]"),
    "other schema": lambda entry: (entry.directory / "meta.json").write_text(
        json.dumps({**entry.meta, "schema": cache.SCHEMA + 1})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_moved_aside_and_compiled_again(
    hipcc, cache_dir, monkeypatch, tmp_path, caplog, damage
) -> None:
    counter = compilations(monkeypatch, tmp_path)
    entry = build_kernel(KEY)
    DAMAGE[damage](entry)
    again = build_kernel(KEY)
    assert again.directory == entry.directory and count(counter) == 2
    assert "damaged cache entry" in caplog.text
    assert len(list((cache_dir / "v1" / "broken").iterdir())) == 1
    assert build_kernel(KEY).meta == again.meta and count(counter) == 2


def test_a_damaged_entry_in_a_read_only_folder_is_a_miss_that_is_said(
    hipcc, cache_dir, monkeypatch, tmp_path, caplog, ordinary_user
) -> None:
    entry = build_kernel(KEY)
    prebuilt = tmp_path / "prebuilt"
    cache_dir.rename(prebuilt)
    os.truncate(prebuilt / entry.library.relative_to(cache_dir), 10)
    for path in (prebuilt, *(p for p in prebuilt.rglob("*") if p.is_dir())):
        path.chmod(0o500)
    monkeypatch.setenv("FLASHINFER_JIT_PREBUILT_PATH", str(prebuilt))
    assert build_kernel(KEY).library.is_relative_to(cache_dir)
    assert "damaged cache entry ignored" in caplog.text
    for path in (prebuilt, *(p for p in prebuilt.rglob("*") if p.is_dir())):
        path.chmod(0o700)


# Publishing


def test_the_loser_of_a_race_takes_the_winners_entry(hipcc, cache_dir, monkeypatch) -> None:
    """Both compile because there are no locks; the second to publish finds the first's entry."""
    real = cache.Cache.lookup
    first = build_kernel(KEY)
    monkeypatch.setattr(cache.Cache, "lookup", lambda *_: None)
    second = build_kernel(KEY)
    monkeypatch.setattr(cache.Cache, "lookup", real)
    assert second.directory == first.directory
    assert second.meta["library"] == first.meta["library"]
    assert list((cache_dir / "v1" / "staging").iterdir()) == []


def test_a_damaged_entry_is_replaced_when_published_over(hipcc, cache_dir, monkeypatch) -> None:
    real = cache.Cache.lookup
    first = build_kernel(KEY)
    os.truncate(first.library, 5)
    monkeypatch.setattr(cache.Cache, "lookup", lambda *_: None)
    build_kernel(KEY)
    monkeypatch.setattr(cache.Cache, "lookup", real)
    found = find_entry(KEY)
    assert found is not None and found.library.stat().st_size > 5


def test_what_killed_processes_left_is_swept_but_not_what_is_fresh(hipcc, cache_dir) -> None:
    staging = cache_dir / "v1" / "staging"
    staging.mkdir(parents=True, mode=0o700)
    cache_dir.chmod(0o700)
    for name, age in (("old", 7200), ("fresh", 60)):
        (staging / name).mkdir()
        (staging / name / "kernel.hip").touch()
        os.utime(staging / name, (time.time() - age,) * 2)
    build_kernel(KEY)
    assert [path.name for path in staging.iterdir()] == ["fresh"]


def test_a_name_that_a_network_file_system_remembers_wrongly_is_read_again(hipcc, cache_dir, monkeypatch) -> None:
    build_kernel(KEY)
    real, stale = Path.read_bytes, [1, 1]

    def read(path: Path) -> bytes:
        if path.name == "meta.json" and stale:
            stale.pop()
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert find_entry(KEY) is not None


# Who may write it


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_made_is_for_this_user_alone(hipcc, cache_dir, umask) -> None:
    before = os.umask(umask)
    try:
        build_kernel(KEY)
    finally:
        os.umask(before)
    for path in (cache_dir, *cache_dir.rglob("*")):
        if path.suffix != ".owner":
            assert not path.stat().st_mode & 0o077 or path.parent.name == "toolchains", path
    assert find_entry(KEY) is not None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_cache_that_others_can_write_is_refused(hipcc, cache_dir, monkeypatch, mode) -> None:
    cache_dir.mkdir()
    cache_dir.chmod(mode)
    with pytest.raises(
        UnsafeCacheError, match=rf"{cache_dir} can be written by other users \(mode {mode:04o}\).*chmod"
    ):
        build_kernel(KEY)
    assert list(cache_dir.iterdir()) == []
    monkeypatch.setenv("FLASHINFER_JIT_TRUST_CACHE", "1")
    assert build_kernel(KEY).library.is_relative_to(cache_dir)


@pytest.mark.parametrize("which", ["directory", "library"])
def test_an_entry_that_others_can_write_is_refused(hipcc, cache_dir, which) -> None:
    entry = build_kernel(KEY)
    (entry.directory if which == "directory" else entry.library).chmod(0o666)
    with pytest.raises(UnsafeCacheError, match="chmod"):
        build_kernel(KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_refused(hipcc, cache_dir) -> None:
    build_kernel(KEY)
    os.chown(cache_dir, 12345, 12345)
    with pytest.raises(UnsafeCacheError, match="belongs to user 12345"):
        build_kernel(KEY)


# When it cannot be written


def unwritable(kind: str, cache_dir: Path, monkeypatch) -> None:
    if kind == "read-only":
        cache_dir.mkdir(mode=0o500)
    elif kind == "file":
        cache_dir.write_text("not a directory")
    elif kind == "below a file":
        cache_dir.with_name("file").touch()
        monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(cache_dir.with_name("file") / "cache"))
    elif kind == "no such device":
        monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", "/proc/nowhere/cache")


@pytest.mark.parametrize("kind", ["read-only", "file", "below a file", "no such device"])
def test_without_a_writable_cache_kernels_live_as_long_as_the_process(
    hipcc, cache_dir, monkeypatch, tmp_path, caplog, ordinary_user, kind
) -> None:
    counter = compilations(monkeypatch, tmp_path)
    unwritable(kind, cache_dir, monkeypatch)
    entry = build_kernel(KEY)
    assert entry.library.exists() and count(counter) == 1
    assert build_kernel(KEY).directory == entry.directory and count(counter) == 1
    warnings = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(warnings) == 1 and "FLASHINFER_JIT_CACHE_DIR" in warnings[0]


def test_the_cache_of_one_process_is_removed_at_its_end(hipcc, cache_dir) -> None:
    cache_dir.write_text("not a directory")
    script = (
        "import os\n"
        "from support.vector_add import vector_add_key\n"
        "from flashinfer_jit.jit.kernels import build_kernel\n"
        "entry = build_kernel(vector_add_key())\n"
        "print(entry.library, flush=True)  # or the child prints it as well\n"
        "if os.fork() == 0: raise SystemExit\n"
        "os.wait(); print(entry.library.exists())"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    library, survived_the_fork = done.stdout.split()
    assert survived_the_fork == "True" and not Path(library).exists()


def test_a_disk_that_is_full_while_publishing(hipcc, cache_dir, monkeypatch, caplog) -> None:
    real = Path.write_text

    def write(path: Path, text: str, *rest, **more) -> int:
        if path.name == "meta.json" and path.is_relative_to(cache_dir):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, text, *rest, **more)

    monkeypatch.setattr(Path, "write_text", write)
    entry = build_kernel(KEY)
    assert not entry.library.is_relative_to(cache_dir)
    assert "No space left on device" in caplog.text
    assert find_entry(KEY) is not None and list((cache_dir / "v1" / "staging").iterdir()) == []


def test_a_read_only_cache_still_gives_what_it_has(hipcc, cache_dir, monkeypatch, tmp_path, ordinary_user) -> None:
    counter = compilations(monkeypatch, tmp_path)
    entry = build_kernel(KEY)
    folders = [cache_dir, *(path for path in cache_dir.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o500)
    assert build_kernel(KEY).directory == entry.directory and count(counter) == 1
    assert not build_kernel(vector_add_key(factor=2)).library.is_relative_to(cache_dir)
    for path in folders:
        path.chmod(0o700)


# At once

RANK = """
import sys
from support.vector_add import vector_add_key
from flashinfer_jit.jit.kernels import build_kernel
sys.stdin.readline()
for factor in range(int(sys.argv[1])):
    print(build_kernel(vector_add_key(factor=factor)).library)
"""


def test_processes_that_ask_at_once_compile_each_kernel_once(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    counter = compilations(monkeypatch, tmp_path)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    argv = [sys.executable, "-c", RANK, "3"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(argv, env=environment, **pipes) for _ in range(4)]
    for rank in ranks:
        rank.stdin.write("go\n")
        rank.stdin.flush()
    said = [rank.communicate()[0].split() for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks)
    assert said == [said[0]] * 4 and len(set(said[0])) == 3
    assert count(counter) == 3


def test_two_copies_of_a_cache_object_agree(cache_dir) -> None:
    assert Cache(cache_dir).kernel_directory(KEY, "0" * 16) == Cache(cache_dir).kernel_directory(
        vector_add_key(), "0" * 16
    )
