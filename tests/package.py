"""Build wheel and sdist, install the wheel in a fresh environment, compile and run both GPUs' kernels there.

``python tests/package.py`` needs pip to find hatchling and the dependencies; TORCH and TORCH_INDEX name PyTorch as for
make. The emulated GPU is taken from the cache if it was built before: its key knows no paths.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = (
    "phase=prefill,dtype=bfloat16,head_dim=64,group_size=2,mask_mode=causal",
    "kernel=merge_states,dtype_in=float32,dtype_out=bfloat16,head_dim=64",
)

CHECK = """
import importlib.metadata
from pathlib import Path

import torch

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.jit.render import templates_dir
from flashinfer_jit.testing import attention_reference

package = Path(flashinfer_jit.__file__).parent
assert "site-packages" in package.parts, package
assert templates_dir() == package / "templates"
assert importlib.metadata.version("flashinfer_jit") == flashinfer_jit.__version__
torch.manual_seed(0)
q, k, v = (torch.randn(n, h, 64, dtype=torch.bfloat16) for n, h in ((70, 4), (130, 2), (130, 2)))
expected, _ = attention_reference(q, k, v, causal=True)
compiled = []
flashinfer_jit.on_compile(compiled.append)
for arch in ("gfx942", "gfx950"):
    with emulator.use_arch(arch):
        o = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=True)
    error = (o.double() - expected.double()).abs().max().item()
    print(f"{arch}: largest error {error:.1e}")
    assert error < 0.02
assert not compiled, "warmup has not compiled what the call needs"
"""


def run(*argv: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed; its output is shown if it fails."""
    done = subprocess.run([str(word) for word in argv], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, argv))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist, built by hatchling in an environment of its own."""
    tools = folder / "tools"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, "hatchling", cwd=folder)
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    out = folder / "dist"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", out, cwd=ROOT, env=environment)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    # The wheel that others make of the sdist must be the same.
    unpacked = folder / "sdist"
    unpacked.mkdir()
    run("tar", "-xzf", sdist, "--strip-components=1", "-C", unpacked, cwd=folder)
    run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "again", cwd=unpacked, env=environment
    )
    (again,) = (folder / "again").glob("*.whl")
    assert contents(wheel) == contents(again), "the sdist lacks something"
    return wheel, sdist


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, but for the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def inspect(wheel: Path) -> None:
    """Raise AssertionError unless the wheel is pure and holds what is needed and no more."""
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    names = set(contents(wheel))
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flashinfer_jit" / "emulator" / "src").iterdir()}
    templates = {f"flashinfer_jit/{path.relative_to(ROOT)}" for path in (ROOT / "templates").rglob("*.j2")}
    assert sources | templates | {"flashinfer_jit/py.typed", "flashinfer_jit/__main__.py"} <= names
    foreign = [name for name in names if not name.startswith(("flashinfer_jit/", "flashinfer_jit-"))]
    assert not foreign, foreign
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-only", action="store_true", help="do not install: seconds instead of a minute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        inspect(wheel)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e3:.0f} kB, {sdist.name}: {sdist.stat().st_size / 1e3:.0f} kB")
        if options.build_only:
            return 0
        start = time.monotonic()
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        index = ("--index-url", os.environ["TORCH_INDEX"]) if os.environ.get("TORCH_INDEX") else ()
        torch = os.environ.get("TORCH") or "torch"
        # Bytecode of all of PyTorch takes as long as the rest and is used once.
        install = (python, "-m", "pip", "install", "--quiet", "--no-compile")
        run(*install, *index, torch, cwd=folder)
        run(*install, f"{wheel}[emulator]", cwd=folder)
        print(f"installed in {time.monotonic() - start:.0f} s")
        # The repository is out of reach, and the compiler is the one that the extra brings.
        environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
        environment["FLASHINFER_JIT_DEVICE"] = "emulator"
        options = [word for config in CONFIGS for word in ("--config", config)]
        warmup = (python, "-m", "flashinfer_jit.warmup", *options)
        print(run(*warmup, cwd=folder, env=environment).splitlines()[-1])
        start = time.monotonic()
        print(run(python, "-c", CHECK, cwd=folder, env=environment), end="")
        print(f"ran in {time.monotonic() - start:.0f} s, the emulated GPU built in it if it was not in the cache")
        print(run(python, "-m", "flashinfer_jit", "cache", "stats", cwd=folder, env=environment).splitlines()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
