"""``python -m flashinfer_jit``: look at configurations, kernels, the cache and this machine.

No command needs torch or a GPU, and none compiles. ``--json`` prints one JSON value instead of text.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashinfer_jit import __version__
from flashinfer_jit.command_line import Parser, age, arch_list, argument, byte_size, positive, run
from flashinfer_jit.errors import InvalidSettingError

EXAMPLE = "phase=prefill,dtype=bfloat16,head_dim=128,group_size=4,mask_mode=causal"


def _print(values: Any, text: str, as_json: bool) -> None:
    print(json.dumps(values) if as_json else text)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _ago(then: float) -> str:
    hours = max(0.0, time.time() - then) / 3600
    return f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} d ago"


def _show_config(arguments: argparse.Namespace) -> int:
    if arguments.explain is None:
        if arguments.arch is not None:
            raise InvalidSettingError("--arch goes with --explain CONFIG: settings are the same for all GPUs")
        return _show_settings(arguments.json)
    from flashinfer_jit.explain import explain
    from flashinfer_jit.jit.arch import ARCHS
    from flashinfer_jit.plan import keys_of

    found = [explain(key) for key in keys_of([arguments.explain], arguments.arch or tuple(ARCHS.values()))]
    _print([one.to_dict() for one in found], "\n".join(line for one in found for line in one.lines()), arguments.json)
    return 0


def _show_settings(as_json: bool) -> int:
    from flashinfer_jit import env
    from flashinfer_jit.jit import cache
    from flashinfer_jit.tables import format_table

    rows = []
    for var in env.TABLE:
        value = var.get()
        shown = sorted(value) if isinstance(value, frozenset) else value
        rows.append((var.name, _plain(shown), "environment" if _is_set(var.name) else "default", var.help))
    root = str(cache.user_root())
    values = {"version": __version__, "cache": root, "settings": {name: value for name, value, *_ in rows}}
    unknown = env.unknown()
    text = format_table(("variable", "value", "from", "meaning"), [(n, _word(v), *rest) for n, v, *rest in rows])
    text = f"flashinfer_jit {__version__}, cache {root}\n\n{text}"
    text += "".join(f"\n{name} is set, but nothing reads it" for name in unknown)
    _print({**values, "unknown": unknown}, text, as_json)
    return 0


def _is_set(name: str) -> bool:
    import os

    return bool(os.environ.get(name))


def _plain(value: object) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _list(arguments: argparse.Namespace) -> int:
    from flashinfer_jit import env
    from flashinfer_jit.jit.cache import Cache, user_root
    from flashinfer_jit.jit.inventory import items
    from flashinfer_jit.tables import format_table

    roots = [*env.PREBUILT_PATH.get(), user_root()]
    archs = {arch.name for arch in arguments.arch}
    found = [item for root in roots for item in items(Cache(root))]
    found = [item for item in found if item.arch in archs and arguments.filter in item.slug]
    header = ("kernel", "arch", "VGPR", "LDS", "spills", "seconds", "size", "last use", "source")
    rows = []
    for item in found:
        used = item.meta.get("resources")
        parts = (
            (used["vgpr"], used["lds_bytes"], used["vgpr_spills"] + used["sgpr_spills"])
            if used
            else ("damaged", "", "")
        )
        seconds = f"{item.meta.get('compile_seconds', 0):.2f}"
        rows.append(
            (
                item.slug,
                item.arch,
                *parts,
                seconds,
                _bytes(item.num_bytes),
                _ago(item.last_used),
                item.directory.parent.name,
            )
        )
    text = format_table(header, rows) if rows else f"no kernels in {', '.join(map(str, roots))}"
    _print([item.to_dict() for item in found], text, arguments.json)
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.render import render
    from flashinfer_jit.plan import keys_of

    keys = keys_of([arguments.config], arguments.arch)
    if not arguments.all_tiles:
        keys = list({key.arch.name: key for key in reversed(keys)}.values())[::-1]
    texts = [{"kernel": key.slug(), "arch": key.arch.name, "source": render(key)} for key in keys]
    if arguments.output is not None:
        written = _write_for_editors(arguments.output, texts)
        _print(written, f"wrote {len(texts)} kernels and {written[-1]}", arguments.json)
        return 0
    _print(texts, "\n".join(one["source"] for one in texts), arguments.json)
    return 0


def _write_for_editors(folder: Path, texts: Sequence[dict[str, str]]) -> list[str]:
    """Write rendered kernels, and a compilation database that clangd and editors read; return the files."""
    from flashinfer_jit.errors import ToolchainNotFoundError
    from flashinfer_jit.jit.compiler import editor_command
    from flashinfer_jit.jit.toolchain import find_toolchain

    try:
        driver = find_toolchain().driver
    except ToolchainNotFoundError:
        # The editor brings its own; it only needs a name here.
        driver = ("clang++",)
    folder = folder.absolute()
    names = [f"{text['arch']}-{text['kernel']}.hip" for text in texts]
    commands = [
        {"directory": str(folder), "file": name, "arguments": editor_command(driver, name, text["arch"])}
        for name, text in zip(names, texts, strict=True)
    ]
    database = folder / "compile_commands.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, texts, strict=True):
            (folder / name).write_text(text["source"])
        database.write_text(json.dumps(commands, indent=2))
    except OSError as error:
        raise InvalidSettingError(f"--output {folder}: {error.strerror}") from None
    return [*(str(folder / name) for name in names), str(database)]


def _cache(arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.cache import Cache, check_safe, user_root

    for name, actions in CACHE_OPTIONS.items():
        if getattr(arguments, name) and arguments.action not in actions:
            option, meant = name.replace("_", "-"), " and ".join(actions)
            raise InvalidSettingError(f"--{option} is for cache {meant}, not for cache {arguments.action}")
    cache = Cache(arguments.cache_dir or user_root())
    if arguments.action in ("prune", "clear") and cache.root.is_dir():
        check_safe(cache.root)
    return int(ACTIONS[arguments.action](cache, arguments))


def _cache_dir(cache: Any, arguments: argparse.Namespace) -> int:
    _print({"root": str(cache.root)}, str(cache.root), arguments.json)
    return 0


def _cache_stats(cache: Any, arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.inventory import stats

    said = stats(cache)
    lines = [f"{said['root']}: {said['kernels']} kernels, {_bytes(said['bytes'])}"]
    lines += [f"  {name}: {part['kernels']} kernels, {_bytes(part['bytes'])}" for name, part in said["archs"].items()]
    lines += [f"  {name}: {_bytes(size)}" for name, size in said["beside"].items()]
    lines += [f"  {name} (another version's): {_bytes(size)}" for name, size in said["old_versions"].items()]
    _print(said, "\n".join(lines), arguments.json)
    return 0


def _cache_verify(cache: Any, arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.inventory import items, problem

    found = items(cache)
    bad = {str(item.directory): said for item in found if (said := problem(item))}
    lines = [f"{directory}: {said}" for directory, said in bad.items()]
    lines.append(f"{len(found)} kernels, {len(bad)} damaged" + ("; they are compiled again when wanted" if bad else ""))
    _print({"kernels": len(found), "damaged": bad}, "\n".join(lines), arguments.json)
    return 1 if bad else 0


def _cache_prune(cache: Any, arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.inventory import leftovers, to_prune

    if arguments.max_size is None and arguments.older_than is None:
        raise InvalidSettingError("nothing says what to remove: give --max-size 2GiB, --older-than 30d, or both")
    chosen = to_prune(cache, arguments.max_size, arguments.older_than)
    return _remove(cache, [item.directory for item in chosen], leftovers(cache), arguments)


def _cache_clear(cache: Any, arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.inventory import everything, items

    kernels = [item.directory for item in items(cache)]
    return _remove(cache, kernels, everything(cache, arguments.emulator), arguments)


def _remove(cache: Any, kernels: Sequence[Path], beside: Sequence[Path], arguments: argparse.Namespace) -> int:
    from flashinfer_jit.jit.inventory import folder_bytes, remove

    folders = [folder for folder in (*kernels, *beside) if folder.exists()]
    try:
        freed = sum(map(folder_bytes, folders)) if arguments.dry_run else remove(cache, folders)
    except OSError as error:
        raise InvalidSettingError(f"cannot remove {error.filename}: {error.strerror}") from None
    said = "would remove" if arguments.dry_run else "removed"
    values = {"removed": list(map(str, folders)), "kernels": len(kernels), "bytes": freed, "dry_run": arguments.dry_run}
    _print(values, f"{said} {len(kernels)} kernels, {_bytes(freed)} in all", arguments.json)
    return 0


ACTIONS = {
    "dir": _cache_dir,
    "stats": _cache_stats,
    "verify": _cache_verify,
    "prune": _cache_prune,
    "clear": _cache_clear,
}
# Options that only some of them have.
CACHE_OPTIONS = {
    "max_size": ("prune",),
    "older_than": ("prune",),
    "emulator": ("clear",),
    "dry_run": ("prune", "clear"),
}


def _collect_env(arguments: argparse.Namespace) -> int:
    from flashinfer_jit.collect_env import collect

    try:
        report = collect(arguments.pid)
    except OSError as error:
        raise InvalidSettingError(f"--pid {arguments.pid}: {error.strerror}") from None
    _print(report, "\n".join(_paragraphs(report)), arguments.json)
    return 0


def _paragraphs(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in report.items():
        parts = [f"{n}: {v}" for n, v in value.items()] if isinstance(value, dict) else value
        if name == "hip_libraries" and isinstance(value, list):
            parts = [
                f"{'loaded   ' if one['is_loaded'] else 'installed'} inode {one['inode']}: {', '.join(one['paths'])}"
                for one in value
            ]
        if isinstance(parts, list):
            lines += [f"{name}:", *(f"  {part}" for part in parts or ["none"])]
        else:
            lines.append(f"{name}: {parts}")
    return lines


def _parser() -> Parser:
    from flashinfer_jit.jit.arch import ARCHS
    from flashinfer_jit.plan import parse_config

    config = argument(parse_config)
    everywhere = tuple(ARCHS.values())
    parser = Parser(prog="python -m flashinfer_jit", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, what: Any, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_, description=help_)
        added.set_defaults(what=what)
        added.add_argument("--json", action="store_true", help="print one JSON value")
        return added

    show = command("show-config", _show_config, "the settings in force, or why a kernel is found in the cache or not")
    show.add_argument("--explain", type=config, metavar="CONFIG", help=f"for example {EXAMPLE}, or JSON")
    show.add_argument("--arch", type=arch_list, help="GPUs, joined by commas: all")
    listing = command("list", _list, "the kernels that are compiled, with their registers and sizes")
    listing.add_argument("--arch", type=arch_list, default=everywhere, help="GPUs, joined by commas: all")
    listing.add_argument("--filter", default="", metavar="TEXT", help="only kernels with this in their names")
    source = command("render", _render, "the HIP source of a configuration")
    source.add_argument("config", type=config, metavar="CONFIG", help=f"for example {EXAMPLE}, or JSON")
    source.add_argument("--arch", type=arch_list, default=everywhere[:1], help="GPUs, joined by commas: gfx942")
    source.add_argument("--all-tiles", action="store_true", help="every tile, not only the smallest")
    source.add_argument(
        "--output", type=Path, metavar="DIR", help="write the files there, with compile_commands.json for editors"
    )
    cached = command("cache", _cache, "the kernel cache: where it is, what is in it, taking things out")
    cached.add_argument("action", choices=ACTIONS)
    cached.add_argument("--cache-dir", type=Path, metavar="DIR", help="another cache, or a prebuilt folder")
    cached.add_argument("--max-size", type=byte_size, help="prune: keep this much, last used first, as in 2GiB")
    cached.add_argument("--older-than", type=age, help="prune: remove what was not used for so long, as in 30d or 12h")
    cached.add_argument("--emulator", action="store_true", help="clear: the built emulator too")
    cached.add_argument("--dry-run", action="store_true", help="prune, clear: only say what would be removed")
    machine = command("collect-env", _collect_env, "what a bug report should say of this machine")
    machine.add_argument("--pid", type=positive, help="look at the HIP libraries of this running process")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run(lambda: int(arguments.what(arguments)))


if __name__ == "__main__":
    sys.exit(main())
