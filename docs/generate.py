"""Write the parts of docs/ that come from code: ``make docs``; ``python docs/generate.py --check`` only compares."""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import support_matrix  # noqa: E402

import flashinfer_jit  # noqa: E402
from flashinfer_jit import env, presets  # noqa: E402
from flashinfer_jit.backends import aiter, aiter_releases  # noqa: E402
from flashinfer_jit.jit import cache, inventory  # noqa: E402

NOTE = "<!-- Written by docs/generate.py (make docs): change the code, not this file. -->\n"
GROUPS = {
    "cache": "Where kernels are",
    "compile": "How they are compiled",
    "device": "What they run on",
    "checks": "Looking closer",
    "honoured": "Other tools' variables that are honoured",
}


def environment() -> str:
    """Return the tables of environment variables and of the cache's folders."""
    lines = ["# Environment variables and cache folders", "", NOTE]
    lines += [
        "Values are read when they are needed, never at import. A value that is not allowed is an error that says"
    ]
    lines += ["what is; a variable that begins with `FLASHINFER_JIT_` and that nothing reads is warned about.", ""]
    for group, title in GROUPS.items():
        lines += [f"## {title}", "", "| variable | values | default | meaning |", "|---|---|---|---|"]
        for var in env.TABLE:
            if var.group == group:
                lines.append(f"| `{var.name}` | {var.allowed} | {_default(var.default)} | {var.help} |")
        lines.append("")
    lines += ["## Folders of the cache", "", f"All of them below `<cache>/{cache.VERSION}/`:", ""]
    lines += ["| folder | content | removed by |", "|---|---|---|"]
    lines += [f"| `{name}` | {what} | {how} |" for name, (what, how) in FOLDERS.items()]
    lines += ["", f"An entry has four files: `{cache.SOURCE}` (the rendered source), `{cache.LIBRARY}`, `{cache.META}`"]
    lines += [f"(key, compiler, flags, registers, size and digest of the library) and `{cache.LOG}`.", ""]
    return "\n".join(lines)


FOLDERS = {
    "<arch>/<slug>/<source key>/<toolchain id>": ("one kernel", "`cache prune`, `cache clear`"),
    "locks": ("lock files, of no size; `locks/slots` bounds the compilers of a machine", "never: see cache.md"),
    "staging": ("what is being compiled", "whoever compiles next, after an hour"),
    "failed": ("source and log of kernels that did not compile", "`cache prune`, `cache clear`"),
    "broken": ("damaged entries, moved aside", "`cache prune`, `cache clear`"),
    "toolchains": ("what compilers say of themselves", "`cache clear`"),
    inventory.EMULATOR: ("the built emulated GPU", "`cache clear --emulator`"),
}


def _default(value: object) -> str:
    if value is None or value in ((), frozenset()):
        return "unset"
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def models() -> str:
    """Return the table of presets."""
    lines = ["# Presets of warmup", "", NOTE, "`python -m flashinfer_jit.warmup --preset NAME,...`", ""]
    lines += [
        "| preset | query/KV heads | head dims | beside it | model | numbers agree with |",
        "|---|---|---|---|---|---|",
    ]
    notes: dict[str, int] = {}
    for name, model in presets.MODELS.items():
        dims = "/".join(map(str, dict.fromkeys((model.head_dim_qk, model.head_dim_vo))))
        mark = "**" if name in presets.DEFAULT_PRESETS else ""
        heads = f"{model.num_qo_heads}/{model.num_kv_heads}"
        extra = ", ".join(model.features())
        if model.note:
            extra = f"{extra} ({notes.setdefault(model.note, len(notes) + 1)})".strip()
        lines.append(f"| {mark}{name}{mark} | {heads} | {dims} | {extra} | `{model.source}` | {model.checked} |")
    lines += ["", "Bold: compiled when nothing is named.", ""]
    lines += [f"({number}) {note[0].upper()}{note[1:]}." for note, number in notes.items()]
    return "\n".join([*lines, "", PRESET_KERNELS])


