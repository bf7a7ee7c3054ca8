"""The sampler's functions on meshes of CPU devices, fed through packing as by the runner."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.testing import assert_array_equal

from models.sharding import DATA, TENSOR
from server.engine.policy.sequences.step import ScheduledRow
from server.engine.programs.inputs.buckets import Bucket
from server.engine.programs.inputs.packing import pack, pack_draw
from server.engine.programs.inputs.slot_input import SlotSizes, pack_slot
from server.engine.programs.inputs.step_input import WORD
from server.engine.programs.sampling.filters import choose_tokens, filter_logits
from server.engine.programs.sampling.sampler import (
    abstract_state,
    draw,
    sample,
    set_slot,
    state_specs,
    token_logprobs,
)
from tests.engine.builders import make_sequence
from tests.engine.device import oracle

ROWS = 64
VOCAB = 500
PADDED_VOCAB = 512
# Float rounding may turn a draw whose two best candidates, noise included, are no further apart.
CLOSE = 1e-4
SIZES = SlotSizes(max_model_len=16, max_biases=4, max_stop_ids=3)


def make_mesh(num_shards):
    return Mesh(np.asarray(jax.devices()[:num_shards]).reshape(1, -1), (DATA, TENSOR))


def make_row(*, prompt=(5,), output=(), slot=0, position=None, choice=0, **params):
    """A sequence's row that samples the token at `position`, the next one unless told."""
    seq = make_sequence(prompt, index=choice, **params)
    seq.token_ids += output
    seq.slot = slot
    position = len(seq.token_ids) if position is None else position
    return ScheduledRow(seq, position - 1, 1, is_sampling=True, is_admitted=True)


def make_rows(count=ROWS, **params):
    return [make_row(slot=i, **params) for i in range(count)]


def gap(token, logits, row):
    """By how much `token` falls short of what the oracle draws for the row."""
    seq = row.seq
    return oracle.gap(
        token,
        logits,
        seq.params,
        seq.token_ids[: seq.num_prompt_tokens],
        seq.token_ids[seq.num_prompt_tokens : row.end],
        position=row.end,
        choice=seq.index,
        stop_token_ids=seq.stop_token_ids,
    )


class Bench:
    """The sampler's functions on one mesh, each compiled once, for logits given as a whole."""

    def __init__(self, num_shards):
        mesh = make_mesh(num_shards)
        by_vocab, everywhere = PartitionSpec(None, TENSOR), PartitionSpec()
        specs = state_specs()

        def sharded(function, in_specs, out_specs):
            return jax.jit(
                jax.shard_map(
                    function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
                )
            )

        self._sample = sharded(sample, (by_vocab, specs, everywhere), (everywhere, specs))
        self._draw_allowed = sharded(draw, (by_vocab, specs, everywhere), (everywhere, specs))
        self._draw = sharded(choose_tokens, (by_vocab, everywhere), everywhere)
        self._set_slot = sharded(set_slot, (specs, everywhere), specs)
        self._filter = sharded(filter_logits, (by_vocab, everywhere), by_vocab)
        self._logprobs = sharded(token_logprobs, (by_vocab, everywhere), everywhere)
        self._empty = jax.tree.map(
            lambda leaf, spec: jnp.zeros(leaf.shape, leaf.dtype, device=NamedSharding(mesh, spec)),
            abstract_state(ROWS, PADDED_VOCAB, SIZES),
            specs,
        )
        self.state = self._empty

    def admit(self, rows):
        """Give every row's slot to its sequence; the rest of the state is as new."""
        self.state = self._empty
        for row in rows:
            self.set_slot(row)

    def set_slot(self, row):
        self.state = self._set_slot(self.state, pack_slot(row.seq, SIZES))

    def draw(self, logits, rows):
        """Tokens drawn from `logits` as they are: no penalties, no state."""
        return np.asarray(self._draw(pad(logits), pack_sampling(rows)))[: len(rows)].tolist()

    def sample(self, logits, rows):
        """What one step draws for `rows`; the state goes on from it."""
        drawn, self.state = self._sample(pad(logits), self.state, pack_sampling(rows))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], drawn)

    def draw_allowed(self, logits, rows, allowed):
        """What a draw gives for `rows`, of which each may draw its `allowed` tokens."""
        limits = pack_draw(dict(enumerate(rows)), ROWS, PADDED_VOCAB // WORD, ROWS)
        for words, token_ids in zip(limits.allowed_SW, allowed, strict=False):
            bits = np.isin(np.arange(PADDED_VOCAB), token_ids)
            words[:] = np.packbits(bits, bitorder="little").view(np.uint32)
        drawn, self.state = self._draw_allowed(pad(logits), self.state, limits)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(rows)], drawn)

    def tokens(self, logits, rows):
        return self.sample(logits, rows).token_S.tolist()

    def kept(self, scaled, rows):
        """Which tokens the rows' filters leave."""
        filtered = np.asarray(self._filter(pad(scaled), pack_sampling(rows)))
        assert np.isneginf(filtered[:, VOCAB:]).all()
        filtered = filtered[: len(rows), :VOCAB]
        is_kept = ~np.isneginf(filtered)
        assert_array_equal(filtered[is_kept], scaled[: len(rows)][is_kept])
        return is_kept

    def logprobs(self, logits, tokens):
        return jax.tree.map(np.asarray, self._logprobs(pad(logits), tokens))


def pad(logits):
    """As the model gives them: rows to the bucket's size, -inf past the vocabulary."""
    padded = np.full((ROWS, PADDED_VOCAB), -np.inf, np.float32)
    padded[:, :VOCAB] = 0
    padded[: len(logits), :VOCAB] = logits
    return padded


def pack_sampling(rows):
    bucket = Bucket(ROWS, ROWS, decode_only=True)
    return pack(rows, bucket, 0, 1, scratch_slot=ROWS).sampling


def random_logits(seed=0, *, rows=ROWS, scale=3.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, VOCAB)) * scale).astype(np.float32)


def tied_logits(seed, step, **options):
    """Multiples of `step`: many tokens tie, zero in both its signs among them."""
    return (np.round(random_logits(seed, **options) / step) * step).astype(np.float32)
