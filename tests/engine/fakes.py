"""A device made of plain integers, exact about what a real one would and would not know.

It keeps a KV pool for each kind of layers, and per-slot state. A slot of a pool remembers which
tokens led up to it; a row must find its own along its block tables, wherever a layer of the kind
would look. A block given back or handed out too early, shared wrongly or not computed therefore
fails in the step that reads it. `expected_tokens` says which tokens a sequence must end up with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from models.checkpoint.manifest import Golden, GoldenPrompt
from server.engine.observer import StepStats
from server.engine.policy.blocks.layer_kinds import KVKind
from server.engine.policy.drafts.drafter import num_accepted
from server.engine.policy.sequences.pooling import pooled_positions
from server.engine.policy.sequences.sequence import LoadedVersion
from server.engine.policy.sequences.sequence import Sequence as EngineSequence
from server.engine.policy.sequences.step import RowResult, ScheduledBatch, ScheduledRow, StepResult
from server.link.frames import TokenLogprobs
from server.link.sampling import SamplingParams

VOCAB_SIZE = 11
EOS = 10
POISON = (-1,)

# All tokens of a sequence up to a slot's own; None where nothing was ever written.
type Content = tuple[int, ...] | None


def next_token(context: Sequence[int], seed: int, index: int, weights: int = 0) -> int:
    """Depends on every token before it and its position, on seed and choice, and the weights."""
    value = seed * 7 + index + weights * 101
    for token in context:
        value = (value * 31 + token + 1) % 1_000_003
    return (value + len(context)) % VOCAB_SIZE


def expected_tokens(
    prompt: list[int],
    params: SamplingParams,
    *,
    index: int = 0,
    max_num_tokens: int = 10**9,
    weights: int = 0,
) -> list[int]:
    """What a choice must generate, computed without engine, blocks or batches."""
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    tokens = list(prompt)
    while len(tokens) < min(len(prompt) + params.max_tokens, max_num_tokens):
        tokens.append(next_token(tokens, params.seed, index, weights))
        if tokens[-1] in stops and len(tokens) - len(prompt) > params.min_tokens:
            break
    return tokens[len(prompt) :]


def expected_prompt_logprobs(prompt: list[int]) -> list[TokenLogprobs | None]:
    """One entry per prompt token, none for the first."""
    return [None, *(logprob_of(prompt[:end], prompt[end]) for end in range(1, len(prompt)))]


def logprob_of(context: Sequence[int], token: int) -> TokenLogprobs:
    return TokenLogprobs(-float(len(context)) - token / VOCAB_SIZE, [])


@dataclass(slots=True)
class FakeRunner:
    """Executes at once, in order; results come with `read`, as from a device one step behind."""

    kinds: tuple[KVKind, ...]
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_ranks: int = 1
    poisoned_request_ids: set[int] = field(default_factory=set)
    loader: FakeLoader = field(default_factory=lambda: FakeLoader())
    batches: list[list[tuple[int, int, int, int]]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    on_read: Callable[[], None] = lambda: None
    pools: list[list[list[Content]]] = field(init=False)
    host: list[dict[int, list[Content]]] = field(init=False)
    last_tokens: list[int | None] = field(init=False)
    slot_owners: list[int | None] = field(init=False)

    def __post_init__(self) -> None:
        self.pools = [
            [[None] * self.block_size for _ in range(kind.num_blocks)] for kind in self.kinds
        ]
        self.host = [{} for _ in self.kinds]
        self.last_tokens = [None] * self.max_num_seqs
        self.slot_owners = [None] * self.max_num_seqs

    def execute(self, batch: ScheduledBatch) -> tuple[int, StepResult]:
        self._check(batch)
        self._move(batch)
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
        weights = self.loader.weights_of(batch.version)
        for row, tokens in zip(batch.rows, inputs, strict=True):
            self._write(row, tokens, weights)
        rows = tuple(
            self._row_result(row, tokens, weights)
            for row, tokens in zip(batch.rows, inputs, strict=True)
        )
        return number, StepResult(rows, num_padded_tokens=self.max_num_batched_tokens)

    def read(self, in_flight: tuple[int, StepResult]) -> StepResult:
        number, result = in_flight
        self.on_read()
        self.log.append(f"read {number}")
        return result

    def poison(self, request_id: int) -> None:
        self.poisoned_request_ids.add(request_id)

    def _check(self, batch: ScheduledBatch) -> None:
        slots = [row.seq.slot for row in batch.rows]
        assert 0 < batch.num_tokens <= self.max_num_batched_tokens
        assert len(set(slots)) == len(slots) <= self.max_num_seqs
        assert min(slots) >= 0
        kinds = [row.is_decode for row in batch.rows]
        assert kinds == sorted(kinds, reverse=True), "decodes come first"

    def _move(self, batch: ScheduledBatch) -> None:
        """Copy blocks from and to the host, of each kind of layers."""
        for pool, host, moves in zip(self.pools, self.host, batch.moves, strict=False):
            restored = [(block, host[place]) for block, place in moves.restores]
            host |= {place: list(pool[block]) for block, place in moves.saves}
            for block, content in restored:
                pool[block] = list(content)

    def _inputs(self, row: ScheduledRow) -> tuple[int, ...]:
        """All tokens up to the scheduled ones: known to the host, or the slot's last one."""
        seq = row.seq
        assert row.num_scheduled_tokens > 0
        if row.is_admitted:
            assert row.end <= len(seq.token_ids), "admitted with a token in flight"
            self.slot_owners[seq.slot] = seq.seq_id
            self.last_tokens[seq.slot] = None
        assert self.slot_owners[seq.slot] == seq.seq_id, "the slot holds another's state"
        tokens = seq.token_ids[: row.end - len(row.draft_ids)]
        if row.draft_ids:
            assert len(seq.token_ids) == row.end - len(row.draft_ids), "drafts follow what is known"
            tokens.extend(row.draft_ids)
        if len(tokens) < row.end:
            last_token = self.last_tokens[seq.slot]
            assert last_token is not None, "no token is in flight"
            tokens.append(last_token)
        assert len(tokens) == row.end, "more than one token is in flight"
        return tuple(tokens)

    def _write(self, row: ScheduledRow, tokens: tuple[int, ...], weights: int) -> None:
        is_poisoned = row.seq.request_id in self.poisoned_request_ids or weights in NAN_WEIGHTS
        for position in range(row.num_computed_tokens, row.end):
            content = POISON if is_poisoned else (weights, *tokens[: position + 1])
            for pool, table in zip(self.pools, row.seq.block_tables, strict=True):
                pool[self._block(table, position)][position % self.block_size] = content

    def _block(self, table: list[int], position: int) -> int:
        block = table[position // self.block_size]
        assert block > 0, "block 0 is for padding"
        return block

    def _seen(self, row: ScheduledRow) -> Iterator[tuple[int, Content]]:
        """Every position that a layer of any kind looks at, and what it finds there."""
        for kind, pool, table in zip(self.kinds, self.pools, row.seq.block_tables, strict=True):
            window = row.end if kind.window is None else kind.window
            for position in range(max(0, row.num_computed_tokens - window + 1), row.end):
                content = pool[self._block(table, position)][position % self.block_size]
                yield position, content

    def _row_result(self, row: ScheduledRow, context: tuple[int, ...], weights: int) -> RowResult:
        seq, seen = row.seq, list(self._seen(row))
        if any(content == POISON for _, content in seen):
            self.last_tokens[seq.slot] = 0
            return RowResult((0,) if row.is_sampling else (), is_finite=False)
        for position, content in seen:
            own = (weights, *context[: position + 1])
            assert content == own, "what is in the pool is not its own"
        prompt_logprobs = [
            logprob_of(context[: position + 1], seq.token_ids[position + 1])
            for position in range(row.num_computed_tokens, row.end)
            if seq.params.num_prompt_logprobs >= 0 and position + 1 < seq.num_prompt_tokens
        ]
        if not row.is_sampling:
            pooled = bytes(context[position] for position in pooled_positions(row))
            return RowResult(prompt_logprobs=prompt_logprobs, pooled=pooled)
        first = len(context) - len(row.draft_ids)
        contexts = [context[:end] for end in range(first, len(context) + 1)]
        tokens = tuple(next_token(each, seq.params.seed, seq.index, weights) for each in contexts)
        tokens = tokens[: 1 + num_accepted(row.draft_ids, tokens)]
        # What a step with drafts leaves in a slot is not the last token of its sequence.
        self.last_tokens[seq.slot] = None if row.draft_ids else tokens[0]
        logprobs = tuple(map(logprob_of, contexts, tokens))
        wanted = logprobs if seq.params.num_logprobs >= 0 else None
        return RowResult(tokens, wanted, prompt_logprobs)


class Clairvoyant:
    """A drafter that knows what comes next, and says so except at some places."""

    gain = 1.0

    def __init__(self, seq: EngineSequence) -> None:
        self._seed, self._index = seq.params.seed, seq.index

    def drafts(self, token_ids: Sequence[int], most: int) -> list[int]:
        tokens = list(token_ids)
        for _ in range(most if len(tokens) % 5 else 0):
            token = next_token(tokens, self._seed, self._index)
            tokens.append(token if len(tokens) % 3 else (token + 1) % VOCAB_SIZE)
        return tokens[len(token_ids) :]

    def note(self, num_accepted: int) -> None:
        pass


class FakeRankedRunner:
    """A `FakeRunner` for every data rank: none finds what is in another's slots and blocks."""

    def __init__(self, runners: list[FakeRunner]) -> None:
        self.runners = runners

    @property
    def poisoned_request_ids(self) -> set[int]:
        return self.runners[0].poisoned_request_ids

    def poison(self, request_id: int) -> None:
        for runner in self.runners:
            runner.poison(request_id)

    def execute(self, batch: ScheduledBatch) -> list[tuple[int, StepResult] | None]:
        ranks = [row.seq.rank for row in batch.rows]
        assert ranks == sorted(ranks), "rank by rank"
        parts = [tuple(batch.of_rank(rank)) for rank in range(len(self.runners))]
        assert not batch.moves or len(parts) == 1, "blocks are kept on the host for one rank only"
        return [
            runner.execute(replace(batch, rows=rows)) if rows else None
            for runner, rows in zip(self.runners, parts, strict=True)
        ]

    def read(self, in_flight: list[tuple[int, StepResult] | None]) -> StepResult:
        found = [
            runner.read(one) if one else StepResult(())
            for runner, one in zip(self.runners, in_flight, strict=True)
        ]
        return StepResult(tuple(row for result in found for row in result.rows))


# Weights that make everything not a number.
NAN_WEIGHTS = (666,)


class FakeLoader:
    """Weights that are a number, read from a path: "fails" and what is not there cannot be read.

    A version that was never loaded is the first one, of weights 0. `before_read` runs in a load.
    A path in `unreadable` is found and then fails. Host memory has room for `num_stageable`.
    """

    def __init__(self) -> None:
        self.paths: dict[str, int] = {"/models/1": 0, "/models/2": 2, "/models/3": 3}
        self.golden: dict[int, Golden] = {}
        self.weights: dict[LoadedVersion, int] = {}
        self.staged: list[int] = []
        self.dropped: list[str] = []
        self.num_forgotten = 0
        self.before_read: Callable[[], None] = lambda: None
        self.num_stageable = 1
        self.unreadable: dict[str, Exception] = {}

    def weights_of(self, version: LoadedVersion) -> int:
        return self.weights[version] if version.number else self.weights.get(version, 0)

    def inspect(self, path):
        if path not in self.paths:
            raise ValueError(f"{path} is not there")

    def check_room(self, num_staged, num_leaving):
        if num_staged - num_leaving >= self.num_stageable:
            raise ValueError("no room")

    def load(self, version, path, progress):
        weights, golden = self._read(path, progress)
        self.weights[version] = weights
        return golden

    def stage(self, path, progress):
        weights, golden = self._read(path, progress)
        self.staged.append(weights)
        return [weights], golden

    def exchange(self, out, into, staged):
        self.weights.setdefault(out, 0)
        self.weights[into], staged[0] = staged[0], self.weights.pop(out)

    def forget(self, staged):
        self.num_forgotten += 1

    def drop(self, version):
        self.dropped.append(version.name)
        self.weights.pop(version, None)

    def _read(self, path, progress):
        progress(0.5)
        self.before_read()
        progress(0.75)
        if path in self.unreadable:
            raise self.unreadable[path]
        if path not in self.paths:
            raise OSError(f"{path} is not there")
        weights = self.paths[path]
        return weights, self.golden.get(weights, golden_of(weights))


def golden_of(weights: int) -> Golden:
    """Two prompts, continued as a FakeRunner with these weights does."""
    params = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0.0)
    prompts = ([1, 2, 3], [4, 5, 6, 7, 8])
    return Golden(
        0.01,
        tuple(
            GoldenPrompt(tuple(prompt), tuple(expected_tokens(prompt, params, weights=weights)))
            for prompt in prompts
        ),
    )


