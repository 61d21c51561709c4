"""Which kernels to compile, as a person or a recorded run says it: option texts, TOML plans, record files.

A configuration is written by its fields: ``phase=decode, dtype=bfloat16, head_dim=128, group_size=8``. ``dtype`` stands
for the dtypes of Q, K, V and O together, ``head_dim`` for both head dimensions; what is left out is as usual.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from flashinfer_jit.errors import InvalidSettingError, UnsupportedConfigError
from flashinfer_jit.jit import families  # noqa: F401  (so that all families can be read)
from flashinfer_jit.jit.arch import Arch, get_arch
from flashinfer_jit.jit.config import (
    CONFIG_TYPES,
    FP8_DTYPES,
    OPERAND_DTYPES,
    AttentionConfig,
    KernelConfig,
    config_from_dict,
    default_dtype_o,
)
from flashinfer_jit.jit.key import KernelKey, key_from_dict
from flashinfer_jit.jit.tiling import candidates
from flashinfer_jit.presets import check_names

# Shorter names for several fields at once.
SHORT = {"dtype": ("dtype_q", "dtype_kv", "dtype_o"), "head_dim": ("head_dim_qk", "head_dim_vo")}
PLAN_FIELDS = ("preset", "arch", "dtype", "kv_dtype", "kernel")
# Dtypes of presets: of Q and O, and of paged caches; auto is that of Q.
PRESET_DTYPES = {"dtype": OPERAND_DTYPES, "kv_dtype": ("auto", *FP8_DTYPES)}


@dataclass(frozen=True)
class Plan:
    """What a plan file asks for.

    Attributes
    ----------
    presets : tuple of str
        Models.
    archs : tuple of Arch
        Empty if the file does not say.
    dtypes, kv_dtypes : tuple of str
        Of the presets and of their paged caches; empty if the file does not say.
    configs : tuple of KernelConfig
        Single kernels.
    """

    presets: tuple[str, ...] = ()
    archs: tuple[Arch, ...] = ()
    dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    configs: tuple[KernelConfig, ...] = ()


def keys_of(configs: Sequence[KernelConfig], archs: Sequence[Arch]) -> list[KernelKey]:
    """Return the keys of configurations on architectures, all tiles, each once; what an arch lacks raises."""
    keys = (KernelKey(c, tile, arch) for arch in archs for c in configs for tile in candidates(c, arch))
    return list(dict.fromkeys(keys))


def parse_config(text: str) -> KernelConfig:
    """Return the configuration that a JSON object or ``name=value`` pairs joined by commas describe.

    Raises UnsupportedConfigError naming the field and what is allowed.
    """
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            values = json.loads(stripped)
        except ValueError as error:
            raise UnsupportedConfigError(f"{text!r} is not a JSON object: {error}") from None
        # The JSON of a whole kernel, as error messages give it, serves too.
        return _config(values.get("config", values))
    values = {}
    for pair in filter(None, (part.strip() for part in stripped.split(","))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise UnsupportedConfigError(f"{pair!r} is not of the form name=value, as in phase=decode,head_dim=128")
        values[name.strip()] = _value(value.strip())
    return _config(values)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _config(values: Mapping[str, Any]) -> KernelConfig:
    """Return one configuration, the short names written out and the dtypes that are left out as calls have them."""
    family = CONFIG_TYPES.get(values.get("kernel", AttentionConfig.kernel))
    names = {field.name for field in fields(family)} if family is not None else set()
    whole: dict[str, Any] = {}
    for name, value in values.items():
        for long_name in SHORT[name] if name in SHORT and name not in names else (name,):
            whole.setdefault(long_name, value)
    for name in SHORT:
        # What is spelt out wins over what the short name says.
        whole.update({long_name: values[long_name] for long_name in SHORT[name] if long_name in values})
    if family is AttentionConfig and "dtype_q" in whole:
        whole.setdefault("dtype_kv", whole["dtype_q"])
        whole.setdefault("dtype_o", default_dtype_o(whole["dtype_q"], whole["dtype_kv"]))
    if family is AttentionConfig and "head_dim_qk" in whole:
        whole.setdefault("head_dim_vo", whole["head_dim_qk"])
    return config_from_dict(whole)


def parse_key(text: str) -> KernelKey:
    """Return the kernel that a JSON object describes; raises UnsupportedConfigError."""
    try:
        return key_from_dict(json.loads(text))
    except UnsupportedConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnsupportedConfigError(
            f"{text!r} is not allowed: expected a JSON object with arch, config and tile, as error messages give it"
        ) from None


def read_record(path: Path) -> list[KernelKey]:
    """Return the kernels that a run with FLASHINFER_JIT_RECORD used, each once.

    Raises InvalidSettingError naming the line at fault; a last line without its end is the mark of a killed process
    and is left out.
    """
    text = _read(path)
    lines = text.split("\n")
    keys: dict[KernelKey, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or number == len(lines):
            continue
        try:
            keys[parse_key(line)] = None
        except UnsupportedConfigError as error:
            raise InvalidSettingError(f"{path}, line {number}: {error}") from None
    return list(keys)


def read_plan(path: Path) -> Plan:
    """Return what a TOML plan asks for; a list of values in a ``[[kernel]]`` stands for each of them.

    Raises InvalidSettingError naming the line at fault.
    """
    # Imported here because every command line reads configurations and few read plans.
    import tomllib

    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The parser's message ends with the line and the column.
        raise InvalidSettingError(f"{path}: {error}") from None
    for name in values:
        if name not in PLAN_FIELDS:
            _fail(path, _line_of(text, name), f"{name!r} is not allowed: expected {', '.join(PLAN_FIELDS)}")
    try:
        presets, archs = _words(values, "preset"), _words(values, "arch")
        dtypes, kv_dtypes = (check_dtypes(name, _words(values, name)) for name in PRESET_DTYPES)
    except UnsupportedConfigError as error:
        _fail(path, _line_of(text, str(error).split()[0]), str(error))
    configs: list[KernelConfig] = []
    kernels = values.get("kernel", [])
    if not isinstance(kernels, list) or not all(isinstance(kernel, dict) for kernel in kernels):
        _fail(path, _line_of(text, "kernel"), "kernel is not allowed here: write each one under a line [[kernel]]")
    for number, kernel in enumerate(kernels):
        try:
            configs += [_config(choice) for choice in _choices(kernel)]
        except UnsupportedConfigError as error:
            _fail(path, _line_in_kernel(text, number, str(error), kernel), str(error))
    try:
        return Plan(check_names(presets), tuple(map(get_arch, archs)), dtypes, kv_dtypes, tuple(dict.fromkeys(configs)))
    except UnsupportedConfigError as error:
        _fail(path, _line_of(text, "arch" if str(error).startswith("arch") else "preset"), str(error))


def check_dtypes(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``words``; raise UnsupportedConfigError unless all are dtypes that presets may have under ``name``."""
    for word in words:
        if word not in PRESET_DTYPES[name]:
            allowed = ", ".join(PRESET_DTYPES[name])
            raise UnsupportedConfigError(f"{name} = {word!r} is not allowed: expected {allowed}, or several")
    return words


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettingError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise InvalidSettingError(f"{path}, line {line}: {message}")


