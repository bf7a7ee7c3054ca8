"""How one model chats: the prompt of a conversation, the form of its answer, and its reader.

Puts template, parsers and grammar together by the operator's settings. Knows neither a protocol
nor the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

from server.api.chat.answer import AnswerReader
from server.api.chat.answer_grammar import after_reasoning, answer_body
from server.api.chat.messages import Message, results_by_call
from server.api.chat.reasoning import (
    FORMATS,
    ReasoningFormat,
    ReasoningSplitter,
    ReasoningTags,
    begins_open,
    format_of,
)
from server.api.chat.template import ChatTemplate, ChatTemplateError, Renderer, RenderOptions
from server.api.chat.thinking import Thinking
from server.api.chat.tool_grammar import AnswerForm, beginning_of_calls, can_enforce, tool_grammar
from server.api.chat.tools import Tool, ToolChoice, check_tools
from server.api.images.decoding import ReadImage
from server.api.images.image_format import ImageFormat
from server.api.images.sent_image import SentImage
from server.api.tool_calls.families import MARKERS, Family, call_reader
from server.api.tool_calls.harmony import HarmonyAnswer, is_harmony
from server.errors import ApiError, ErrorKind
from server.link.sampling import Grammar


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The operator's choices; `auto` takes them from the chat template."""

    tool_call_parser: Family | Literal["auto", "none"] = "auto"
    reasoning_parser: ReasoningFormat | Literal["auto", "none"] = "auto"
    control_tokens_in_messages: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a client asks: messages, tools, and how the prompt ends.

    The results of calls made together stand in the order of the calls.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    thinking: Thinking = field(default_factory=Thinking)
    options: RenderOptions = field(default_factory=RenderOptions)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", results_by_call(self.messages))

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model may call."""
        return () if self.tool_choice.mode == "none" else self.tools

    @property
    def images(self) -> tuple[SentImage, ...]:
        """The images of all messages, in the order in which the prompt has them."""
        return tuple(image for message in self.messages for image in message.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A rendered conversation. `reader` makes the reader of one choice.

    `shows_special_tokens`: the reader looks for special tokens, so the text must show them.
    `combine` puts a client's own grammar next to calls and reasoning; None if it cannot. `images`
    are those of the messages, as far as they have been read.
    """

    text: str
    reader: Callable[[], AnswerReader]
    combine: Callable[[Grammar], Grammar | None]
    grammar: Grammar | None = None
    shows_special_tokens: bool = False
    images: list[ReadImage] = field(default_factory=list)

    def constrained(self, grammar: Grammar | None, asked_as: str) -> tuple[Grammar | None, str]:
        """The grammar of the answer for a client that may ask for one, and who asks for it."""
        if grammar is None:
            return self.grammar, "tools"
        combined = self.combine(grammar)
        if combined is None:
            raise _invalid(
                f"{asked_as} cannot be enforced next to tools or behind reasoning; leave tools out,"
                " or switch reasoning off by chat_template_kwargs",
                asked_as,
            )
        return combined, asked_as


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grammars:
    """The grammars of the answers to one conversation."""

    conversation: Conversation
    form: AnswerForm

    def of_calls(self, answer: str = "") -> Grammar | None:
        return tool_grammar(
            self.conversation.offered,
            self.conversation.tool_choice,
            parallel=self.conversation.parallel_tool_calls,
            form=self.form,
            answer=answer,
        )

    def combine(self, grammar: Grammar) -> Grammar | None:
        """A forced call leaves no text that the client's grammar could hold."""
        if self.conversation.offered:
            if self.conversation.tool_choice.is_forced:
                return self.of_calls()
            body = answer_body(grammar)
            return None if body is None else self.of_calls(body)
        return after_reasoning(grammar, self.form) if self.form.is_reasoning else grammar


class TokenRenderer(Renderer, Protocol):
    """A renderer that knows its tokens: the tokenizer."""

    def special_id(self, text: str) -> int | None:
        """The id of a special token; None for any other text."""


