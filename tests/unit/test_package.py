"""The package as a whole: importing it does nothing, names resolve."""

import subprocess
import sys
from pathlib import Path

import pytest

import flashinfer_jit

ROOT = Path(flashinfer_jit.__file__).resolve().parent


def test_importing_the_package_has_no_side_effects(tmp_path):
    script = (
        "import sys, os; before = set(os.listdir('.')); import flashinfer_jit;"
        "heavy = {'torch', 'jinja2', 'filelock', 'numpy', 'hip', 'rocm', 'logging'} & set(sys.modules);"
        "assert not heavy, heavy; assert set(os.listdir('.')) == before; print(flashinfer_jit.__version__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # A broken setting must not matter before it is used.
        env={"PYTHONPATH": str(ROOT.parent), "HOME": str(tmp_path), "FLASHINFER_JIT_DEVICE": "nonsense"},
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == flashinfer_jit.__version__


def test_compiling_needs_no_torch(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None; from flashinfer_jit.jit import kernels; "
        "assert 'hip' not in sys.modules; print(len(kernels.__all__) > 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "True", run.stderr


@pytest.mark.parametrize("name", flashinfer_jit.__all__)
def test_public_names_resolve(name):
    assert getattr(flashinfer_jit, name) is not None
    assert name in dir(flashinfer_jit)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'single_prefil'"):
        _ = flashinfer_jit.single_prefil