def _words(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = values.get(name, [])
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnsupportedConfigError(f"{name} = {value!r} is not allowed: expected a string or a list of strings")
    return tuple(words)


def _choices(kernel: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in kernel.values()]
    return (dict(zip(kernel, choice, strict=True)) for choice in product(*lists))


def _line_of(text: str, name: str) -> int:
    """Return the line that sets ``name`` outside of all tables, or that opens the table of that name."""
    pattern = re.compile(rf"\s*(?:\[+\s*)?[\"']?{re.escape(name)}[\"']?\s*(?:=|\]|\.)")
    return next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _line_in_kernel(text: str, number: int, message: str, kernel: Mapping[str, Any]) -> int:
    """Return the line of the ``[[kernel]]`` of that number which sets the first field that the message names."""
    lines = text.splitlines()
    heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*kernel\s*\]\]", line)]
    if number >= len(heads):
        return _line_of(text, "kernel")
    last = heads[number + 1] if number + 1 < len(heads) else len(lines)
    mentioned = re.findall(r"\w+", message)
    shorts = {long_name: short for short, long_names in SHORT.items() for long_name in long_names}
    for word in mentioned:
        for name in (word, shorts.get(word)):
            if name is not None and name in kernel:
                pattern = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
                for n in range(heads[number] + 1, last):
                    if pattern.match(lines[n]):
                        return n + 1
    return heads[number] + 1
