"""AITER behind FlashInfer's arguments: which calls it honours in full, and which AITER that is.

Nothing here has run on hardware. Rules and mappings were read from the sources of the releases in ``aiter_releases``,
and are tested against stand-ins with those releases' signatures. Another release is refused by name, for its arguments
may mean something else. How a call is mapped is in ``aiter_prefill`` and ``aiter_decode``.
"""

import functools
import importlib
import importlib.metadata
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from flashinfer_jit import env, log, validation
from flashinfer_jit.backends import aiter_releases
from flashinfer_jit.errors import UnsupportedConfigError

# AITER has natural log-sum-exps, FlashInfer those to base 2.
LOG2_E = math.log2(math.e)
OURS = "backend='fa2' (this package's kernels)"
# PyTorch's name for AMD GPUs.
DEVICE_TYPE = "cuda"
# AITER's function for each operation.
OPERATIONS = {
    "single prefill": "flash_attn_func",
    "ragged prefill": "flash_attn_varlen_func",
    "paged prefill": "mha_batch_prefill_func",
    "batch decode": "paged_attention_v1",
    "append": "reshape_and_cache_flash",
}
SINGLE, RAGGED, PAGED, DECODE, APPEND = OPERATIONS
PREFILL = (SINGLE, RAGGED, PAGED)
ATTENTION = (*PREFILL, DECODE)
BATCHES = (RAGGED, PAGED, DECODE)
# Numbers of the sources of AITER 0.1.7: paged_attention_v1 deals 32 tokens of V to each step of its threads and holds
# 16 query heads in a matrix instruction; mha_batch_prefill computes places in the cache with 32-bit numbers.
DECODE_TOKENS = 32
DECODE_HEADS = 16
MAX_PAGED_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Call:
    """What AITER would have to honour of a call, as far as it is known before tensors are.

    Attributes
    ----------
    operation : str
        One of ``OPERATIONS``.
    device_type : str
        Where tensors are, as PyTorch names it.
    dtype_q, dtype_kv, dtype_o : torch.dtype
        Element types; of an append, ``dtype_q`` is that of the new keys.
    head_dim_qk, head_dim_vo : int
        Elements of a head.
    group_size : int
        Query heads per KV head.
    mask_mode : str
        ``none``, ``causal`` or ``custom``.
    position_encoding : str
        ``none``, ``rope_llama`` or ``alibi``.
    kv_layout : str
        ``NHD`` or ``HND``.
    page_size : int or None
        None if keys are not in pages.
    window_left : int
        -1 for none.
    logits_soft_cap : float
        0 for none.
    q_len_per_req : int
        Query tokens of a request of a batch decode.
    variant : str or None
        A custom variant.
    is_captured, is_batch_invariant, has_hidden_rows : bool
        Whether the wrapper is for graphs, whether splits are fixed or forbidden, whether any query sees no key.
    missing_workspace : int
        Bytes that ``float_workspace_buffer`` is too small by.
    """

    operation: str
    device_type: str
    dtype_q: torch.dtype
    dtype_kv: torch.dtype
    dtype_o: torch.dtype
    head_dim_qk: int
    head_dim_vo: int
    group_size: int = 1
    mask_mode: str = "none"
    position_encoding: str = "none"
    kv_layout: str = "NHD"
    page_size: int | None = None
    window_left: int = -1
    logits_soft_cap: float = 0.0
    q_len_per_req: int = 1
    variant: str | None = None
    is_captured: bool = False
    is_batch_invariant: bool = False
    has_hidden_rows: bool = False
    missing_workspace: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What only the tensors of a run say.

    Attributes
    ----------
    operation : str
        One of ``OPERATIONS``.
    q, k, v : torch.Tensor
        k and v as ``[tokens, heads, head_dim]`` or ``[pages, page_size, heads, head_dim]``, whatever the layout; of an
        append, the caches, and q the new keys.
    out : torch.Tensor
        Where the result goes; of an append, the new values.
    page_size : int or None
        None if keys are not in pages.
    has_sinks, wants_lse, has_scale_tensors : bool
        Whether there are sinks, whether the log-sum-exp is to be returned, whether scales are tensors.
    """

    operation: str
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    page_size: int | None = None
    has_sinks: bool = False
    wants_lse: bool = False
    has_scale_tensors: bool = False

    @property
    def rows_per_page(self) -> int | None:
        """From one page to the next, in tokens; None if that is no whole number, or not the same for k and v."""
        page, token = self.k.stride(0), self.k.stride(1)
        same = (page, token) == (self.v.stride(0), self.v.stride(1))
        return page // token if same and token > 0 and page % token == 0 else None

    @property
    def paged_bytes(self) -> int:
        """What keys or values span."""
        return self.k.shape[0] * self.k.stride(0) * self.k.element_size()


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that AITER wants of a call.

    Attributes
    ----------
    needs : str
        What it wants, for messages and documents.
    operations : tuple of str
        Where it holds.
    broken : callable
        From a :class:`Call`, or from a :class:`Run` for a rule of runs: what is there instead, None if the rule holds.
    """

    needs: str
    operations: tuple[str, ...]
    broken: Callable[[Any], str | None]


