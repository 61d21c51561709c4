"""The package as a whole: importing it does nothing, names resolve, dependencies point one way, files stay small."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import flashinfer_jit

ROOT = Path(flashinfer_jit.__file__).resolve().parent

# Left to right: a module may import those to its left and its own level, as the design's arrow says.
LEVELS = (
    ("errors", "env", "log", "tables"),
    ("jit.arch", "jit.config", "jit.files", "jit.process", "jit.codeobject", "variants"),
    ("jit.tiling", "jit.key"),
    ("jit.params", "jit.render"),
    ("jit.toolchain",),
    ("jit.cache", "jit.lock"),
    ("jit.compiler", "jit.diagnostics"),
    ("emulator",),
    ("runtime",),
    ("jit.loader",),
    ("jit.kernels",),
    ("scheduler",),
    ("validation", "testing", "ops"),
    ("page", "cascade", "backends"),
    ("prefill", "decode", "mla", "pod"),
    ("warmup", "bench", "profile", "__main__"),
)


def level_of(module: str) -> int:
    for level, names in enumerate(LEVELS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return level
    raise AssertionError(f"{module} has no place in LEVELS")


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        if name not in ("__init__", "jit"):
            yield name, path


def imports_of(path: Path) -> set[str]:
    """Return all names that a file imports, wherever in it, except those for type checkers only."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            skipped.update(id(inner) for inner in ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def code_lines(text: str) -> int:
    """Return the number of lines that are neither blank nor only comment or docstring."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            docstrings.update(range(body[0].lineno, (body[0].end_lineno or 0) + 1))
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_point_one_way(name, path):
    level = level_of(name)
    for imported in imports_of(path):
        if imported.startswith("flashinfer_jit."):
            inner = imported.removeprefix("flashinfer_jit.")
            assert level_of(inner) <= level, f"{name} imports {inner}, which stands to its right"
        elif level < level_of("runtime"):
            assert imported.split(".")[0] not in ("torch", "hip", "rocm"), f"{name} imports {imported}"


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_files_stay_within_their_budget(name, path):
    assert code_lines(path.read_text()) <= 400


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
