"""Embeddings without a transport: tokenizes inputs, has the engine compute them, makes vectors.

Each input is a request of its own to the engine, so inputs take turns with everything else that
waits. Knows neither HTTP nor gRPC, nor how a vector is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from server.api.access.call import current_call
from server.api.access.work import Work
from server.api.embeddings.embedding_recipe import EmbeddingRecipe
from server.api.requests.embedding import EmbeddingRequest, Embeddings, Vector, pool
from server.api.requests.model_directory import ModelDirectory, NamedModel
from server.api.requests.model_names import stream_version
from server.api.requests.validation import RequestLimits, check_token_ids, invalid
from server.api.streams.generation import error_of
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.lifecycle import Lifecycle, ServerState
from server.link.client import EngineClient, EngineStream
from server.link.frames import EngineInfo, TokenEvent
from server.link.sampling import SamplingParams
from server.link.wakeup import Wakeup

# OpenAI's limit.
MAX_INPUTS = 2048
_NO_TOKENS = SamplingParams(max_tokens=0)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A checked request: its inputs as tokens, and the model that it names."""

    request: EmbeddingRequest
    named: NamedModel
    prompts: list[list[int]]


class Embedder:
    """One per API process. All methods belong to its event loop."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        lifecycle: Lifecycle,
        models: ModelDirectory,
        limits: RequestLimits,
        recipe: EmbeddingRecipe,
    ) -> None:
        self.recipe = recipe
        self._engine, self._tokenizer, self._lifecycle = engine, tokenizer, lifecycle
        self._models, self._limits = models, limits

    async def embed[T](
        self, request: EmbeddingRequest, encode: Callable[[Vector], T]
    ) -> Embeddings[T]:
        """The vector of every input, each through `encode` as soon as it is there.

        ApiError for a request that is refused, or that fails. Cancelling stops the engine's work.
        """
        with self._lifecycle.track():
            try:
                prepared = await self._prepare(request)
            except ApiError as error:
                self._engine.refuse(error.kind.value)
                raise
            run = _Run(self._engine, prepared, self.recipe, encode)
            return await run.finish(self._limits.max_sequences)

    async def _prepare(self, request: EmbeddingRequest) -> _Prepared:
        if not self._lifecycle.is_accepting and self._lifecycle.state is not ServerState.STARTING:
            raise ApiError(ErrorKind.UNAVAILABLE, "the server is shutting down")
        named = self._models.resolve(request.model)
        info = named.info
        if self.recipe.refusal:
            raise invalid(self.recipe.refusal, "model")
        self._check(request)
        longest = min(info.max_model_len, self.recipe.max_tokens or info.max_model_len)
        self._check_characters(request, longest)
        # All inputs in one thread: each takes little time, and together they take long.
        prompts = await asyncio.to_thread(self._tokenize_all, request, longest)
        await asyncio.to_thread(self._check_prompts, request, prompts, longest, info)
        return _Prepared(request, named, prompts)

    def _check(self, request: EmbeddingRequest) -> None:
        param, count = request.param, len(request.inputs)
        if not count:
            raise invalid(f"{param} must not be empty", param)
        if count > MAX_INPUTS:
            raise invalid(f"{param} has {count} entries; at most {MAX_INPUTS} are allowed", param)
        if not all(request.inputs):
            empty = next(i for i, each in enumerate(request.inputs) if not each)
            raise invalid(f"{request.name_of(empty)} must not be empty", param)
        if request.prompt_name and request.prompt_name not in self.recipe.prompts:
            known = ", ".join(self.recipe.prompts) or "none"
            raise invalid(
                f"prompt_name is {request.prompt_name[:100]!r}; the model names {known}",
                "prompt_name",
            )
        if request.max_tokens is not None and (request.max_tokens < -1 or not request.max_tokens):
            raise invalid(
                "truncate_prompt_tokens must be a number of tokens, or -1 for the model's limit",
                "truncate_prompt_tokens",
            )
        self._check_dimensions(request.dimensions)

    def _check_dimensions(self, dimensions: int | None) -> None:
        size = self.recipe.size
        if dimensions is not None and (dimensions < 1 or (size and dimensions > size)):
            bound = f" and at most {size}, the size of the model's embeddings" if size else ""
            raise invalid(f"dimensions is {dimensions}; it must be at least 1{bound}", "dimensions")

    def _check_characters(self, request: EmbeddingRequest, longest: int) -> None:
        """Refuse texts that cannot fit before anybody counts their tokens."""
        if request.max_tokens is not None:
            return
        for i, each in enumerate(request.inputs):
            # Every character is in some token.
            if isinstance(each, str) and len(each) > longest * self._tokenizer.max_token_chars:
                raise _too_long(request, i, f"{len(each)} characters", longest)

    def _tokenize_all(self, request: EmbeddingRequest, longest: int) -> list[list[int]]:
        prefix = "" if request.is_prompted else self.recipe.prompt(request.prompt_name)
        cut = None if request.max_tokens is None else longest
        if cut is not None and request.max_tokens and request.max_tokens > 0:
            cut = min(cut, request.max_tokens)
        return [
            self._tokenize(prefix + each, cut, request)
            if isinstance(each, str)
            else list(each)[:cut]
            for each in request.inputs
        ]

    def _tokenize(self, text: str, cut: int | None, request: EmbeddingRequest) -> list[int]:
        adds = request.add_special_tokens
        try:
            if cut is None:
                return self._tokenizer.encode(text, add_special_tokens=adds)
            # What cannot fit is cut as text, so that its tokens need not be counted.
            text = text[: cut * self._tokenizer.max_token_chars]
            return self._tokenizer.encode_cut(text, cut, add_special_tokens=adds)
        except UnicodeError:
            raise invalid(
                f"{request.param} must be valid Unicode, without lone surrogates", request.param
            ) from None

    def _check_prompts(
        self,
        request: EmbeddingRequest,
        prompts: list[list[int]],
        longest: int,
        info: EngineInfo,
    ) -> None:
        for i, token_ids in enumerate(prompts):
            if not token_ids:
                raise invalid(f"{request.name_of(i)} has no tokens", request.param)
            if len(token_ids) > longest:
                raise _too_long(request, i, f"{len(token_ids)} tokens", longest)
            check_token_ids(request.param, token_ids, info.vocab_size)
        num_tokens, limit = sum(map(len, prompts)), self._limits.most_tokens(info)
        if num_tokens > limit:
            raise invalid(
                f"{request.param} has {num_tokens} tokens in all; at most {limit} may be sent at"
                " once (--max-request-tokens); send several requests",
                request.param,
            )


class _Run[T]:
    """One request at the engine: its inputs in order, as many at once as it may have."""

    def __init__(
        self,
        engine: EngineClient,
        prepared: _Prepared,
        recipe: EmbeddingRecipe,
        encode: Callable[[Vector], T],
    ) -> None:
        self._engine, self._prepared, self._recipe = engine, prepared, recipe
        self._encode = encode
        self._wakeup = Wakeup()
        self._open: dict[int, EngineStream] = {}
        self._vectors: dict[int, T] = {}
        self._named = prepared.named
        self._version = self._named.version or self._named.info.version
        self._num_cached_tokens = 0
        self._call = current_call()

    async def finish(self, max_at_once: int) -> Embeddings[T]:
        """Submit everything and wait for it."""
        prompts = self._prepared.prompts
        given = (self._prepared.request.timeout_seconds, self._call.objectives.timeout_seconds)
        timeout = min((each for each in given if each is not None), default=None)
        submitted_at = time.monotonic()
        deadline = None if timeout is None else submitted_at + timeout
        waiting = iter(enumerate(prompts))
        try:
            async with asyncio.timeout(timeout):
                while len(self._vectors) < len(prompts):
                    self._submit(waiting, max_at_once - len(self._open), deadline)
                    await self._wakeup.wait()
                    self._wakeup.clear()
                    await self._take()
        except TimeoutError:
            raise ApiError(ErrorKind.DEADLINE_EXCEEDED, "the request's deadline passed") from None
        finally:
            self._close()
            self._trace(submitted_at)
        return Embeddings(
            vectors=[self._vectors[i] for i in range(len(prompts))],
            model=self._named.adapter or self._named.info.model,
            version=self._version,
            num_prompt_tokens=sum(map(len, prompts)),
            num_cached_tokens=self._num_cached_tokens,
        )

    def _submit(
        self, waiting: Iterator[tuple[int, list[int]]], count: int, deadline: float | None
    ) -> None:
        for index, token_ids in islice(waiting, count):
            self._open[index] = self._engine.submit(
                token_ids,
                _NO_TOKENS,
                n=1,
                deadline=deadline,
                wakeup=self._wakeup,
                version=self._named.version,
                adapter=self._named.adapter,
                adapter_version=self._named.adapter_version,
                source=self._prepared.request.source,
                priority=self._call.objectives.priority,
                ttft_seconds=self._call.objectives.ttft_seconds,
                pooling=self._recipe.pooling,
            )

    async def _take(self) -> None:
        for index, stream in list(self._open.items()):
            for event in stream.take():
                self._receive(index, event)
                # Writing thousands of vectors must not keep the event loop from everybody else.
                await asyncio.sleep(0)

    def _receive(self, index: int, event: TokenEvent) -> None:
        stream = self._open.pop(index)
        self._engine.release(stream)
        if event.error is not None or not event.pooled:
            raise error_of(event)
        vector = pool(
            event.pooled,
            len(self._prepared.prompts[index]),
            self._recipe.pooling,
            layers=self._recipe.dense,
            dimensions=self._prepared.request.dimensions,
            normalizes=self._recipe.normalizes,
        )
        if not np.isfinite(vector).all():
            raise ApiError(ErrorKind.INTERNAL, "the model's output was not finite")
        self._vectors[index] = self._encode(vector)
        self._call.count(num_prompt_tokens=len(self._prepared.prompts[index]))
        if event.version or event.adapter_version:
            self._version = stream_version(
                event.version, self._named.adapter, event.adapter_version
            )
        self._num_cached_tokens += event.num_cached_tokens

    def _trace(self, submitted_at: float) -> None:
        if self._call.span is None:
            return
        work = Work(
            model=self._prepared.named.info.model,
            version=self._version,
            submitted=submitted_at,
            begun=submitted_at,
            ended=time.monotonic(),
            num_prompt_tokens=sum(map(len, self._prepared.prompts)),
            num_cached_tokens=self._num_cached_tokens,
        )
        self._call.span.record("embeddings", work)

    def _close(self) -> None:
        for stream in self._open.values():
            self._engine.abort(stream)
            self._engine.release(stream)
        self._open.clear()


def _too_long(request: EmbeddingRequest, index: int, has: str, longest: int) -> ApiError:
    return invalid(
        f"This model's maximum context length is {longest} tokens, but {request.name_of(index)}"
        f" has {has}; shorten it, or set truncate_prompt_tokens",
        request.param,
        "context_length_exceeded",
    )
