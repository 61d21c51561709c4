"""A compiler and linker for tests of everything around compiling: no code, but files of the right form, in no time.

``install`` writes it as an executable that behaves as a test asks through the environment of FAKE_HIPCC_MODE.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

EXPORTS = ("fij_launch", "fij_prepare", "fij_abi_version", "fij_params_size", "fij_config_json")


def install(folder: Path, version: str = "1.0") -> Path:
    """Write ``folder/hipcc`` and the linker that it names; return the path of hipcc."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("hipcc", "ld.lld"):
        # -I keeps the caller's environment out, -S the site packages: both cost time.
        script = f"#!{sys.executable} -IS\nimport runpy, sys\nsys.argv[0] = {str(folder / name)!r}\n"
        script += f"FAKE_VERSION = {version!r}\n"
        script += f"runpy.run_path({str(Path(__file__).resolve())!r}, {{'VERSION': FAKE_VERSION}}, '__main__')\n"
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder / "hipcc"


def _output(arguments: list[str]) -> Path:
    return Path(arguments[arguments.index("-o") + 1])


def _misbehave(mode: str) -> None:
    if mode == "fail":
        print("kernel.hip:3:5: error: use of undeclared identifier 'q_farg'\n    q_farg = 1;\n    ^", file=sys.stderr)
        print("1 error generated.", file=sys.stderr)
        sys.exit(1)
    if mode == "silent-fail":
        sys.exit(7)
    if mode == "hang":
        child = subprocess.Popen(["sleep", "1000"])
        Path(os.environ["FAKE_HIPCC_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(1000)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "slow":
        time.sleep(float(os.environ["FAKE_HIPCC_SECONDS"]))


def _main(arguments: list[str], version: str) -> None:
    from support import fake_elf

    if arguments == ["--version"]:
        print(f"HIP version: {version}\nFake clang version 99.0")
    elif arguments == ["--print-prog-name=ld.lld"]:
        print(Path(sys.argv[0]).parent / "ld.lld")
    elif Path(sys.argv[0]).name == "ld.lld":
        # The last input is the host object, which carries the fat binary here.
        _output(arguments).write_bytes(fake_elf.library(EXPORTS, Path(arguments[-1]).read_bytes()))
    elif "--offload-device-only" in arguments:
        mode = os.environ.get("FAKE_HIPCC_MODE", "")
        _misbehave(mode)
        counter = os.environ.get("FAKE_HIPCC_COUNTER")
        if counter:
            with open(counter, "a") as lines:
                lines.write(f"{os.getcwd()}\n")
        if mode == "no-output":
            return
        source = Path("kernel.hip").read_text()
        name = re.search(r"^// (\w+): generated", source)
        arch = re.search(r"--offload-arch=(\w+)", " ".join(arguments))
        assert name and arch
        garbage = {"garbage": b"\0" * 100, "truncated": fake_elf.code_object(arch[1], name[1])[:-200]}
        _output(arguments).write_bytes(garbage.get(mode) or fake_elf.code_object(arch[1], name[1]))
    else:
        gpu_binary = arguments[arguments.index("-fcuda-include-gpubinary") + 2]
        _output(arguments).write_bytes(Path(gpu_binary).read_bytes())


if __name__ == "__main__":
    _main(sys.argv[1:], globals().get("VERSION", "1.0"))