class ChatFormat:
    """One per tokenizer. `prepare` may take long, and is safe to call from several threads."""

    def __init__(
        self, tokenizer: TokenRenderer, settings: ChatSettings, images: ImageFormat | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._template = ChatTemplate(
            tokenizer, allow_control_tokens=settings.control_tokens_in_messages, images=images
        )

    def render(self, conversation: Conversation, image_tokens: Sequence[int] = ()) -> str:
        """The prompt. ChatTemplateError or ApiError for a conversation that cannot be rendered.

        `image_tokens` says how many tokens each image is, where its size says it.
        """
        try:
            check_tools(conversation.tools, conversation.tool_choice)
            return self._template.render(
                conversation.messages,
                conversation.offered,
                self._options(conversation),
                image_tokens,
            )
        except RecursionError as error:
            raise ChatTemplateError("the messages or tools are nested too deeply") from error

    def _options(self, conversation: Conversation) -> RenderOptions:
        """With what is asked of the thinking. A variable that the client names itself wins."""
        asked = conversation.thinking.variables(
            self._tokenizer.template_text, thinks=self._tags is not None
        )
        options = conversation.options
        return replace(options, template_options=asked | dict(options.template_options))

    def prepare(
        self,
        conversation: Conversation,
        prompt: str | None = None,
        image_tokens: Sequence[int] = (),
    ) -> ChatPrompt:
        """The prompt and how to read its answers. `prompt` is one that was rendered before."""
        text = self.render(conversation, image_tokens) if prompt is None else prompt
        # What reads the answers lasts as long as they do, and needs no messages.
        conversation = replace(conversation, messages=())
        if self._is_harmony:
            return self._harmony_prompt(conversation, text)
        tags = self._tags
        is_reasoning = tags is not None and begins_open(tags, text)
        family = self._family(conversation) if conversation.offered else None
        words = (*(MARKERS[family] if family else ()), *((tags.start, tags.end) if tags else ()))
        special = {
            word: token_id
            for word in words
            if (token_id := self._tokenizer.special_id(word)) is not None
        }
        form = AnswerForm(
            family=family or "hermes", special=special, tags=tags, is_reasoning=is_reasoning
        )
        grammars = _Grammars(conversation=conversation, form=form)
        return ChatPrompt(
            text=text,
            reader=lambda: _reader(conversation, family, tags, is_reasoning=is_reasoning),
            grammar=grammars.of_calls() if family else None,
            combine=grammars.combine,
            shows_special_tokens=bool(special),
        )

    def _harmony_prompt(self, conversation: Conversation, text: str) -> ChatPrompt:
        """Channels hold reasoning, content and calls alike; no grammar is put between them."""
        if conversation.offered and conversation.tool_choice.is_forced:
            raise _invalid(
                "tool_choice cannot be enforced for this model, whose answers are in the harmony"
                " format; use auto",
                "tool_choice",
            )
        max_calls = None if conversation.parallel_tool_calls else 1
        return ChatPrompt(
            text=text,
            reader=lambda: AnswerReader(
                calls=HarmonyAnswer(), max_calls=max_calls if conversation.offered else 0
            ),
            combine=lambda _: None,
            shows_special_tokens=True,
        )

    @cached_property
    def _is_harmony(self) -> bool:
        is_read = self._settings.reasoning_parser == "auto"
        return is_read and is_harmony(self._tokenizer.template_text)

    @cached_property
    def _tags(self) -> ReasoningTags | None:
        name = self._settings.reasoning_parser
        if name == "auto":
            detected = format_of(self._tokenizer.template_text)
            return None if detected is None else FORMATS[detected]
        return None if name == "none" else FORMATS[name]

    def _family(self, conversation: Conversation) -> Family:
        """How the answer has its calls. A form that no grammar enforces gives way to Hermes's."""
        family = self._written
        is_forced = conversation.tool_choice.is_forced
        return "hermes" if is_forced and not can_enforce(family) else family

    @property
    def _written(self) -> Family:
        """How the model writes calls by itself."""
        name = self._settings.tool_call_parser
        if name == "none":
            raise _invalid(
                "this server reads no tool calls, because its operator set --tool-call-parser to"
                " none; leave tools out",
                "tools",
            )
        return self._template.family if name == "auto" else name


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(ErrorKind.INVALID_REQUEST, message, param=param)


def _reader(
    conversation: Conversation,
    family: Family | None,
    tags: ReasoningTags | None,
    *,
    is_reasoning: bool,
) -> AnswerReader:
    schemas = {tool.name: tool.schema for tool in conversation.offered}
    mode = conversation.tool_choice.mode
    has_strict = any(tool.strict for tool in conversation.offered)
    is_single = mode == "named" or not conversation.parallel_tool_calls
    return AnswerReader(
        reasoning=None if tags is None else ReasoningSplitter(tags, is_open=is_reasoning),
        calls=None if family is None else call_reader(family, schemas),
        only_calls=conversation.tool_choice.is_forced,
        begins_call=beginning_of_calls(family) if family and has_strict else "",
        max_calls=1 if is_single else None,
        ends_as_call=mode != "named",
    )
