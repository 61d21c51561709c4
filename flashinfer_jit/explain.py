"""Why a kernel is found in the cache or not: where it would be, what lies nearest to it, and what differs there."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashinfer_jit import env
from flashinfer_jit.errors import ToolchainNotFoundError
from flashinfer_jit.jit import cache
from flashinfer_jit.jit.cache import SOURCE, Cache
from flashinfer_jit.jit.inventory import Item, items, problem
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.toolchain import find_toolchain, semantic_flags

NEAREST = 3


@dataclass(frozen=True)
class Explanation:
    """What was found out about one kernel.

    Attributes
    ----------
    key : KernelKey
        Which one.
    is_hit : bool
        Whether a call would find it compiled.
    directory : Path
        Where it is, or where compiling would put it.
    reasons : list of str
        One finding a line.
    nearest : list of dict
        The most similar kernels that are there, with the fields that differ as ``[there, wanted]``.
    """

    key: KernelKey
    is_hit: bool
    directory: Path
    reasons: list[str] = field(default_factory=list)
    nearest: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        verdict = {"kernel": self.key.slug(), "arch": self.key.arch.name, "hit": self.is_hit}
        return {**verdict, "directory": str(self.directory), "reasons": self.reasons, "nearest": self.nearest}

    def lines(self) -> list[str]:
        """Return the finding as text."""
        said = [f"{'hit ' if self.is_hit else 'miss'}  {self.key}", f"      {self.directory}"]
        said += [f"      {reason}" for reason in self.reasons]
        for near in self.nearest:
            differs = ", ".join(f"{name} is {a!r}, not {b!r}" for name, (a, b) in near["differs"].items())
            said.append(f"      nearest: {near['kernel']} for {near['arch']}: {differs}")
        return said


def explain(key: KernelKey) -> Explanation:
    """Return why ``key`` is found or not. Compiles and changes nothing."""
    source = render(key)
    flags = semantic_flags(key.arch.name)
    source_key = cache.source_key(source, flags, key.arch.name)
    user = Cache(cache.user_root())
    try:
        memo_dir = user.base / "toolchains"
        # Answers that are kept already are used; explaining writes none.
        toolchain = find_toolchain(memo_dir if memo_dir.is_dir() else None)
        own_id, compiler = toolchain.id, toolchain.title
    except ToolchainNotFoundError:
        own_id, compiler = None, "no compiler here: entries of any compiler serve"
    reasons: list[str] = []
    everything: list[Item] = []
    for where in (*map(Cache, env.PREBUILT_PATH.get()), user):
        there = items(where)
        everything += there
        wanted_id = own_id if where is user else None
        for item in there:
            same_name = (item.arch, item.slug) == (key.arch.name, key.slug())
            if not same_name:
                continue
            found = _compare(item, source, source_key, flags, wanted_id, compiler)
            if found is None:
                # Nothing kept this one from being used: whatever was said of others does not matter.
                return Explanation(key, True, item.directory, [_origin(item, where, user)])
            reasons.append(found)
    if not reasons:
        reasons.append(f"there is no kernel of this name for {key.arch.name}, of {len(everything)} kernels looked at")
    directory = user.kernel_directory(key, source_key) / (own_id or "<compiler>")
    return Explanation(key, False, directory, reasons, _nearest(key, everything))


def _origin(item: Item, where: Cache, user: Cache) -> str:
    kind = "the user's cache" if where is user else f"the prebuilt folder {where.root}"
    title = item.meta["toolchain"]["title"]
    return f"in {kind}; compiled in {item.meta['compile_seconds']:.2f} s by {title}"


def _compare(
    item: Item, source: str, source_key: str, flags: tuple[str, ...], own_id: str | None, compiler: str
) -> str | None:
    """Return why an entry of the right name does not serve, or None if it does."""
    where = f"{item.directory}: "
    wrong = problem(item)
    if wrong:
        return where + wrong
    if item.directory.parent.name != source_key:
        if tuple(item.meta["flags"]) != flags:
            return f"{where}compiled with flags {' '.join(item.meta['flags'])}, now they are {' '.join(flags)}"
        return where + _first_difference(item.directory / SOURCE, source)
    if own_id is not None and item.directory.name != own_id:
        return f"{where}compiled by {item.meta['toolchain']['title']}, here it is {compiler}"
    return None


def _first_difference(path: Path, source: str) -> str:
    try:
        old = path.read_text().splitlines()
    except OSError as error:
        return f"made from another source text, which cannot be read: {error.strerror}"
    new = source.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    if not changes:
        return "made by another version of this package's cache"
    _, first, _, other, _ = changes[0]
    theirs, ours = (lines[n].strip() if n < len(lines) else "" for lines, n in ((old, first), (new, other)))
    return (
        f"made from other templates: {len(changes)} places differ, the first at line {first + 1}: "
        f"{theirs!r} there, {ours!r} now"
    )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    parts = {"arch": values.get("arch")}
    for part in ("config", "tile"):
        parts |= values.get(part) or {}
    return parts


def _nearest(key: KernelKey, there: list[Item]) -> list[dict[str, Any]]:
    wanted = _flat(key.to_dict())
    rated = []
    for item in there:
        if not isinstance(item.meta.get("key"), dict):
            continue
        has = _flat(item.meta["key"])
        differs = {n: [has.get(n), wanted.get(n)] for n in {**wanted, **has} if has.get(n) != wanted.get(n)}
        if differs:
            rated.append({"kernel": item.slug, "arch": item.arch, "differs": differs})
    unique = {(near["kernel"], near["arch"]): near for near in rated}
    return sorted(unique.values(), key=lambda near: (len(near["differs"]), near["kernel"]))[:NEAREST]
