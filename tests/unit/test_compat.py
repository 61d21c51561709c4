"""Standing in for flashinfer, each time in a process of its own: nothing of it can be undone."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code, *paths):
    path = ":".join(map(str, (ROOT, *paths)))
    environment = {"PYTHONPATH": path, "PATH": ""}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_the_same_modules_under_both_names():
    done = run(
        """
import importlib.util, sys
import flashinfer_jit
assert flashinfer_jit.install_as_flashinfer() is flashinfer_jit
assert flashinfer_jit.install_as_flashinfer() is flashinfer_jit
import flashinfer
import flashinfer.decode
from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper
from flashinfer.jit.kernels import freeze
assert flashinfer is flashinfer_jit
assert flashinfer.decode is flashinfer_jit.decode is sys.modules["flashinfer_jit.decode"]
assert flashinfer.decode.__spec__.name == flashinfer.decode.__name__ == "flashinfer_jit.decode"
assert BatchPrefillWithPagedKVCacheWrapper is flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper
assert freeze is flashinfer_jit.freeze
assert importlib.util.find_spec("flashinfer") is not None
assert importlib.util.find_spec("flashinfer.cascade") is not None
try:
    import flashinfer.nonsense
except ModuleNotFoundError as error:
    assert error.name == "flashinfer.nonsense"
else:
    raise AssertionError("flashinfer.nonsense was found")
"""
    )
    assert done.returncode == 0, done.stderr


def test_refuses_beside_the_real_one(tmp_path):
    (tmp_path / "flashinfer").mkdir()
    (tmp_path / "flashinfer" / "__init__.py").write_text("")
    for first in ("", "import flashinfer; "):
        done = run(first + "import flashinfer_jit; flashinfer_jit.install_as_flashinfer()", tmp_path)
        assert done.returncode == 1
        assert "ImportError: flashinfer itself is installed" in done.stderr
        assert str(tmp_path) in done.stderr
