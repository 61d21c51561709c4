"""Options and fixtures of all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashinfer_jit import emulator
from flashinfer_jit.jit import cache, kernels, toolchain
from flashinfer_jit.jit.arch import ARCHS
from support import fake_hipcc, vector_add

# Kernels that tests compile are kept between runs, apart from the user's own.
os.environ.setdefault("FLASHINFER_JIT_CACHE_DIR", str(Path(__file__).resolve().parents[1] / "build" / "cache"))

# A shell that starts the tests in the background has Ctrl-C ignored, and children inherit that: those that the tests
# interrupt would never hear of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arch", choices=sorted(ARCHS), help="run tests on this GPU only")
    parser.addoption("--full", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "arch" in metafunc.fixturenames:
        only = metafunc.config.getoption("--arch")
        metafunc.parametrize("arch", [only] if only else sorted(ARCHS))


@pytest.fixture
def on_arch(arch: str) -> Iterator[None]:
    """The emulated GPU is ``arch``; files of which all tests are to run on both GPUs mark themselves with it."""
    with emulator.use_arch(arch):
        yield


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty kernel cache, with no kernel loaded and no compiler known."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(folder))
    monkeypatch.setattr(cache, "_temporary", None)
    monkeypatch.setattr("flashinfer_jit.log._said", set())
    kernels.forget()
    toolchain.forget()
    yield folder
    kernels.forget()
    toolchain.forget()


@pytest.fixture
def vector_add_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the template of the tests' own kernel known."""
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(vector_add.TEMPLATES))


@pytest.fixture
def hipcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path, vector_add_template: None) -> Path:
    """A fake hipcc, in force; see support/fake_hipcc.py."""
    path = fake_hipcc.install(tmp_path / "rocm" / "bin")
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(path))
    return path