def _unless(holds: Callable[[Any], bool], text: Callable[[Any], str]) -> Callable[[Any], str | None]:
    return lambda call: None if holds(call) else text(call)


CALL_RULES = (
    Rule(
        "tensors on an AMD GPU",
        tuple(OPERATIONS),
        _unless(lambda c: c.device_type == DEVICE_TYPE, lambda c: f"tensors are on {c.device_type}"),
    ),
    Rule(
        "float16 or bfloat16 queries",
        ATTENTION,
        _unless(lambda c: c.dtype_q in (torch.float16, torch.bfloat16), lambda c: f"q is {c.dtype_q}"),
    ),
    Rule(
        "float16, bfloat16 or float32 keys and values",
        (APPEND,),
        _unless(
            lambda c: c.dtype_q in (torch.float16, torch.bfloat16, torch.float32),
            lambda c: f"append_key is {c.dtype_q}",
        ),
    ),
    Rule(
        "keys and values of the dtype of q (append: a cache of the dtype of append_key)",
        tuple(OPERATIONS),
        _unless(lambda c: c.dtype_kv == c.dtype_q, lambda c: f"they are {c.dtype_kv}, beside {c.dtype_q}"),
    ),
    Rule(
        "an output of the dtype of q",
        ATTENTION,
        _unless(lambda c: c.dtype_o == c.dtype_q, lambda c: f"the output is {c.dtype_o}, q is {c.dtype_q}"),
    ),
    Rule(
        "head_dim_vo equal to head_dim_qk",
        tuple(OPERATIONS),
        _unless(lambda c: c.head_dim_vo == c.head_dim_qk, lambda c: f"they are {c.head_dim_vo} and {c.head_dim_qk}"),
    ),
    Rule(
        "head_dim_qk of 64, 128 or 256",
        (SINGLE, RAGGED, DECODE),
        _unless(lambda c: c.head_dim_qk in (64, 128, 256), lambda c: f"head_dim_qk={c.head_dim_qk}"),
    ),
    Rule(
        "head_dim_qk of 64 or 128",
        (PAGED,),
        _unless(lambda c: c.head_dim_qk in (64, 128), lambda c: f"head_dim_qk={c.head_dim_qk}"),
    ),
    Rule(
        f"at most {DECODE_HEADS} query heads per KV head",
        (DECODE,),
        _unless(lambda c: c.group_size <= DECODE_HEADS, lambda c: f"there are {c.group_size}"),
    ),
    Rule("no custom mask", PREFILL, _unless(lambda c: c.mask_mode != "custom", lambda c: "there is a custom mask")),
    Rule(
        "pos_encoding_mode='NONE'",
        ATTENTION,
        _unless(
            lambda c: c.position_encoding == "none", lambda c: f"pos_encoding_mode={c.position_encoding.upper()!r}"
        ),
    ),
    Rule(
        "kv_layout='NHD', or pages of one token",
        (PAGED,),
        _unless(
            lambda c: c.kv_layout == "NHD" or c.page_size == 1,
            lambda c: f"kv_layout={c.kv_layout!r} with page_size={c.page_size}",
        ),
    ),
    Rule(
        f"a page_size that divides {DECODE_TOKENS}",
        (DECODE,),
        _unless(lambda c: DECODE_TOKENS % (c.page_size or 1) == 0, lambda c: f"page_size={c.page_size}"),
    ),
    # Its hand-written kernels for bfloat16 are chosen where no window is above 0, and know no window.
    Rule(
        "window_left other than 0",
        (SINGLE, RAGGED),
        _unless(lambda c: c.window_left != 0, lambda c: "window_left=0, which its choice of kernels takes for none"),
    ),
    # flash_attn_func has no such argument, and releases pass that of flash_attn_varlen_func to kernels without one.
    Rule(
        "no logits_soft_cap",
        (SINGLE, RAGGED),
        _unless(lambda c: c.logits_soft_cap == 0, lambda c: f"logits_soft_cap={c.logits_soft_cap} may reach no kernel"),
    ),
    # The cap comes after the window there: what the window hid comes back as -cap.
    Rule(
        "logits_soft_cap or window_left, not both",
        (DECODE,),
        _unless(
            lambda c: c.logits_soft_cap == 0 or c.window_left < 0,
            lambda c: f"logits_soft_cap={c.logits_soft_cap} would be applied after window_left={c.window_left}",
        ),
    ),
    Rule(
        "q_len_per_req=1",
        (DECODE,),
        _unless(lambda c: c.q_len_per_req == 1, lambda c: f"q_len_per_req={c.q_len_per_req}"),
    ),
    Rule("no custom variant", ATTENTION, _unless(lambda c: c.variant is None, lambda c: "there is a custom variant")),
    # Longest lengths are numbers of the call, which a captured graph would keep.
    Rule(
        "use_cuda_graph=False",
        BATCHES,
        _unless(lambda c: not c.is_captured, lambda c: "use_cuda_graph=True, and lengths are arguments on the host"),
    ),
    Rule(
        "neither fixed_split_size nor disable_split_kv nor batch_invariant",
        BATCHES,
        _unless(lambda c: not c.is_batch_invariant, lambda c: "it splits by rules of its own"),
    ),
    # Outputs are 0 then, but log-sum-exps are +inf, -inf or not written.
    Rule(
        "a key for every query",
        ATTENTION,
        _unless(lambda c: not c.has_hidden_rows, lambda c: "some queries see none, and its log-sum-exp is undefined"),
    ),
    Rule(
        "room in float_workspace_buffer for a partial output of every 256 keys",
        (DECODE,),
        _unless(
            lambda c: c.missing_workspace <= 0,
            lambda c: f"float_workspace_buffer is {c.missing_workspace} bytes too small",
        ),
    ),
)
RUN_RULES = (
    Rule("no sinks", BATCHES, _unless(lambda r: not r.has_sinks, lambda r: "sinks are given")),
    Rule(
        "no return_lse",
        (DECODE,),
        _unless(lambda r: not r.wants_lse, lambda r: "return_lse=True, and it returns none"),
    ),
    Rule(
        "scales that are numbers",
        (SINGLE, *BATCHES),
        _unless(lambda r: not r.has_scale_tensors, lambda r: "q_scale, k_scale or v_scale is a tensor"),
    ),
    Rule(
        "heads of q and of the output without gaps",
        (DECODE,),
        _unless(
            lambda r: r.q.stride(1) == r.q.shape[2] and r.out.is_contiguous(),
            lambda r: f"strides are {list(r.q.stride())} and {list(r.out.stride())}",
        ),
    ),
    Rule(
        "keys and values with the same strides",
        (DECODE,),
        _unless(
            lambda r: r.k.stride() == r.v.stride(), lambda r: f"they have {list(r.k.stride())} and {list(r.v.stride())}"
        ),
    ),
    Rule(
        "keys and values whose pages are the same whole number of tokens apart",
        (PAGED,),
        _unless(
            lambda r: r.page_size == 1 or r.rows_per_page is not None,
            lambda r: f"strides are {list(r.k.stride())} and {list(r.v.stride())}",
        ),
    ),
    Rule(
        "keys and values of at most 2 GiB each",
        (PAGED,),
        _unless(lambda r: r.paged_bytes <= MAX_PAGED_BYTES, lambda r: f"they span {r.paged_bytes} bytes"),
    ),
    Rule(
        "new keys, new values and pages without gaps, and pages of keys and values equally far apart",
        (APPEND,),
        _unless(
            lambda r: _has_gapless_tokens(r.q, r.out, r.k, r.v) and r.k.stride(0) == r.v.stride(0),
            lambda r: f"strides are {[list(x.stride()) for x in (r.q, r.out, r.k, r.v)]}",
        ),
    ),
)


