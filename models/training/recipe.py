"""The recipe of `tiny`: shape, schedule, rates, seed. All that was chosen is on this page.

The rate rises, stays, and falls to nothing on branches off the trunk (warmup-stable-decay): a
version is the end of a branch, so that both come out of one run, each annealed.
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
    """A version: it leaves the trunk after step `start` and is annealed until step `end`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long, how fast and in what portions; rates are those of the plateau."""

    branches: tuple[Branch, ...] = (Branch("1", 350, 450), Branch("2", 900, 1200))
    seed: int = 0
    batch_size: int = 4
    window: int = 512
    warmup_steps: int = 20
    muon_rate: float = 0.02
    adam_rate: float = 0.004

    def trunk_rate(self, step: int) -> float:
        """The fraction of the plateau's rates at which `step` is taken."""
        return min(1.0, (step + 1) / self.warmup_steps)

    def branch_rate(self, branch: Branch) -> Rate:
        """The same on a branch: from the plateau to nothing, in a straight line."""
        return lambda step: (branch.end - step) / (branch.end - branch.start)
