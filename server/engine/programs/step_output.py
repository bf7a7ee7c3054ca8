"""What a step gives back: drawn tokens, log probabilities of a prompt, pooled hidden states."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from models.decoder.decoder import Decoder
from models.decoder.parallel import any_rank
from models.sharding import DATA
from server.engine.programs.sampling.sampler import Drawn, Logprobs, token_logprobs
from server.link.sampling import MAX_LOGPROBS

# Prompt tokens whose logits are in memory at once when their log probabilities are requested.
_LOGPROB_TILE = 32


class StepOutput(NamedTuple):
    """The output of a step, the ranks' parts one after another.

    `prompt` has one entry per token, `pooled` the sum of each row's pooled hidden states; both only
    in mixed buckets.
    """

    drawn: Drawn
    prompt: Logprobs | None
    pooled: jax.Array | None


def output_specs() -> StepOutput:
    """The ranks' parts one after another; of `pooled`, every device has all."""
    by_rank: Any = PartitionSpec(DATA)
    everywhere: Any = PartitionSpec()
    return StepOutput(by_rank, by_rank, everywhere)


def prompt_logprobs(model: Decoder, x_TD: jax.Array, target_T: jax.Array) -> Logprobs:
    """The log probability of each requested next prompt token, one tile of tokens at a time."""
    num_tokens = x_TD.shape[0]
    tiles = (num_tokens // _LOGPROB_TILE, _LOGPROB_TILE)

    def run() -> Logprobs:
        split = (x_TD.reshape(*tiles, -1), target_T.reshape(tiles))
        out = jax.lax.map(lambda tile: token_logprobs(model.logits(tile[0]), tile[1]), split)
        return jax.tree.map(lambda leaf: leaf.reshape(num_tokens, *leaf.shape[2:]), out)

    def skip() -> Logprobs:
        none = jnp.zeros((num_tokens, MAX_LOGPROBS), jnp.float32)
        return Logprobs(none[:, 0], none.astype(jnp.int32), none)

    return jax.lax.cond(any_rank(target_T >= 0), run, skip)
