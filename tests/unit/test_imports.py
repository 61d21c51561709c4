"""The shape of the source: which module may import which, what the left half may not import, how long a file may be."""

import ast
import re
from pathlib import Path

import pytest

from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.tiling import candidates
from support.kernel_lines import kernel_lines

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "flashinfer_jit"

# A module imports modules of its own line and of lines above, never of lines below. A package stands for what is in it,
# unless a longer name has a line of its own.
LAYERS = (
    ("errors",),
    ("env", "tables", "maps"),
    ("log",),
    ("jit", "jit.arch", "jit.files", "jit.process", "jit.codeobject"),
    ("variants",),
    ("jit.config", "jit.attention"),
    ("jit.tiling",),
    ("jit.key",),
    ("jit.params", "jit.render"),
    ("jit.families", "jit.families.apply_rope", "jit.families.batch_indices"),
    ("jit.toolchain",),
    ("jit.machine",),
    ("jit.lock", "jit.cache"),
    ("jit.compiler", "jit.inventory"),
    ("jit.diagnostics",),
    ("emulator",),
    ("runtime",),
    ("jit.loader",),
    ("jit.kernels",),
    ("scheduler",),
    ("ops",),
    ("overlap",),
    ("validation",),
    ("variant_binding",),
    (
        "kv_cache",
        "page_table",
        "plan_buffers",
        "attention_options",
        "head_scales",
        "level_masks",
        "masks",
        "quantization",
        "merge",
    ),
    ("decode_plan", "prefill_problem", "batch_masks", "utils", "level_masks"),
    ("backends", "backends.aiter_releases", "backends.aiter", "backends.aiter_prefill", "backends.aiter_decode"),
    ("page", "rope"),
    ("index_guard",),
    ("prefill_plan",),
    ("prefill_launch", "decode_launch", "single_prefill", "states"),
    ("batch_decode", "batch_prefill"),
    ("attention", "sparse"),
    ("prefill", "decode", "mla"),
    ("pod",),
    ("shared_prefix",),
    ("cascade",),
    ("testing",),
    ("presets", "progress"),
    ("plan", "explain", "collect_env"),
    ("command_line", "bench_attention"),
    ("bench_plan", "bench_warmup"),
    ("compat",),
    ("warmup", "bench", "profile", "emulator.__main__", "__main__"),
)
RUNTIME_LAYER = next(number for number, names in enumerate(LAYERS) if "runtime" in names)
# The package's own names are exported lazily, from everywhere.
FREE = ("flashinfer_jit",)

BUDGETS = {".py": 400, ".j2": 150, ".cpp": 600, ".h": 600}
MAX_RENDERED_LINES = 600
# Files that are nothing but a table, one fact a line.
PURE_TABLES: tuple[str, ...] = ()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> int:
    """Return the number of a module's line: the one with the longest name that fits."""
    name = module.removeprefix("flashinfer_jit.")
    while name:
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    raise AssertionError(f"{module} has no place in LAYERS: give it one")


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, except for type checkers only."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(inner) for part in node.body for inner in ast.walk(part))
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            # ``from package import module`` imports the module.
            found.update(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names)
    return found


def code_lines(path: Path, text: str | None = None) -> int:
    """Return the lines that are code: docstrings, comments and blanks are free."""
    text = path.read_text() if text is None else text
    if path.suffix != ".py":
        text = re.sub(r"/\*.*?\*/|\{#.*?#\}", "", text, flags=re.S)
        return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("//"))
    free: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            free.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and not line.lstrip().startswith("#") and n not in free)


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FREE])
def test_arrows_go_one_way(module: str) -> None:
    own = layer(module)
    for imported in imports(MODULES[module]):
        if imported in MODULES and imported not in FREE:
            assert layer(imported) <= own, f"{module} imports {imported}, which stands to the right of it"
        if own < RUNTIME_LAYER:
            top = imported.partition(".")[0]
            assert top not in ("torch", "hip", "rocm"), f"{module} stands left of the runtime and imports {imported}"


def test_the_walk_sees_what_it_should() -> None:
    found = imports(MODULES["flashinfer_jit.jit.kernels"])
    assert {"flashinfer_jit.jit.cache", "flashinfer_jit.env", "flashinfer_jit.jit.loader"} <= found
    assert layer("flashinfer_jit.jit.kernels") > RUNTIME_LAYER > layer("flashinfer_jit.jit.cache")
    with pytest.raises(AssertionError, match="no place"):
        layer("flashinfer_jit.nowhere")


def sources() -> list[Path]:
    folders = (PACKAGE, ROOT / "templates")
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in BUDGETS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_its_budget(path: Path) -> None:
    if str(path.relative_to(ROOT)) not in PURE_TABLES:
        assert code_lines(path) <= BUDGETS[path.suffix], "split it by concept"


def test_code_lines_are_counted_as_the_budget_means_them() -> None:
    python = '"""Doc\n\nstring."""\n\n# comment\nx = 1  # counts\n\n\ndef f():\n    """One."""\n    return """a\nb"""\n'
    assert code_lines(Path("x.py"), python) == 4
    assert code_lines(Path("x.cpp"), "/* a\n b */\n// c\nint x;\n\n  // d\nint y; // e\n") == 2


def test_no_rendered_kernel_is_longer_than_its_budget(arch: str) -> None:
    for head_dim in (64, 128):
        config = AttentionConfig("prefill", "bfloat16", "bfloat16", "bfloat16", head_dim, head_dim, 4, "causal")
        for tile in candidates(config, ARCHS[arch]):
            text = render(KernelKey(config, tile, ARCHS[arch]))
            assert kernel_lines(text) <= MAX_RENDERED_LINES
