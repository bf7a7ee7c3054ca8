"""Generation without a transport: every protocol's translator calls this object.

It tokenises, validates and submits to the engine. It knows neither HTTP nor gRPC, and nothing of
how the engine works; which models there are is `model_directory`'s, how the server is `health`'s.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from server.api.access.call import Call, current_call
from server.api.chat.format import ChatFormat, ChatPrompt, ChatSettings, Conversation
from server.api.chats import Chats
from server.api.embeddings.embedder import Embedder
from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.grammars import Grammars
from server.api.images.image_format import ImageFormat
from server.api.images.image_reader import ImageLimits
from server.api.images.prompt_images import PromptImages
from server.api.large_work import LargeWork
from server.api.open_metrics import Exemplars
from server.api.prompts import Prompts, check_num_tokens
from server.api.requests.defaults import sampling_params, with_defaults
from server.api.requests.generation import GenerateRequest, Sampling
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import (
    RequestLimits,
    check_options,
    check_prompt,
    check_truncation,
    invalid,
)
from server.api.streams.choice import Choice
from server.api.streams.generation import Generation
from server.api.streams.generation_group import GenerationGroup
from server.api.streams.prepared_request import PreparedRequest
from server.api.token_limits import with_token_rules
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle, ServerState
from server.link.client import EngineClient, EngineStream
from server.link.wakeup import Wakeup
from server.trace_context import current_trace_id

# A drawn seed is exact in a double, so no JSON reader can garble what is reported.
DRAWN_SEED_BITS = 53


class GenerationService:
    """One per API process. All methods belong to its event loop.

    `models` says what it serves, `grammars` which forms of text it can hold answers to.
    `embedder` makes embeddings, as `recipe` says. Without `image_format` it takes no images.
    `defaults` are the model's own options, for requests that leave them out.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        lifecycle: Lifecycle,
        models: ModelDirectory,
        limits: RequestLimits,
        *,
        chat: ChatSettings | None = None,
        recipe: EmbeddingRecipe | None = None,
        image_format: ImageFormat | None = None,
        image_limits: ImageLimits | None = None,
        defaults: Sampling | None = None,
    ) -> None:
        self.models = models
        self.embedder = Embedder(
            engine, tokenizer, lifecycle, models, limits, recipe or EmbeddingRecipe()
        )
        self._engine = engine
        self._tokenizer = tokenizer
        self._lifecycle = lifecycle
        self._limits = limits
        self._defaults = defaults or Sampling()
        self.large_work = LargeWork()
        self.exemplars = Exemplars()
        self._prompts = Prompts(tokenizer, self.large_work)
        self._images = PromptImages(image_format, image_limits or ImageLimits())
        self._chats = Chats(
            ChatFormat(tokenizer, chat or ChatSettings(), image_format),
            self._images,
            self._prompts,
            engine=engine,
            models=models,
            tokenizer=tokenizer,
            large_work=self.large_work,
        )
        self.grammars = Grammars(tokenizer)

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; ApiError for one that is too long or no valid Unicode."""
        longest = self.models.served().max_model_len
        return await self._prompts.tokenize(text, longest, add_special_tokens=add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included; ApiError for ids that do not exist."""
        return await self._prompts.detokenize(token_ids, self.models.served().max_model_len)

    def check_num_tokens(self, num_tokens: int) -> None:
        """Refuse more tokens than `detokenize` takes."""
        check_num_tokens(num_tokens, self.models.served().max_model_len)

    def check_num_prompts(self, num_prompts: int) -> None:
        """Refuse more prompts than one request may have, before requests are made of them."""
        self._limits.check_sequences(num_prompts, num_prompts)

    def token_text(self, token_id: int) -> str:
        """One token by itself, for display."""
        return self._tokenizer.token_text(token_id)

    async def render_chat(self, conversation: Conversation) -> str:
        """The prompt of a conversation, to be tokenised without further special tokens."""
        return await self._chats.render(conversation)

    async def prepare_chat(
        self, conversation: Conversation, prompt_token_ids: Sequence[int] | None = None
    ) -> ChatPrompt:
        """The prompt of a conversation, its images, and how to read its answers.

        `prompt_token_ids` is the prompt of a stream that is resumed; it is not rendered again.
        """
        return await self._chats.prepare(conversation, prompt_token_ids)

    async def count_chat_tokens(self, conversation: Conversation) -> int:
        """How many tokens the prompt of a conversation has. Images are read only to be counted."""
        prompt = await self._chats.prepare_text(conversation)
        return len(await self.tokenize(prompt.text, add_special_tokens=False))

    async def start(self, request: GenerateRequest) -> Generation:
        """Submit one prompt; returns when the engine has begun to answer. The caller closes it.

        ApiError for a request that is refused, before or by the engine (full queue, deadline).
        """
        return (await self.start_group([request])).generations[0]

    async def start_group(self, requests: Sequence[GenerateRequest]) -> GenerationGroup:
        """Submit several prompts at once: either all are accepted, or ApiError and none runs."""
        with self._lifecycle.track():
            try:
                prepared = await self._prepare_all(requests)
            except ApiError as error:
                self._engine.refuse(error.kind.value)
                raise
            return await self._submit_all(prepared)

    async def _prepare_all(self, requests: Sequence[GenerateRequest]) -> list[PreparedRequest]:
        if not self._lifecycle.is_accepting and self._lifecycle.state is not ServerState.STARTING:
            raise ApiError(ErrorKind.UNAVAILABLE, "the server is shutting down")
        if reason := self.embedder.recipe.no_tokens:
            raise invalid(f"{reason}; use /v1/embeddings", "model")
        if not requests:
            raise invalid("prompt must not be empty", "prompt")
        num_sequences = sum(request.n for request in requests)
        most_choices = self.models.info().max_num_seqs
        self._limits.check_sequences(len(requests), num_sequences, most_choices)
        prepared = [await self._prepare(request) for request in requests]
        if prepared:
            self._limits.check_tokens(sum(p.num_tokens for p in prepared), prepared[0].info)
        return prepared

    async def _prepare(self, request: GenerateRequest) -> PreparedRequest:
        named = self.models.resolve(request.model)
        if request.resume is not None:
            named = self.models.resumed(request.resume.version, named)
        info = named.info
        check_options(request, info)
        request = with_defaults(request, self._defaults)
        request = await with_token_rules(request, info, self._tokenizer, self.large_work)
        timeout = _timeout_of(request)
        if timeout is not None and timeout <= 0:
            raise ApiError(ErrorKind.DEADLINE_EXCEEDED, "the request's deadline has passed")
        if request.sampling.grammar is not None:
            await self.grammars.check(request.sampling.grammar, request.grammar_asked_as, info)
        check_truncation(request)
        prompt_token_ids = await self._prompts.token_ids(request, info)
        check_prompt(prompt_token_ids, info)
        image_starts = self._images.starts(request.images, prompt_token_ids, info)
        seed = request.sampling.seed
        if seed is None:
            seed = secrets.randbits(DRAWN_SEED_BITS)
        params = sampling_params(request, len(prompt_token_ids), seed, info)
        choices = tuple(
            Choice(index, request.sampling, self._tokenizer) for index in range(request.n)
        )
        if request.resume is not None:
            for choice, token_ids in zip(choices, request.resume.received, strict=False):
                replay = partial(choice.replay, token_ids, params, info.eos_token_ids)
                await self.large_work.run(len(token_ids), replay)
        return PreparedRequest(
            request, named, prompt_token_ids, seed, params, choices, image_starts
        )

    async def _submit_all(self, prepared: Sequence[PreparedRequest]) -> GenerationGroup:
        wakeup = Wakeup()
        generations: list[Generation] = []
        group = GenerationGroup(generations, wakeup)
        try:
            for request in prepared:
                generations.append(self._submit(request, wakeup))
            await group.wait_started()
        except BaseException:
            await group.aclose()
            raise
        return group

    def _submit(self, prepared: PreparedRequest, wakeup: Wakeup) -> Generation:
        call, timeout = current_call(), _timeout_of(prepared.request)
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = self._engine_stream(prepared, deadline, wakeup)
        generation = Generation(prepared, self._engine, self._tokenizer, stream, wakeup)
        stack = self._enter(generation, timeout)
        if trace_id := current_trace_id.get():
            self._trace(generation, trace_id, stack)
        stack.callback(_count, generation, call)
        generation.on_close(stack.close)
        return generation

    def _trace(self, generation: Generation, trace_id: str, lasting: ExitStack) -> None:
        """Have the request's times become exemplars of the metrics."""
        begin = time.monotonic()

        def observe(measurement: str) -> None:
            self.exemplars.observe(measurement, trace_id, time.monotonic() - begin)

        generation.on_first_token(partial(observe, "time_to_first_token"))
        lasting.callback(observe, "request_duration")

    def _engine_stream(
        self, prepared: PreparedRequest, deadline: float | None, wakeup: Wakeup
    ) -> EngineStream:
        if prepared.is_complete:
            return EngineStream(0, wakeup)
        objectives = current_call().objectives
        images = self._images.placed(prepared.request.images, prepared.image_starts)
        prepared.request.images.clear()
        return self._engine.submit(
            prepared.prompt_token_ids,
            prepared.params,
            n=prepared.request.n,
            received=prepared.received,
            deadline=deadline,
            wakeup=wakeup,
            version=prepared.named.version,
            adapter=prepared.named.adapter,
            adapter_version=prepared.named.adapter_version,
            source=prepared.request.source,
            priority=objectives.priority,
            ttft_seconds=objectives.ttft_seconds,
            images=images,
        )

    def _enter(self, generation: Generation, timeout: float | None) -> ExitStack:
        """What lasts until the request is closed. Its deadline holds even if the engine hangs."""
        stack = ExitStack()
        stack.enter_context(self._lifecycle.track())
        if timeout is not None:
            timer = asyncio.get_running_loop().call_later(timeout, generation.expire)
            stack.callback(timer.cancel)
        return stack


def _timeout_of(request: GenerateRequest) -> float | None:
    """Seconds until the earliest deadline: the protocol's, or one in the call's headers."""
    given = (request.timeout_seconds, current_call().objectives.timeout_seconds)
    return min((timeout for timeout in given if timeout is not None), default=None)


def _count(generation: Generation, call: Call) -> None:
    """Record what a closed generation has used. Only what the engine has begun costs its prompt."""
    usage = generation.usage
    call.count(
        num_prompt_tokens=usage.num_prompt_tokens if generation.has_begun else 0,
        num_generated_tokens=usage.num_generated_tokens,
    )
    if call.span is not None:
        call.span.record(call.operation, generation.work())
