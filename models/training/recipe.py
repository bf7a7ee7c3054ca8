"""The recipe of `tiny`: shape, schedule, rates, seed. Every choice is in this module.

The learning rate rises, stays constant, and falls to zero on branches off the trunk
(warmup-stable-decay). Each version is the end of a branch, so one run gives both versions, each
annealed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.training import vocabulary

type Rate = Callable[[int], float]

# config.json, as transformers reads it.
CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": vocabulary.SIZE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": vocabulary.BOS_ID,
    "eos_token_id": vocabulary.EOS_ID,
    "pad_token_id": vocabulary.PAD_ID,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Branch:
    """A version: a branch that leaves the trunk after step `start` and is annealed until `end`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The sizes and seed of a run, and its learning rates on the plateau."""

    branches: tuple[Branch, ...] = (Branch("1", 350, 450), Branch("2", 900, 1200))
    seed: int = 0
    batch_size: int = 4
    window: int = 512
    warmup_steps: int = 20
    muon_rate: float = 0.02
    adam_rate: float = 0.004

    def trunk_rate(self, step: int) -> float:
        """The learning rate of `step`, as a fraction of the plateau's rate."""
        return min(1.0, (step + 1) / self.warmup_steps)

    def branch_rate(self, branch: Branch) -> Rate:
        """The fraction on a branch, which falls linearly from the plateau's rate to zero."""
        return lambda step: (branch.end - step) / (branch.end - branch.start)
