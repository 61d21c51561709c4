"""Code objects from AMDGPU assembly text, for tests and measurements of the emulated device."""

import functools
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flashinfer_jit.jit import toolchain
from flashinfer_jit.jit.cache import user_root

HEADER = """
.amdgcn_target "amdgcn-amd-amdhsa--{arch}"
.amdhsa_code_object_version 5
.text
.globl {name}
.p2align 8
.type {name},@function
{name}:
"""
FOOTER = """
.L{name}_end:
.size {name}, .L{name}_end-{name}
.rodata
.p2align 6
.amdhsa_kernel {name}
  .amdhsa_group_segment_fixed_size {lds}
  .amdhsa_private_segment_fixed_size {scratch}
  .amdhsa_kernarg_size {kernarg}
  .amdhsa_user_sgpr_kernarg_segment_ptr 1
  .amdhsa_system_sgpr_workgroup_id_x 1
  .amdhsa_system_sgpr_workgroup_id_y 1
  .amdhsa_system_sgpr_workgroup_id_z 1
  .amdhsa_system_vgpr_workitem_id 2
  .amdhsa_enable_private_segment {enable_scratch}
  .amdhsa_next_free_vgpr {vgprs}
  .amdhsa_next_free_sgpr 96
  .amdhsa_accum_offset {accum_offset}
{directives}
.end_amdhsa_kernel
"""


def assemble(
    text: str,
    arch: str,
    *,
    name: str = "kernel",
    arguments: Sequence[int | str] = (),
    lds: int = 0,
    scratch: int = 0,
    vgprs: int = 512,
    accum_offset: int = 256,
    max_workgroup_size: int = 1024,
    metadata: bool = True,
    directives: str = "",
) -> bytes:
    """Return the linked code object of a kernel given as assembly text.

    A wave starts with s[0:1] = kernarg segment, s2, s3, s4 = workgroup id, v0 = work-item id (x | y << 10 | z << 20).

    Parameters
    ----------
    text : str
        Instructions; ``s_endpgm`` is not added. With ``.amdhsa_kernel`` in it, a whole assembly file.
    arch : str
        gfx942 or gfx950.
    arguments : sequence of int or str
        Bytes of each by-value argument, or "ptr"; each is aligned to its size, up to 16 bytes.
    lds, scratch : int
        Static LDS of a workgroup, scratch of a lane, in bytes.
    metadata : bool
        Whether the code object describes its kernel and arguments.
    directives : str
        Further lines of the kernel descriptor.
    """
    if ".amdhsa_kernel" not in text:
        slots, kernarg = _layout(arguments)
        values = {"arch": arch, "name": name, "lds": lds, "scratch": scratch, "kernarg": kernarg, "vgprs": vgprs}
        # Compilers keep denormals of all types; the assembler's own default flushes those of f32.
        if ".amdhsa_float_denorm_mode_32" not in directives:
            directives += "\n  .amdhsa_float_denorm_mode_32 3"
        values |= {"accum_offset": accum_offset, "enable_scratch": int(scratch > 0), "directives": directives}
        text = HEADER.format(**values) + text + FOOTER.format(**values)
        if metadata:
            text += _metadata(name, slots, kernarg, lds, scratch, max_workgroup_size)
    key = hashlib.sha256(json.dumps([text, arch, assembler()]).encode()).hexdigest()[:24]
    path = user_root() / "assembled" / f"{key}.co"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            source, made, linked = (Path(folder) / f"kernel.{suffix}" for suffix in ("s", "o", "co"))
            source.write_text(text)
            compiler, linker = assembler()
            flags = ["--target=amdgcn-amd-amdhsa", f"-mcpu={arch}", "-x", "assembler", "-c"]
            _run([*compiler, *flags, str(source), "-o", str(made)])
            _run([*linker, "-shared", str(made), "-o", str(linked)])
            os.replace(linked, path)
    return path.read_bytes()


@functools.cache
def assembler() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how to call an assembler and a linker for AMDGPU: of clang, or of the ziglang package."""
    found = toolchain.find_toolchain(user_root() / "toolchains")
    if not found.device_linker:
        raise RuntimeError(f"{found.title} is no clang: unset FLASHINFER_JIT_HIPCC to assemble")
    return found.driver, found.device_linker


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}\n{done.stdout}{done.stderr}")


def _layout(arguments: Sequence[int | str]) -> tuple[list[tuple[int, int, str]], int]:
    slots, at = [], 0
    for argument in arguments:
        size, kind = (8, "global_buffer") if argument == "ptr" else (int(argument), "by_value")
        alignment = min(16, size & -size)
        at = -(-at // alignment) * alignment
        slots.append((at, size, kind))
        at += size
    return slots, at


def _metadata(
    name: str, slots: list[tuple[int, int, str]], kernarg: int, lds: int, scratch: int, max_workgroup_size: int
) -> str:
    lines = [".amdgpu_metadata", "---", "amdhsa.version: [1, 2]", "amdhsa.kernels:", f"  - .name: {name}"]
    lines += [f"    .symbol: {name}.kd", f"    .kernarg_segment_size: {kernarg}", "    .kernarg_segment_align: 8"]
    lines += [f"    .group_segment_fixed_size: {lds}", f"    .private_segment_fixed_size: {scratch}"]
    lines += ["    .wavefront_size: 64", "    .sgpr_count: 96", "    .vgpr_count: 256"]
    lines += [f"    .max_flat_workgroup_size: {max_workgroup_size}"]
    if slots:
        lines.append("    .args:")
    for offset, size, kind in slots:
        lines += [f"      - .offset: {offset}", f"        .size: {size}", f"        .value_kind: {kind}"]
        if kind == "global_buffer":
            lines.append("        .address_space: global")
    return "\n".join([*lines, "...", ".end_amdgpu_metadata", ""])
