"""Conversations of any protocol made into prompts: checked, rendered, and their images read.

What cannot fit, and what the model cannot read, is refused before it costs work. Knows neither
transports nor how an answer is generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from server.api.access.call import current_call
from server.api.chat.format import ChatFormat, ChatPrompt, Conversation
from server.api.chat.messages import Message
from server.api.chat.template import ChatTemplateError
from server.api.images.decoding import ReadImage
from server.api.images.prompt_images import PromptImages
from server.api.images.sent_image import SentImage
from server.api.large_work import LARGE_BYTES, MAX_INLINE_UNITS, LargeWork, memory_return
from server.api.prompts import Prompts
from server.api.requests.model_directory import ModelDirectory
from server.api.requests.validation import context_length_exceeded, invalid
from server.api.tokenizers.tokenizer import Tokenizer
from server.errors import ApiError, ErrorKind
from server.link.client import EngineClient

# The last tokens of a prompt say whether its answer begins inside reasoning.
_PROMPT_END = 32


class Chats:
    """One per API process, on its event loop."""

    def __init__(
        self,
        chat: ChatFormat,
        images: PromptImages,
        prompts: Prompts,
        *,
        engine: EngineClient,
        models: ModelDirectory,
        tokenizer: Tokenizer,
        large_work: LargeWork,
    ) -> None:
        self._chat, self._images, self._prompts = chat, images, prompts
        self._engine, self._models = engine, models
        self._tokenizer, self._large_work = tokenizer, large_work

    async def render(self, conversation: Conversation) -> str:
        """The prompt of a conversation, to be tokenised without further special tokens.

        It has the places of images, which are read only where their sizes say how many tokens.
        """
        current_call().operation = "chat"
        _check_conversation(conversation)
        self._check_images(conversation)
        read = await self._measured(conversation)
        sizes = [image.num_tokens for image in read]
        render = partial(self._chat.render, conversation, sizes)
        return await self._with_template(conversation, render)

    async def prepare(
        self, conversation: Conversation, prompt_token_ids: Sequence[int] | None = None
    ) -> ChatPrompt:
        """The prompt of a conversation, with its images, and how to read its answers.

        `prompt_token_ids` is the prompt of a stream that is resumed; it is not rendered again.
        """
        prompt = await self.prepare_text(conversation, prompt_token_ids)
        if prompt.images or not conversation.images:
            return prompt
        return replace(prompt, images=await self._read(conversation.images))

    async def _measured(self, conversation: Conversation) -> list[ReadImage]:
        """The images, where their sizes say how many tokens they are; else none is read yet."""
        images = conversation.images
        return await self._read(images) if images and self._images.vary else []

    async def _read(self, images: Sequence[SentImage]) -> list[ReadImage]:
        """The pixels, within the time that the caller waits."""
        try:
            async with asyncio.timeout(current_call().objectives.timeout_seconds):
                return await self._images.read(images)
        except TimeoutError:
            reason = "the request's deadline has passed"
            raise ApiError(ErrorKind.DEADLINE_EXCEEDED, reason) from None
        finally:
            if sum(len(image.data) for image in images) > LARGE_BYTES:
                memory_return.soon()

    async def prepare_text(
        self, conversation: Conversation, prompt_token_ids: Sequence[int] | None = None
    ) -> ChatPrompt:
        """The same, but with images only where they are read for counting their tokens."""
        current_call().operation = "chat"
        _check_conversation(conversation)
        self._check_images(conversation)
        self._check_may_fit(conversation)
        text, read = None, list[ReadImage]()
        if prompt_token_ids is None:
            read = await self._measured(conversation)
        else:
            longest = self._models.served().max_model_len
            text = await self._prompts.detokenize(prompt_token_ids[-_PROMPT_END:], longest)
        sizes = [image.num_tokens for image in read]
        prepare = partial(self._chat.prepare, conversation, text, sizes)
        return replace(await self._with_template(conversation, prepare), images=read)

    async def _with_template[T](self, conversation: Conversation, work: Callable[[], T]) -> T:
        """A template is a program, so it never runs on the event loop, however short the texts."""
        num_units = MAX_INLINE_UNITS + _num_units(conversation)
        try:
            return await self._large_work.run(num_units, work)
        except ChatTemplateError as error:
            raise invalid(str(error), "messages") from error

    def _check_images(self, conversation: Conversation) -> None:
        if images := conversation.images:
            self._images.check(images, self._models.info())

    def _check_may_fit(self, conversation: Conversation) -> None:
        """Refuse what no tokens can hold, before the template renders it."""
        info = self._engine.info
        if info is None:
            return
        num_chars = sum(len(message.content) for message in conversation.messages)
        if num_chars > info.max_model_len * self._tokenizer.max_token_chars:
            raise context_length_exceeded(f"has {num_chars} characters", info)
        num_tokens = self._images.least_tokens(conversation.images)
        if num_tokens >= info.max_model_len:
            raise context_length_exceeded(f"has images of {num_tokens} tokens", info)


def _check_conversation(conversation: Conversation) -> None:
    if not conversation.messages:
        raise invalid("messages must not be empty", "messages")
    options = conversation.options
    if options.add_generation_prompt and options.continue_final_message:
        raise invalid(
            "continue_final_message needs add_generation_prompt to be false",
            "continue_final_message",
        )
    if options.continue_final_message:
        _check_continued(conversation.messages[-1], len(conversation.messages) - 1)


def _check_continued(message: Message, position: int) -> None:
    """A prompt that goes on ends with the message's text: what follows the text would be lost."""
    where = f"messages[{position}]"
    if message.tool_calls:
        raise invalid(
            f"{where} cannot be continued, because its tool calls follow its text; send the results"
            " of the calls, or leave the calls out",
            where,
        )
    if not message.content.strip():
        raise invalid(f"{where} cannot be continued, because it has no text; leave it out", where)


def _num_units(conversation: Conversation) -> int:
    """About how much text a conversation has."""
    return sum(1 + len(message.content) for message in conversation.messages)
