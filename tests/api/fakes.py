"""An engine that says what a test tells it to, and a tokenizer small enough to read."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.generation_service import GenerationService
from server.api.health import Health
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import RequestLimits
from server.api.tokenizers.tokenizer import Tokenizer as ServerTokenizer
from server.errors import ApiError
from server.lifecycle import Lifecycle
from server.link.client import AbortReason, EngineStream
from server.link.frames import EngineInfo, Pooling, Pulse, TokenEvent, TokenLogprobs
from server.link.images import PromptImage
from server.link.sampling import SamplingParams
from server.link.wakeup import Wakeup

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r")]


def small_pretrained(**options: object) -> PreTrainedTokenizerFast:
    """Byte-level BPE: the 256 bytes, a few merges, three special tokens, one plain added token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(left + right for left, right in MERGES)]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|eos|>", "<|im_start|>", "<|im_end|>")]
    )
    tokenizer.add_tokens([AddedToken("<tool call>", special=False)])
    pretrained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|eos|>", chat_template=CHAT_TEMPLATE
    )
    for name, value in options.items():
        setattr(pretrained, name, value)
    return pretrained


@dataclass(frozen=True, slots=True)
class Submission:
    """One request as the engine saw it."""

    stream: EngineStream
    prompt_token_ids: list[int]
    params: SamplingParams
    n: int
    deadline: float | None
    received: list[Sequence[int] | None]
    version: str | None = None
    adapter: str | None = None
    adapter_version: str | None = None
    source: str = ""
    priority: int = 0
    ttft_seconds: float | None = None
    pooling: Pooling | None = None
    images: list[PromptImage] = field(default_factory=list)