def _has_gapless_tokens(*tensors: torch.Tensor) -> bool:
    """Whether heads of a token adjoin, and, in pages, tokens of a page."""
    return all(
        (x.shape[-2] == 1 or x.stride(-2) == x.shape[-1])
        and (x.ndim == 3 or x.shape[1] == 1 or x.stride(1) == x.shape[-2] * x.shape[-1])
        for x in tensors
    )


class Refusal(NamedTuple):
    """Why AITER does not do something.

    Attributes
    ----------
    reason : str
        What is there, and what it needs.
    condition : str
        The same without what differs from call to call: it is said once.
    """

    reason: str
    condition: str


NO_SINGLE_DECODE = Refusal(*["AITER has no function for single_decode_with_kv_cache"] * 2)
NO_KEYS = Refusal(*["there are no keys, and its log-sum-exp is undefined then"] * 2)


def why_not(facts: Call | Run) -> Refusal | None:
    """Return what AITER would ignore or do otherwise, and what it needs; None if it honours everything."""
    for rule in CALL_RULES if isinstance(facts, Call) else RUN_RULES:
        if facts.operation in rule.operations:
            found = rule.broken(facts)
            if found is not None:
                need = f"{OPERATIONS[facts.operation]} needs {rule.needs}"
                return Refusal(f"{found}: {need}", need)
    return None


