"""A compiler and linker for tests of everything around compiling: no code, but files of the right form, in no time.

``install`` writes it as an executable, which behaves as a test asks by the variable FAKE_HIPCC_MODE.
"""

import os
import sys
import time

EXPORTS = ("fij_launch", "fij_prepare", "fij_abi_version", "fij_params_size", "fij_config_json")
HERE = os.path.dirname(os.path.abspath(__file__))


def install(folder, version: str = "1.0"):
    """Write ``folder/hipcc`` and the linker that it names; return the path of hipcc."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("hipcc", "ld.lld"):
        # -I keeps the caller's environment out, -S the site packages: both cost time.
        script = f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {os.path.dirname(HERE)!r})\n"
        script += (
            f"from support import fake_hipcc\nfake_hipcc.main({str(folder / name)!r}, sys.argv[1:], {version!r})\n"
        )
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder / "hipcc"


def _write(arguments: list[str], data: bytes) -> None:
    with open(arguments[arguments.index("-o") + 1], "wb") as output:
        output.write(data)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _misbehave(mode: str) -> None:
    if mode == "fail":
        print("kernel.hip:3:5: error: use of undeclared identifier 'q_farg'\n    q_farg = 1;\n    ^", file=sys.stderr)
        print("1 error generated.", file=sys.stderr)
        sys.exit(1)
    if mode == "silent-fail":
        sys.exit(7)
    if mode == "hang":
        child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
        with open(os.environ["FAKE_HIPCC_PIDS"], "w") as pids:
            pids.write(f"{os.getpid()} {child}")
        os.waitpid(child, 0)
    if mode == "killed":
        os.kill(os.getpid(), 9)
    if mode == "slow":
        time.sleep(float(os.environ["FAKE_HIPCC_SECONDS"]))


def main(program: str, arguments: list[str], version: str) -> None:
    """Do what ``program`` was called for."""
    from support import fake_elf

    if arguments == ["--version"]:
        print(f"HIP version: {version}\nFake clang version 99.0")
    elif arguments == ["--print-prog-name=ld.lld"]:
        print(os.path.join(os.path.dirname(program), "ld.lld"))
    elif program.endswith("ld.lld"):
        # The last input is the host object, which is the fat binary here.
        _write(arguments, fake_elf.library(EXPORTS, _read(arguments[-1])))
    elif "--offload-device-only" in arguments:
        start = time.monotonic()
        mode = os.environ.get("FAKE_HIPCC_MODE", "")
        _misbehave(mode)
        name = _read("kernel.hip").decode().split(":")[0].removeprefix("// ")
        counter = os.environ.get("FAKE_HIPCC_COUNTER")
        if counter:
            with open(counter, "a") as lines:
                lines.write(f"{name}\n")
        if mode == "no-output":
            return
        arch = next(word.split("=")[1] for word in arguments if word.startswith("--offload-arch="))
        whole = fake_elf.code_object(arch, name)
        _write(arguments, {"garbage": b"\0" * 100, "truncated": whole[:-200]}.get(mode, whole))
        spans = os.environ.get("FAKE_HIPCC_SPANS")
        if spans:
            with open(spans, "a") as lines:
                lines.write(f"{start} {time.monotonic()}\n")
    else:
        _write(arguments, _read(arguments[arguments.index("-fcuda-include-gpubinary") + 2]))
