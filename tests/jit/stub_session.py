"""Run by test_load.py in a process of its own: loads kernels against the stub runtime and prints what happened.

A process of its own, because the stub's HIP functions become visible to everything loaded later.
"""

import ctypes
import json
import sys

from flashinfer_jit.errors import FlashInferJitError
from flashinfer_jit.jit import kernels, loader, params
from support.vector_add import vector_add_key


class Record(ctypes.Structure):
    """What the stub remembers; the same struct as in stub_runtime.c."""

    _fields_ = [
        ("registrations", ctypes.c_uint32),
        ("functions", ctypes.c_uint32),
        ("launches", ctypes.c_uint32),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("stream", ctypes.c_uint64),
        ("kernel_name", ctypes.c_char * 256),
        ("params", ctypes.c_ubyte * 256),
        ("next_error", ctypes.c_int),
    ]


class StubRuntime:
    """A runtime that makes the stub's functions visible only when it is told to get ready."""

    def __init__(self, library: str) -> None:
        self._library = library

    def prepare_for_loading(self) -> None:
        self.record = Record.in_dll(ctypes.CDLL(self._library, mode=ctypes.RTLD_GLOBAL), "fij_stub")

    def error_name(self, code: int) -> str:
        return {2: "hipErrorOutOfMemory"}.get(code, "hipErrorUnknown")

    def is_capturing(self) -> bool:
        return False


class NoRuntime(StubRuntime):
    """A process without HIP."""

    def prepare_for_loading(self) -> None:
        pass


def refusal(call) -> str:
    """Return the error that a call ends with."""
    try:
        call()
    except FlashInferJitError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def launch(kernel, runtime: StubRuntime, n: int, stream: int) -> dict:
    """Launch a kernel and return what the stub saw."""
    values = kernel.params_type(0x1000, 0x2000, 0x3000, n)
    code = kernel.launch_fn(ctypes.addressof(values), stream)
    record = runtime.record
    size = ctypes.sizeof(values)
    return {
        "code": code,
        "launches": record.launches,
        "grid": list(record.grid),
        "block": list(record.block),
        "stream": record.stream,
        "kernel_name": record.kernel_name.decode(),
        "params_arrived": bytes(record.params[:size]) == bytes(values),
    }


def main(arch: str, library: str) -> None:
    """Go through all of it."""
    runtime = StubRuntime(library)
    said = {"without_runtime": refusal(lambda: kernels.get_kernel(vector_add_key(arch), NoRuntime(library)))}
    kernel = kernels.get_kernel(vector_add_key(arch), runtime)
    said["registered"] = [runtime.record.registrations, runtime.record.functions]
    said["first"] = launch(kernel, runtime, 1000, 0x5EED)
    said["empty"] = launch(kernel, runtime, 0, 0)
    other = kernels.get_kernel(vector_add_key(arch, factor=3), runtime)
    said["other"] = launch(other, runtime, 257, 0)
    said["first_again"] = launch(kernel, runtime, 1, 0)
    said["attributes"] = kernel.prepare()._asdict()
    runtime.record.next_error = 2
    said["failed_launch"] = launch(kernel, runtime, 1, 0)["code"]
    said["failed_prepare"] = refusal(kernel.prepare)
    said["describe"] = kernel.describe()
    said["meta"] = dict(kernel.meta)
    said["other_config"] = refusal(lambda: loader.load(other.entry, kernel.key, runtime))
    loader.ABI_VERSION += 1
    said["other_abi"] = refusal(lambda: loader.load(kernel.entry, kernel.key, runtime))
    loader.ABI_VERSION -= 1
    table = params.TABLES["vector_add"]
    params.TABLES["vector_add"] = params.ParamsTable("longer", (*table.fields, params.Field("m", "int64_t", "more")))
    said["other_params"] = refusal(lambda: loader.load(kernel.entry, kernel.key, runtime))
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