def choose(backend: str, call: Call) -> Callable[..., Any] | None:
    """Return AITER's function for a call, None where this package's kernels do it.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    call : Call
        The call.

    Raises
    ------
    UnsupportedConfigError
        If ``backend`` is ``aiter`` and AITER does not honour the call, is not installed, or is an unknown release.
        Where FLASHINFER_JIT_BACKEND says ``aiter`` it is a warning.
    """
    refusal = why_not(call)
    if refusal is None:
        try:
            return function(call.operation)
        except UnsupportedConfigError as error:
            refusal = Refusal(str(error), str(error))
    decline(backend, refusal)
    return None


def is_declined(backend: str, run: Run) -> bool:
    """Whether this package's kernels have to do a run; raises as ``choose`` does."""
    refusal = why_not(run)
    if refusal is not None:
        decline(backend, refusal)
    return refusal is not None


def decline(backend: str, refusal: Refusal) -> None:
    """Raise UnsupportedConfigError if AITER was asked for by the argument, else say once why it is not called."""
    if backend == "aiter":
        raise UnsupportedConfigError(f"backend='aiter' cannot do this: {refusal.reason}; or use {OURS}")
    log.warn_once(
        f"aiter: {refusal.condition}",
        f"{env.BACKEND.name}='aiter': this package's kernels are used instead of AITER's: {refusal.reason}",
    )


def function(operation: str) -> Callable[..., Any]:
    """Return AITER's function for an operation; raise UnsupportedConfigError if it is not one that is known."""
    found = _load()
    if isinstance(found, str):
        raise UnsupportedConfigError(found)
    release, functions = found
    name = OPERATIONS[operation]
    if name not in functions:
        known = ", ".join(release.name for release in aiter_releases.RELEASES if name in release.functions)
        raise UnsupportedConfigError(
            f"the signature of aiter.{name} is not known for AITER {release.name}: install one of {known}"
        )
    return functions[name]


