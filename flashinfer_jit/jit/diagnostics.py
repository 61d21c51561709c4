"""Turning a failed compilation into a message that a person can act on: what, where, why, and what to do next."""

import re
import shlex
from pathlib import Path

from flashinfer_jit import env
from flashinfer_jit.errors import CompilationError
from flashinfer_jit.jit.cache import LOG, SOURCE
from flashinfer_jit.jit.compiler import StepFailed
from flashinfer_jit.jit.toolchain import Toolchain

_DIAGNOSTIC = re.compile(rf"^(?:{re.escape(SOURCE)}:(\d+):(\d+): )?.*?\b(?:fatal )?error: (.*)$")
_EXCERPT_LINES = 4

# The first pattern found in what was printed decides; each is a cause that users have met.
_HINTS = (
    (r"killed by signal 9", "most likely the machine ran out of memory: compile fewer kernels at once (MAX_JOBS)"),
    (r"killed after", "the compiler and its children were ended; the source and the log are kept"),
    (r"[Nn]o space left on device", "the disk is full: free some space or move the cache, " + env.CACHE_DIR.name),
    (
        r"unknown target CPU|invalid target ID|Unknown CUDA arch",
        "this compiler is too old for that GPU: use a newer one",
    ),
    (r"Params|__builtin_offsetof", "the template's parameter struct is not the one of jit/params.py"),
    (r"unknown argument|unsupported option", f"check {env.EXTRA_HIPCCFLAGS.name}, or use a newer compiler"),
    (r"cannot find ROCm", "the compiler looks for a ROCm installation that is not complete"),
    (
        r"cannot be used|no usable code object|wrote no",
        f"this is not a working compiler: set {env.HIPCC.name} to another",
    ),
)
_OTHER_HINT = (
    f"if neither templates nor flags were changed here, try another compiler ({env.HIPCC.name}); "
    "if that fails as well, report it with the log"
)


def compilation_error(failure: StepFailed, toolchain: Toolchain, directory: Path) -> CompilationError:
    """Return the error to raise for a failed step whose files were kept in ``directory``."""
    log_path = directory / LOG
    lines = [f"cannot compile {failure.key}: {failure.reason}", f"  compiler: {toolchain.title}"]
    lines += _first_error(failure.output, directory)
    lines += [f"  hint:     {_hint(failure)}", f"  log:      {log_path}"]
    command = None
    if failure.command:
        command = f"cd {shlex.quote(str(directory))} && {failure.command}"
        lines.append(f"  rerun:    {command}")
    return CompilationError("\n".join(lines), str(log_path), command)


def _first_error(output: str, directory: Path) -> list[str]:
    printed = output.splitlines()
    for line in printed:
        match = _DIAGNOSTIC.match(line)
        if match is None:
            continue
        if match[1] is None:
            return [f"  error:    {match[3]}"]
        head = [f"  error:    {match[3]}", f"  --> {directory / SOURCE}:{match[1]}:{match[2]}"]
        return head + _excerpt(directory / SOURCE, int(match[1]), int(match[2]))
    # A compiler that fails without an error message: its last words are the best there is.
    return [f"  said:     {line}" for line in printed[-_EXCERPT_LINES:] if line.strip()]


def _excerpt(source: Path, line: int, column: int) -> list[str]:
    try:
        text = source.read_text().splitlines()
    except OSError:
        return []
    first = max(1, line - 1)
    shown = [f"  {number:5} | {text[number - 1]}" for number in range(first, min(line, len(text)) + 1)]
    return [*shown, "        | " + " " * (column - 1) + "^"]


def _hint(failure: StepFailed) -> str:
    text = f"{failure.reason}\n{failure.output}"
    return next((hint for pattern, hint in _HINTS if re.search(pattern, text)), _OTHER_HINT)