PRESET_KERNELS = """\
The numbers are taken to be those of each publisher's `config.json`, which was not at hand; the last column names public
text that was read and gives the same ones.

For each model and dtype a preset has every tile of: prefill and decode of single requests; prefill with the causal
mask from ragged keys and from pages of one token and of multiples of 16; prefill without a mask from pages, as the
shared level of a cascade and the cached part of a long prompt use it; decode from pages; each of them with and
without the sliding window where layers differ, and with the soft cap; with and without sinks, because `plan()`
prepares the kernel without before `run()` asks for the one with; merging of partial results and of states; appending
to the cache. `--kv-dtype` makes the paged cache fp8. Not in a preset, and compiled when first used, or by `--config`
and `--from-log`: custom masks, RoPE and ALiBi inside the kernel (engines rotate before), pages of other sizes, fp32
outputs. Tensor parallelism over more GPUs than a model has KV heads changes the ratio of heads, which is
configuration: name it with `--config ...,group_size=N`.

Models with latent attention (DeepSeek V2 and V3) have prefill only, on keys and values projected from the latent
cache. Decoding on the latent cache itself (MLA) is not built.
"""


def api() -> str:
    """Return the reference of all public names, from their docstrings."""
    lines = ["# API reference", "", NOTE]
    modules = sorted(name for name, module in flashinfer_jit._EXPORTS.items() if name == module)
    functions = sorted(name for name, module in flashinfer_jit._EXPORTS.items() if name != module)
    lines += ["## flashinfer_jit", "", _first_paragraph(flashinfer_jit), ""]
    for name in functions:
        lines += _described(f"flashinfer_jit.{name}", getattr(flashinfer_jit, name), "###")
    for name in modules:
        module = importlib.import_module(f"flashinfer_jit.{name}")
        described = [
            (public, value)
            for public in _public(module)
            if (value := getattr(module, public)) is not getattr(flashinfer_jit, public, None)
        ]
        if described:
            lines += [f"## flashinfer_jit.{name}", "", _first_paragraph(module), ""]
            for public, value in described:
                lines += _described(f"flashinfer_jit.{name}.{public}", value, "###")
    return "\n".join(lines).rstrip() + "\n"