# What is installed does not change while a process runs, and looking costs milliseconds: errors are kept too.
@functools.cache
def _load() -> tuple[aiter_releases.Release, dict[str, Callable[..., Any]]] | str:
    """Return the release that is installed and its functions, or why there is none."""
    versions = installed_versions()
    if not versions:
        return f"AITER is not installed (no distribution {' or '.join(aiter_releases.DISTRIBUTIONS)}): install it"
    distribution, version = versions[0]
    release = aiter_releases.find(version)
    if release is None:
        known = ", ".join(release.name for release in aiter_releases.RELEASES)
        return (
            f"{distribution} {version} is unknown, and its arguments may mean something else: install one of {known}; "
            "or compare its functions with those (python -m flashinfer_jit.backends.aiter prints them) and add it to "
            "flashinfer_jit/backends/aiter_releases.py"
        )
    try:
        module = importlib.import_module("aiter")
    # Its import looks for a GPU and for compilers, and fails in as many ways.
    except Exception as error:
        return f"{distribution} {version} cannot be imported ({type(error).__name__}: {error}): repair it"
    functions = {}
    for name, recorded in release.functions.items():
        found = getattr(module, name, None)
        actual = None if found is None else signature_text(found, name)
        if found is None or actual != recorded:
            return (
                f"aiter.{name} is not that of AITER {release.name}: expected ({recorded}), got "
                f"{'nothing' if actual is None else f'({actual})'}: reinstall it"
            )
        functions[name] = found
    return release, functions


def installed_versions() -> list[tuple[str, str]]:
    """Return name and version of the distributions that hold AITER."""
    found = []
    for name in aiter_releases.DISTRIBUTIONS:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def signature_text(called: Callable[..., Any], name: str) -> str:
    """Return parameters and defaults of the function ``aiter.name`` as ``aiter_releases`` has them.

    AITER's decorator of compiled functions hides their parameters, but registers each as an operator of the same name.
    """
    text = _parameter_text(inspect.signature(called))
    if text == "*args, **kwargs" and hasattr(torch.ops.aiter, name):
        arguments = getattr(torch.ops.aiter, name).default._schema.arguments
        kind, none = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        defaults = [x.default_value if x.has_default_value() else none for x in arguments]
        parameters = [inspect.Parameter(x.name, kind, default=y) for x, y in zip(arguments, defaults, strict=True)]
        text = _parameter_text(inspect.Signature(parameters))
    return text


def _parameter_text(signature: inspect.Signature) -> str:
    parameters = signature.parameters.values()
    return ", ".join(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)


def pair(result: Any, wants_lse: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return output and natural log-sum-exp of what AITER returned: some releases return a tuple of one."""
    if not isinstance(result, (tuple, list)):
        result = (result,)
    return result[0], result[1] if wants_lse else None


def scale_output(out: torch.Tensor, output_scale: float) -> None:
    """Multiply an output, which AITER's functions do not do."""
    if output_scale != 1.0:
        out.mul_(output_scale)


def is_wanted(backend: str) -> bool:
    """Whether AITER is asked for, by the argument or by the environment."""
    return validation.resolve_backend(backend) == "aiter"


def main() -> None:
    """Print which AITER is installed, whether it is known, and its functions' signatures."""
    versions = installed_versions()
    print("\n".join(f"{name} {version}" for name, version in versions) or "AITER is not installed")
    if versions:
        release = aiter_releases.find(versions[0][1])
        print("unknown" if release is None else f"known: {release.name}, from {release.source}")
        module = importlib.import_module("aiter")
        for name in OPERATIONS.values():
            print(f"{name}({signature_text(getattr(module, name), name)})" if hasattr(module, name) else f"no {name}")


if __name__ == "__main__":
    main()
