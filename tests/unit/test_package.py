"""The package as a whole: importing it does nothing, public names resolve."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flashinfer_jit

ROOT = Path(flashinfer_jit.__file__).resolve().parent


def run(script, folder, **variables):
    # A broken setting must not matter before it is used.
    variables = {"PYTHONPATH": str(ROOT.parent), "HOME": str(folder), "PATH": os.environ["PATH"], **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=variables, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_has_no_side_effects(tmp_path):
    script = (
        "import sys, os; import flashinfer_jit;"
        "heavy = {'torch', 'jinja2', 'filelock', 'numpy', 'hip', 'rocm', 'logging'} & set(sys.modules);"
        "assert not heavy, heavy; assert os.listdir('.') == []; print(flashinfer_jit.__version__)"
    )
    assert run(script, tmp_path, FLASHINFER_JIT_DEVICE="nonsense") == flashinfer_jit.__version__


def test_compiling_needs_no_torch(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None; from flashinfer_jit.jit import kernels; print('hip' in sys.modules)"
    )
    assert run(script, tmp_path) == "False"


def test_using_the_api_imports_no_hip_python(tmp_path):
    """hip-python opens the HIP runtime by a path of its own: it is for those who ask for it."""
    script = "import sys, flashinfer_jit; flashinfer_jit.device(); print({'hip', 'rocm'} & set(sys.modules))"
    assert run(script, tmp_path) == "set()"


@pytest.mark.parametrize("name", flashinfer_jit.__all__)
def test_public_names_resolve(name):
    assert getattr(flashinfer_jit, name) is not None
    assert name in dir(flashinfer_jit)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'single_prefil'"):
        _ = flashinfer_jit.single_prefil


def test_no_public_name_is_a_submodule_too():
    """Importing the submodule would replace the function in its package."""
    import flashinfer_jit.emulator

    for package in (flashinfer_jit, flashinfer_jit.emulator):
        folder = Path(package.__file__).parent
        for name in package.__all__:
            is_submodule = (folder / f"{name}.py").exists() or (folder / name).is_dir()
            assert not is_submodule or getattr(package, "_EXPORTS", {}).get(name) == name, name