def _public(module: Any) -> list[str]:
    """Return the names of a module's own functions and classes."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = []
    for name in sorted(names):
        value = getattr(module, name)
        own = getattr(value, "__module__", "").startswith(module.__name__)
        if own and (inspect.isclass(value) or callable(value)):
            found.append(name)
    return found


def _first_paragraph(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def _described(name: str, thing: Any, heading: str) -> list[str]:
    lines = [f"{heading} {name}", ""]
    if not (inspect.isclass(thing) and issubclass(thing, BaseException)):
        lines += ["```python", _signature(name.rpartition(".")[2], thing), "```", ""]
    text = inspect.getdoc(thing) or ""
    if dataclasses.is_dataclass(thing) and text.startswith(f"{thing.__name__}("):
        text = ""
    lines += [*_markdown(text), ""]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and inspect.isfunction(value) and value.__doc__:
                lines += _described(f"{name}.{method}", value, "####")
    return lines


def _signature(name: str, thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    parts, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        # Where Python keeps a class is its own affair and changes with its version.
        parts.append(str(parameter).replace("pathlib._local.", "pathlib."))
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty else f" -> {inspect.formatannotation(returns)}"
    one_line = f"{name}({', '.join(parts)}){arrow}"
    if len(one_line) <= 100:
        return one_line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){arrow}"


def _markdown(text: str) -> list[str]:
    """Return a numpydoc text with bold headings and its items as lists."""
    lines = text.splitlines()
    out: list[str] = []
    section = ""
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if following and set(following) == {"-"} and len(following) == len(line):
            section = line
            out += [f"**{line}**"]
        elif line and set(line) == {"-"} and section:
            out.append("")
        elif section and line and not line.startswith(" ") and following.startswith("    "):
            out.append(f"* `{line}`")
        elif section and line.startswith("    "):
            out.append(f"  {line.strip()}")
        else:
            out.append(line)
    return [re.sub(r":math:`([^`]*)`", r"$\1$", line.replace("``", "`")).rstrip() for line in out]


BEGIN, END = "<!-- kernel: written by make docs -->\n", "<!-- end of kernel -->\n"
SUPPORT_BEGIN = "<!-- support: written by make docs from docs/support.toml -->\n"
SUPPORT_END = "<!-- end of support -->\n"
GOLDEN = HERE.parent / "tests" / "golden" / "gfx942-prefill-main.hip"


def readme() -> str:
    """Return the README with a kernel's heart and the support matrix, between their marks."""
    text = (HERE.parent / "README.md").read_text()
    before, _, rest = text.partition(SUPPORT_BEGIN)
    text = f"{before}{SUPPORT_BEGIN}{support_matrix.markdown()}{SUPPORT_END}{rest.partition(SUPPORT_END)[2]}"
    lines = GOLDEN.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if "for (int first_key = work.first_key" in line)
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = next(n for n in range(first, len(lines)) if lines[n] == " " * indent + "}")
    excerpt = "".join(line[indent:] + "\n" if line.startswith(" ") else line + "\n" for line in lines[first : last + 1])
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}```cpp\n{excerpt}```\n{END}{after}"


def aiter_page() -> str:
    """Return what AITER honours, and which AITER is known."""
    mappings = ["| operation | function | what is mapped |", "|---|---|---|"]
    for (name, what), function in zip(AITER_MAPPINGS.items(), aiter.OPERATIONS.values(), strict=True):
        mappings.append(f"| `{name}` | `aiter.{function}` | {what} |")
    lines = [AITER_HEAD.format(note=NOTE, mappings="\n".join(mappings))]
    header = "| AITER needs | " + " | ".join(aiter.OPERATIONS) + " |"
    for title, rules in (("when it is planned", aiter.CALL_RULES), ("when it runs", aiter.RUN_RULES)):
        lines += [f"Of a call, {title}:", "", header, "|---|" + "---|" * len(aiter.OPERATIONS)]
        for rule in rules:
            marks = ["●" if operation in rule.operations else "" for operation in aiter.OPERATIONS]
            lines.append(f"| {rule.needs} | {' | '.join(marks)} |")
        lines.append("")
    lines += [AITER_RELEASES]
    for release in aiter_releases.RELEASES:
        names = ", ".join(f"`{name}`" for name in release.functions)
        lines.append(f"| {release.name} | {names} | {release.source} |")
    return "\n".join([*lines, ""])


