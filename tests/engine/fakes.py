"""A device made of plain integers, exact about what a real one would and would not know.

It keeps a KV pool of tokens, block by block, and per-slot state; a row's next token is a function
of the tokens found in the pool along its block table. A block handed out too early, shared wrongly
or not computed therefore shows as a wrong token, and `expected_tokens` says which are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from server.engine.link import SamplingParams, TokenLogprobs
from server.engine.sequence import Sequence
from server.engine.step import RowResult, ScheduledBatch, ScheduledRow, StepResult

VOCAB_SIZE = 11
EOS = 10
POISON = -1


def next_token(context: list[int], seed: int, index: int) -> int:
    """Depends on every token before it and its position, on the seed and on the choice."""
    value = seed * 7 + index
    for token in context:
        value = (value * 31 + token + 1) % 1_000_003
    return (value + len(context)) % VOCAB_SIZE


def expected_tokens(
    prompt: list[int], params: SamplingParams, *, index: int = 0, max_num_tokens: int = 10**9
) -> list[int]:
    """What a choice must generate, computed without engine, blocks or batches."""
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + params.max_tokens, max_num_tokens):
        tokens.append(next_token(tokens, params.seed, index))
        if tokens[-1] in stops and len(tokens) - len(prompt) > params.min_tokens:
            break
    return tokens[len(prompt) :]


def expected_prompt_logprobs(prompt: list[int]) -> list[TokenLogprobs | None]:
    """One entry per prompt token, none for the first."""
    return [None, *(logprob_of(prompt[:end], prompt[end]) for end in range(1, len(prompt)))]


def logprob_of(context: list[int], token: int) -> TokenLogprobs:
    return TokenLogprobs(-float(len(context)) - token / VOCAB_SIZE, [])


@dataclass(slots=True)
class FakeRunner:
    """Executes at once, in order; results come with `read`, as from a device one step behind."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    poisoned_request_ids: set[int] = field(default_factory=set)
    batches: list[list[tuple[int, int, int, int]]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    on_read: Callable[[], None] = lambda: None
    pool: list[list[int | None]] = field(init=False)
    last_tokens: list[int | None] = field(init=False)
    slot_owners: list[int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.pool = [[None] * self.block_size for _ in range(self.num_blocks)]
        self.last_tokens = [None] * self.max_num_seqs
        self.slot_owners = [None] * self.max_num_seqs

    def execute(self, batch: ScheduledBatch) -> tuple[int, StepResult]:
        self._check(batch)
        self.batches.append(
            [
                (
                    row.seq.request_id,
                    row.seq.index,
                    row.num_computed_tokens,
                    row.num_scheduled_tokens,
                )
                for row in batch.rows
            ]
        )
        number = len(self.batches)
        self.log.append(f"execute {number}")
        inputs = [self._inputs(row) for row in batch.rows]
        for row, tokens in zip(batch.rows, inputs, strict=True):
            self._write(row, tokens)
        rows = tuple(self._row_result(row) for row in batch.rows)
        return number, StepResult(rows, num_padded_tokens=self.max_num_batched_tokens)

    def read(self, in_flight: tuple[int, StepResult]) -> StepResult:
        number, result = in_flight
        self.on_read()
        self.log.append(f"read {number}")
        return result

    def _check(self, batch: ScheduledBatch) -> None:
        slots = [row.seq.slot for row in batch.rows]
        assert 0 < batch.num_tokens <= self.max_num_batched_tokens
        assert len(set(slots)) == len(slots) <= self.max_num_seqs
        assert min(slots) >= 0
        kinds = [row.is_decode for row in batch.rows]
        assert kinds == sorted(kinds, reverse=True), "decodes come first"

    def _inputs(self, row: ScheduledRow) -> list[int]:
        """The tokens of the scheduled positions: known to the host, or the slot's last one."""
        seq = row.seq
        assert row.num_scheduled_tokens > 0
        if row.is_admitted:
            assert row.end <= len(seq.token_ids), "admitted with a token in flight"
            self.slot_owners[seq.slot] = seq.seq_id
            self.last_tokens[seq.slot] = None
        assert self.slot_owners[seq.slot] == seq.seq_id, "the slot holds another's state"
        tokens = seq.token_ids[row.num_computed_tokens : row.end]
        if len(tokens) < row.num_scheduled_tokens:
            last_token = self.last_tokens[seq.slot]
            assert last_token is not None, "no token is in flight"
            tokens.append(last_token)
        assert len(tokens) == row.num_scheduled_tokens, "more than one token is in flight"
        return tokens

    def _write(self, row: ScheduledRow, tokens: list[int]) -> None:
        for position, token in enumerate(tokens, row.num_computed_tokens):
            block = row.seq.block_table[position // self.block_size]
            assert block > 0, "block 0 is for padding"
            is_poisoned = row.seq.request_id in self.poisoned_request_ids
            self.pool[block][position % self.block_size] = POISON if is_poisoned else token

    def _context(self, seq: Sequence, length: int) -> list[int]:
        table, size = seq.block_table, self.block_size
        found = [self.pool[table[p // size]][p % size] for p in range(length)]
        context = [token for token in found if token is not None]
        assert len(context) == length, "a position was never computed"
        return context

    def _row_result(self, row: ScheduledRow) -> RowResult:
        seq = row.seq
        context = self._context(seq, row.end)
        if POISON in context:
            self.last_tokens[seq.slot] = 0
            return RowResult(0 if row.is_sampling else None, is_finite=False)
        prompt_logprobs = [
            logprob_of(context[: position + 1], seq.token_ids[position + 1])
            for position in range(row.num_computed_tokens, row.end)
            if seq.params.num_prompt_logprobs >= 0 and position + 1 < seq.num_prompt_tokens
        ]
        if not row.is_sampling:
            return RowResult(None, prompt_logprobs=prompt_logprobs)
        token = next_token(context, seq.params.seed, seq.index)
        self.last_tokens[seq.slot] = token
        logprobs = logprob_of(context, token) if seq.params.num_logprobs >= 0 else None
        return RowResult(token, logprobs, prompt_logprobs)