class FakeObserver:
    """Remembers what the engine told the metrics."""

    def __init__(self) -> None:
        self.steps: list[StepStats] = []
        self.num_preempted = 0
        self.admitted: list[tuple[float, int, int]] = []
        self.first_tokens: list[float] = []
        self.finished: list[tuple[str, float, float | None]] = []
        self.refused: list[str] = []
        self.hopeless: list[bool] = []
        self.key_uses: list[tuple[str, int, int]] = []

    def on_step(self, stats):
        self.steps.append(stats)

    def on_preempted(self, num_preempted):
        self.num_preempted += num_preempted

    def on_admitted(self, queue_seconds, num_prompt_tokens, num_cached_tokens):
        self.admitted.append((queue_seconds, num_prompt_tokens, num_cached_tokens))

    def on_first_token(self, seconds):
        self.first_tokens.append(seconds)

    def on_finished(self, outcome, seconds, seconds_per_output_token, *, is_hopeless=False):
        self.finished.append((outcome, seconds, seconds_per_output_token))
        self.hopeless.append(is_hopeless)

    def on_refused(self, outcome, *, is_hopeless=False):
        self.refused.append(outcome)
        self.hopeless.append(is_hopeless)

    def on_key_use(self, key, num_prompt_tokens, num_generated_tokens):
        self.key_uses.append((key, num_prompt_tokens, num_generated_tokens))

    @property
    def outcomes(self):
        return [outcome for outcome, _, _ in self.finished]