# In the order of aiter.OPERATIONS.
AITER_MAPPINGS = {
    "single_prefill_with_kv_cache": "a batch of one; HND is a transposed view",
    "BatchPrefillWithRaggedKVCacheWrapper": "int32 indptr arrays; the longest lengths as numbers",
    "BatchPrefillWithPagedKVCacheWrapper": "pages of one token; larger ones are listed token by token in `plan()`",
    "BatchDecodeWithPagedKVCacheWrapper": "a dense block table and context lengths; partial results in "
    "`float_workspace_buffer`",
    "append_paged_kv_cache": "int64 slots, computed on the device at every call",
}
AITER_HEAD = """\
# AITER behind FlashInfer's arguments

{note}
**None of this has run on hardware, and no AITER has run at all.** The rules and mappings were read from the sources of
the releases below; tests hold them against stand-ins with those releases' signatures, which compute in PyTorch what the
sources compute (`tests/unit/test_aiter.py`). AITER is not a dependency of this package.

`backend="aiter"` calls AITER's Python functions instead of this package's kernels:

{mappings}

Its log-sum-exps are natural and ordered by heads: they are multiplied by log2(e) and transposed. `window_left` is the
left one of its two windows (of decode, `sliding_window = window_left + 1`), a causal mask its right window of 0; scales
of q and k multiply `softmax_scale`, that of v the output, in the output's dtype. Gradients are off.

By the argument, what AITER would ignore or do otherwise is refused with the rule that it breaks. With
`FLASHINFER_JIT_BACKEND=aiter` and `backend="auto"` AITER does what it honours and this package's kernels, which are
planned too, do the rest: a warning says why, once for each reason. `single_decode_with_kv_cache` and the functions for
latent caches have no function there. Wrappers show in `_backend` which of the two a plan is for.

`plan()` copies its lists to the GPU and, as without AITER, copies index tensors of paged prefill that are on the GPU to
the host; for AITER nothing more is. `run()` copies nothing to the host. With pages of more than one token, the first
run with caches of a form computes the list of tokens on the GPU. AITER allocates as it likes, compiles its kernels when
they are first used, and its kernels read whole tiles: unlike with this package's kernels, slots past the end of a
request in its last page have to hold finite numbers.

## Rules

Generated from `flashinfer_jit/backends/aiter.py`; ● marks the operations for which a rule holds.
"""

AITER_RELEASES = """\
## Releases

The installed version (distribution `amd-aiter` or `aiter`) has to be one of these: a release by its version, a build
from sources by the commit in its version (`+g` and its digits). Before the first call the functions' parameters and
defaults are compared with those recorded in `flashinfer_jit/backends/aiter_releases.py`. Anything else is refused by
name. To use another release: `python -m flashinfer_jit.backends.aiter` prints its signatures; read what its functions
do with the arguments above, and add it to that file.

| AITER | functions that were read | where |
|---|---|---|"""


CODE = re.compile(r"<!-- code: (\w+) -->\n.*?<!-- end of code -->\n", re.S)
DECLARES = ("__device__", "constexpr", "struct", "template", "FIJ_EXPORT", 'extern "C" __global__')


def declaration(lines: list[str], name: str) -> str:
    """Return what the golden kernel declares under a name, with its comment; ``kernel`` is the kernel itself."""
    what = re.compile(r"extern \"C\" __global__" if name == "kernel" else rf"\b{name}\b")
    first = next(n for n, line in enumerate(lines) if line.startswith(DECLARES) and what.search(line))
    last = first
    while lines[last] not in ("}", "};") and not (last == first and lines[last].endswith((";", "}"))):
        last += 1
    while lines[first - 1].startswith(("//", "template")):
        first -= 1
    return "\n".join(lines[first : last + 1])


def reading() -> str:
    """Return the page that reads a kernel, with the code as the golden file has it."""
    lines = GOLDEN.read_text().splitlines()

    def excerpt(match: re.Match[str]) -> str:
        return f"<!-- code: {match[1]} -->\n```cpp\n{declaration(lines, match[1])}\n```\n<!-- end of code -->\n"

    return CODE.sub(excerpt, (HERE / "reading-a-kernel.md").read_text())


PAGES = {
    "../README.md": readme,
    "reading-a-kernel.md": reading,
    "environment.md": environment,
    "presets.md": models,
    "api.md": api,
    "aiter.md": aiter_page,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    options = parser.parse_args()
    stale = [name for name, page in PAGES.items() if not is_current(name)]
    for name in stale:
        if not options.check:
            (HERE / name).write_text(PAGES[name]())
        print(f"docs/{name}: {'not current, run make docs' if options.check else 'written'}")
    return 1 if stale and options.check else 0


def is_current(name: str) -> bool:
    """Return whether a page says what the code says now."""
    path = HERE / name
    return path.is_file() and path.read_text() == PAGES[name]()


if __name__ == "__main__":
    sys.exit(main())