class FakeEngine:
    """Answers with `script`: the token ids of each step, the same for every choice of a request.

    A choice that is resumed is answered with what is left of them, a token a step.
    The last step finishes with `finish_reason`. With `script` None a test emits events by hand.
    """

    EOS = (262,)

    def __init__(
        self,
        script: Sequence[Sequence[int]] | None = None,
        *,
        finish_reason: str = "stop",
        vocab_size: int = 266,
        max_model_len: int = 256,
        max_images: int = 0,
        step_seconds: float = 0.0,
    ) -> None:
        self.info: EngineInfo | None = EngineInfo(
            model="small",
            version="1",
            max_model_len=max_model_len,
            vocab_size=vocab_size,
            eos_token_ids=self.EOS,
            max_num_seqs=8,
            max_images=max_images,
        )
        self.pulse: Pulse | None = Pulse(state="ready", metrics=b"up 1\n")
        self.pulse_age = 0.0
        self.failure = ""
        self.script = script
        self.finish_reason = finish_reason
        self.step_seconds = step_seconds
        self.submitted: list[Submission] = []
        self.aborted: list[tuple[int, int | None, AbortReason]] = []
        self.refused: list[str] = []
        self.key_uses: list[tuple[str, int, int]] = []
        self.changes: list[tuple[str, str, str, str | None]] = []
        self.change_error: ApiError | None = None
        self.open: dict[int, EngineStream] = {}
        self._request_ids = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        n: int,
        received: Sequence[Sequence[int] | None] = (),
        deadline: float | None,
        wakeup: Wakeup,
        version: str | None = None,
        adapter: str | None = None,
        adapter_version: str | None = None,
        source: str = "",
        priority: int = 0,
        ttft_seconds: float | None = None,
        pooling: Pooling | None = None,
        images: Sequence[PromptImage] = (),
    ) -> EngineStream:
        stream = EngineStream(next(self._request_ids), wakeup)
        self.open[stream.request_id] = stream
        submission = Submission(
            *(stream, list(prompt_token_ids), params, n, deadline, list(received)),
            *(version, adapter, adapter_version, source, priority, ttft_seconds, pooling),
            list(images),
        )
        self.submitted.append(submission)
        if self.script is not None and pooling is not None:
            self._pool(submission)
        elif self.script is not None:
            task = asyncio.get_running_loop().create_task(self._play(submission, self.script))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return stream

    def abort(
        self, stream: EngineStream, *, index: int | None = None, reason: AbortReason = "abort"
    ) -> None:
        self.aborted.append((stream.request_id, index, reason))

    def release(self, stream: EngineStream) -> None:
        self.open.pop(stream.request_id, None)

    def refuse(self, outcome: str) -> None:
        self.refused.append(outcome)

    def count_key_use(self, key: str, *, num_prompt_tokens: int, num_generated_tokens: int) -> None:
        self.key_uses.append((key, num_prompt_tokens, num_generated_tokens))

    async def change_version(self, action, version="", *, path="", policy=None) -> None:
        self.changes.append((action, version, path, policy))
        if self.change_error is not None:
            raise self.change_error

    async def change_adapter(self, action, name, *, version=None, path="") -> None:
        self.changes.append((action, name, path, version))
        if self.change_error is not None:
            raise self.change_error

    def emit(self, token_ids: Sequence[int] = (), *, to: int = -1, **fields: object) -> None:
        """Send one event to the newest request, or to that of number `to`, from 0."""
        stream = self.submitted[to].stream
        event = TokenEvent(request_id=stream.request_id, token_ids=list(token_ids), **fields)
        stream.put(event)

    async def until_read(self) -> None:
        """Wait until the service has taken everything the newest request was sent."""
        while self.submitted[-1].stream._events:
            await asyncio.sleep(0)

    async def _play(self, submission: Submission, script: Sequence[Sequence[int]]) -> None:
        scripts = {
            index: _rest(script, received)
            for index, received in enumerate(submission.received or [[]] * submission.n)
            if received is not None
        }
        for position in range(max(map(len, scripts.values()))):
            await asyncio.sleep(self.step_seconds)
            for index, steps in scripts.items():
                if position < len(steps):
                    is_last = position == len(steps) - 1
                    token_ids = steps[position]
                    self._say(submission, index, token_ids, is_first=position == 0, is_last=is_last)

    def _pool(self, submission: Submission) -> None:
        submission.stream.put(
            TokenEvent(
                request_id=submission.stream.request_id,
                finish_reason="stop",
                version="1",
                num_cached_tokens=1,
                pooled=[hidden_state(submission.prompt_token_ids).tobytes()],
            )
        )

    def _say(
        self,
        submission: Submission,
        index: int,
        token_ids: Sequence[int],
        *,
        is_first: bool,
        is_last: bool,
    ) -> None:
        params = submission.params
        wants_prompt_logprobs = is_first and params.num_prompt_logprobs >= 0
        prompt = [logprobs_of(i, params.num_prompt_logprobs) for i in submission.prompt_token_ids]
        submission.stream.put(
            TokenEvent(
                request_id=submission.stream.request_id,
                index=index,
                token_ids=list(token_ids),
                logprobs=[logprobs_of(i, params.num_logprobs) for i in token_ids]
                if params.num_logprobs >= 0
                else None,
                finish_reason=self.finish_reason if is_last else None,
                num_cached_tokens=2 if is_first else 0,
                prompt_logprobs=[None, *prompt[1:]] if wants_prompt_logprobs else None,
            )
        )


def hidden_state(token_ids: Sequence[int]) -> np.ndarray:
    """What a prompt's vector is made of here: how often each of four kinds of ids is in it."""
    return np.bincount(np.array(token_ids) % 4, minlength=4).astype("<f4")


def make_service(
    engine: FakeEngine,
    tokenizer: ServerTokenizer,
    lifecycle: Lifecycle,
    limits: RequestLimits | None = None,
    recipe: EmbeddingRecipe | None = None,
    **further: object,
) -> GenerationService:
    models = ModelDirectory(engine, lifecycle)
    limits = limits or RequestLimits()
    return GenerationService(engine, tokenizer, lifecycle, models, limits, recipe=recipe, **further)


def make_health(engine: FakeEngine, lifecycle: Lifecycle) -> Health:
    return Health(engine, lifecycle, hang_timeout_seconds=30, queue_stall_seconds=30)


def _rest(script: Sequence[Sequence[int]], received: Sequence[int]) -> Sequence[Sequence[int]]:
    if not received:
        return script
    token_ids = [token_id for step in script for token_id in step]
    assert token_ids[: len(received)] == list(received), "these tokens are none of the script's"
    return [[token_id] for token_id in token_ids[len(received) :]]


def logprobs_of(token_id: int, num_top: int) -> TokenLogprobs:
    """The token first, then its neighbours, each half a unit less likely."""
    return TokenLogprobs(-0.5, [(token_id + k, -0.5 * (k + 1)) for k in range(num_top)])
