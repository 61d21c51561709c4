"""``python -m flashinfer_jit.bench {prefill,decode}``: emulated time, bytes against the minimum, host cost of calls."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from flashinfer_jit import decode, emulator, prefill, runtime
from flashinfer_jit.emulator import Report


@dataclasses.dataclass(frozen=True)
class Shape:
    """One call: fp16, seeded normal inputs.

    Attributes
    ----------
    qo_len, kv_len : int
        Tokens of queries and of keys.
    num_qo_heads, num_kv_heads, head_dim : int
        Heads and their size.
    options : dict
        Further arguments.
    """

    qo_len: int
    kv_len: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        words = [
            f"q {self.qo_len}",
            f"kv {self.kv_len}",
            f"heads {self.num_qo_heads}/{self.num_kv_heads} of {self.head_dim}",
        ]
        return ", ".join(words + [f"{name} {value}" for name, value in self.options.items()])


SHAPES = {
    "prefill": (
        Shape(256, 1024, 4, 4, 128),
        Shape(256, 1024, 4, 4, 128, {"causal": True}),
        Shape(256, 1024, 8, 2, 64, {"causal": True, "window_left": 255}),
        Shape(4, 4096, 8, 2, 128, {"causal": True}),
    ),
    "decode": (
        Shape(1, 1000, 32, 4, 128),
        Shape(1, 4096, 32, 4, 128),
        Shape(1, 4096, 8, 8, 64),
        Shape(1, 4096, 32, 4, 128, {"window_left": 511}),
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one call cost.

    Attributes
    ----------
    call, arch : str
        The call and the emulated GPU.
    kernels : int
        Launches.
    emulated_seconds : float
        Wall-clock time on this machine's CPU, median of five calls. It says nothing about a GPU.
    host_us : float
        CPU time of the call with its launches left out, median.
    kv_bytes, kv_bytes_minimum : int
        Bytes of K and V that workgroups asked for; bytes of the tiles of keys that the masks leave, each read once for
        every tile of query rows that sees it.
    mfma_flops : int
        Floating-point operations of matrix instructions.
    """

    call: str
    arch: str
    kernels: int
    emulated_seconds: float
    host_us: float
    kv_bytes: int
    kv_bytes_minimum: int
    mfma_flops: int


def _inputs(kind: str, shape: Shape) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(0)
    device = runtime.device()

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).half().to(device)

    k, v = (normal(shape.kv_len, shape.num_kv_heads, shape.head_dim) for _ in range(2))
    if kind == "decode":
        q = normal(shape.num_qo_heads, shape.head_dim)
        return lambda: decode.single_decode_with_kv_cache(q, k, v, **shape.options)
    q = normal(shape.qo_len, shape.num_qo_heads, shape.head_dim)
    return lambda: prefill.single_prefill_with_kv_cache(q, k, v, **shape.options)


@contextlib.contextmanager
def _launches(after: Callable[[Any, Callable[[], None]], None]) -> Iterator[None]:
    """Have ``after(kernel, launch)`` decide about every launch within the ``with`` block."""
    active = runtime.current()
    launch = active.launch

    def intercepted(kernel: Any, params: Any, tensors: Any, stream: Any) -> None:
        after(kernel, lambda: launch(kernel, params, tensors, stream))

    active.launch = intercepted  # type: ignore[method-assign]
    try:
        yield
    finally:
        del active.launch


def reports_of(call: Callable[[], Any]) -> list[tuple[Any, Report]]:
    """Return each kernel that ``call`` launches on the emulated GPU, with its report."""
    found: list[tuple[Any, Report]] = []

    def after(kernel: Any, launch: Callable[[], None]) -> None:
        launch()
        found.append((kernel, emulator.last_report()))

    with _launches(after):
        call()
    return found


def host_microseconds(call: Callable[[], Any], calls: int = 300) -> float:
    """Return the CPU time of ``call`` without its launches, the median of five series."""

    def series() -> float:
        start = time.process_time()
        for _ in range(calls):
            call()
        return (time.process_time() - start) / calls

    with _launches(lambda kernel, launch: None):
        series()
        return 1e6 * statistics.median(series() for _ in range(5))


def minimum_kv_bytes(shape: Shape, block_q: int, block_kv: int) -> int:
    """Return the bytes of K and V that tiles of ``block_q`` packed query rows see, in tiles of ``block_kv`` keys."""
    group_size = shape.num_qo_heads // shape.num_kv_heads
    rows = shape.qo_len * group_size
    window = shape.options.get("window_left", -1)
    causal = shape.options.get("causal", False) or shape.qo_len == 1
    keys = 0
    for first_row in range(0, rows, block_q):
        first_token = first_row // group_size
        last_token = (min(first_row + block_q, rows) - 1) // group_size
        offset = shape.kv_len - shape.qo_len
        begin = max(0, first_token + offset - window) if window >= 0 else 0
        end = last_token + offset + 1 if causal else shape.kv_len
        keys += end - begin // block_kv * block_kv
    return keys * shape.num_kv_heads * shape.head_dim * 2 * 2


def measure(kind: str, archs: Sequence[str]) -> list[Row]:
    """Measure the shapes of ``prefill`` or ``decode`` on the emulated GPUs."""
    rows = []
    for arch in archs:
        with emulator.use_arch(arch):
            for shape in SHAPES[kind]:
                call = _inputs(kind, shape)
                call()
                times = []
                for _ in range(5):
                    start = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - start)
                launched = reports_of(call)
                tile = launched[0][0].key.tile
                read = {buffer.name: buffer.read for buffer in launched[0][1].buffers}
                rows.append(
                    Row(
                        call=str(shape),
                        arch=arch,
                        kernels=len(launched),
                        emulated_seconds=statistics.median(times),
                        host_us=host_microseconds(call),
                        kv_bytes=read.get("k", 0) + read.get("v", 0),
                        kv_bytes_minimum=minimum_kv_bytes(
                            shape, tile.block_q, 1 if kind == "decode" else tile.block_kv
                        ),
                        mfma_flops=launched[0][1].mfma_flops,
                    )
                )
    return rows
