"""What a model's chat template can render, and the prompt that it makes of a conversation.

Templates differ in the roles and fields that they know, and drop silently what they do not know.
So the template is asked once, with messages that hold a word to look for. What it cannot render is
given in another form, or refused by name. Knows neither a protocol nor the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

from server.api.chat.control_tokens import ControlTokens, PiecedText, cut, unused_mark
from server.api.chat.messages import Message, ToolCall
from server.api.chat.plain_tools import fold_calls, with_tool_instructions
from server.api.chat.tool_responses import expects_tool_responses, with_tool_responses
from server.api.chat.tools import Tool
from server.api.images.image_format import ImageFormat
from server.api.images.sent_image import SentImage
from server.api.tool_calls.call_log import mistral_id_of
from server.api.tool_calls.families import Family, family_of

_SENTINEL = "zq7sentinel"
_CALL = ToolCall(id="abcdefghi", name=_SENTINEL, arguments={"a": 1})
_USER = Message(role="user", content="u")
_ASSISTANT = Message(role="assistant", content="a")
_THINK_TAGS = ("<think>", "</think>", "[THINK]", "[/THINK]")
_CHANNEL_TAGS = ("<|channel>", "<channel|>")


class ChatTemplateError(ValueError):
    """The model has no chat template, or the messages cannot be rendered with its template."""


class Renderer(Protocol):
    """What renders messages: the tokenizer."""

    @property
    def template_text(self) -> str:
        """The source of the chat template; empty if there is none."""

    @property
    def control_tokens(self) -> Collection[str]:
        """The texts of the tokens that only the template may write."""

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        """The rendered text. Raises ChatTemplateError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How the prompt ends, and a client's variables for the template."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_options: Mapping[str, Any] = field(default_factory=dict)


class ChatTemplate:
    """The chat template of one tokenizer. Safe to use from several threads."""

    def __init__(
        self,
        renderer: Renderer,
        *,
        allow_control_tokens: bool = False,
        images: ImageFormat | None = None,
    ) -> None:
        self._renderer = renderer
        self._images = images
        # A client's text never stands for an image, whatever else it may write.
        of_images = () if images is None else (images.start, images.token, images.end)
        self._control_tokens = ControlTokens(
            {*of_images, *(() if allow_control_tokens else renderer.control_tokens)}
        )
        self._is_dropped = lru_cache(maxsize=64)(self._drops)
        self._has_place = lru_cache(maxsize=64)(self._places_image)

    @cached_property
    def family(self) -> Family:
        """How the model writes calls. A template that takes no tools is given the Hermes form."""
        if not self.renders_tools:
            return "hermes"
        return family_of(self._renderer.template_text) or "hermes"

    @cached_property
    def renders_tools(self) -> bool:
        tool = Tool(name=_SENTINEL, description="d")
        return self._renders([_USER], tools=[tool.for_template()]) is True

    @cached_property
    def renders_calls(self) -> bool:
        """Whether calls and their results in a history appear in the prompt."""
        calling = Message(role="assistant", tool_calls=(_CALL,))
        result = Message(role="tool", content="r", tool_call_id=_CALL.id)
        plain = replace(calling, tool_calls=(replace(_CALL, name="f"),))
        is_call_rendered = self._renders([_USER, calling, result]) is True
        return (
            is_call_rendered
            and self._renders([_USER, plain, replace(result, content=_SENTINEL)]) is True
        )

    @cached_property
    def renders_system(self) -> bool:
        return self._renders([Message(role="system", content=_SENTINEL), _USER]) is True

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        options: RenderOptions,
        image_tokens: Sequence[int] = (),
    ) -> str:
        """The prompt, in pieces if the client's text holds control tokens.

        With images, it has for each what the tokenizer makes the image's tokens of: as many as
        `image_tokens` has for it, and the most that an image may be where that is empty.
        """
        num_images = sum(len(message.images) for message in messages)
        messages = self._conform(messages, tools)
        rendered = self._rendered_in_pieces(messages, tools, options)
        return rendered if not num_images else self._with_images(rendered, num_images, image_tokens)

    def _rendered_in_pieces(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: RenderOptions
    ) -> str:
        offered = tools if self.renders_tools else ()
        given = (
            [message.for_template() for message in messages],
            [tool.for_template() for tool in offered],
            dict(options.template_options),
        )
        if not self._control_tokens.occur_in(given):
            return self._rendered(*given, options)
        mark = unused_mark(given)
        if mark is None:
            raise ChatTemplateError("messages hold every noncharacter from U+FDD0 to U+FDEF")
        marked = self._marked_messages(given[0], mark)
        tools_marked, variables = self._control_tokens.mark(list(given[1:]), mark)
        return cut(self._rendered(marked, tools_marked, variables, options), mark)

    def _with_images(self, rendered: str, num_images: int, image_tokens: Sequence[int]) -> str:
        """What the template wrote for an image is whole in its piece; a client's text is not."""
        if self._images is None:
            raise ChatTemplateError("this model's files do not say what stands for an image")
        placeholder, expansion = self._images.placeholder, self._images.expansion
        num_tokens = iter(image_tokens or [self._images.sizes.num_tokens] * num_images)
        pieces = rendered.pieces if isinstance(rendered, PiecedText) else (rendered,)
        num_places = sum(piece.count(placeholder) for piece in pieces)
        if num_places != num_images:
            raise ChatTemplateError(
                f"the model's chat template has {num_places} places for the messages' {num_images}"
                " images"
            )
        place = re.compile(re.escape(placeholder))
        return PiecedText(place.sub(lambda _: expansion(next(num_tokens)), p) for p in pieces)

    def _rendered(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        variables: dict[str, Any],
        options: RenderOptions,
    ) -> str:
        return self._renderer.render_chat(
            messages,
            tools=tools,
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
            template_options=variables,
        )

    def _marked_messages(self, messages: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Templates look for tags of reasoning in what the assistant said, so these stay whole."""
        marked: list[dict[str, Any]] = self._control_tokens.mark(messages, mark)
        tags = [re.escape(tag) for tag in self._think_tags]
        for message, given in zip(marked, messages, strict=True):
            message["role"] = given["role"]
            if isinstance(message["content"], list):
                for part, given_part in zip(message["content"], given["content"], strict=True):
                    part["type"] = given_part["type"]
            elif message["role"] == "assistant":
                message["content"] = "".join(
                    piece if piece in self._think_tags else self._control_tokens.mark(piece, mark)
                    for piece in re.split(f"({'|'.join(tags)})", given["content"])
                )
        return marked

    @property
    def _think_tags(self) -> tuple[str, ...]:
        """Those that the template may look for. A template that knows channels takes them out."""
        knows_channels = all(tag in self._renderer.template_text for tag in _CHANNEL_TAGS)
        return (*_THINK_TAGS, *(_CHANNEL_TAGS if knows_channels else ()))

    def _conform(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Sequence[Message]:
        """The conversation in the roles and fields that the template knows."""
        if "developer" not in self._renderer.template_text:
            messages = [
                replace(message, role="system") if message.role == "developer" else message
                for message in messages
            ]
        uses_tools = any(message.tool_calls or message.role == "tool" for message in messages)
        if uses_tools:
            fits = self.renders_calls
            messages = _fit_ids(messages, self.family) if fits else fold_calls(messages)
            if expects_tool_responses(self._renderer.template_text):
                messages = with_tool_responses(messages)
        self._check_roles(messages)
        self._check_images(messages)
        if tools and not self.renders_tools:
            messages = with_tool_instructions(messages, tools, as_system=self.renders_system)
        return messages

    def _check_roles(self, messages: Sequence[Message]) -> None:
        for position, message in enumerate(messages):
            if self._is_dropped(message.role, position == 0):
                raise ChatTemplateError(
                    f"messages[{position}] has the role {message.role[:64]!r}, which the model's"
                    " chat template leaves out there"
                )

    def _check_images(self, messages: Sequence[Message]) -> None:
        for position, message in enumerate(messages):
            if message.images and not self._has_place(message.role, position == 0):
                raise ChatTemplateError(
                    f"{message.images[0].where} is an image, which the model's chat template leaves"
                    f" out in a message of the role {message.role[:64]!r}"
                )

    def _places_image(self, role: str, is_first: bool) -> bool:
        """Whether the template writes an image of a message that has this role."""
        if self._images is None:
            return False
        image = Message(role=role, tool_call_id=_CALL.id if role == "tool" else None)
        probe = image.with_parts((SentImage(where=""), "t"))
        calling = Message(role="assistant", tool_calls=(_CALL,))
        before = {"assistant": [_USER], "tool": [_USER, calling]}.get(role, [_USER, _ASSISTANT])
        after = [] if role == "user" else [_USER]
        messages = [*([] if is_first else before), probe, *after]
        rendered = self._rendered_or_none(messages)
        return rendered is not None and rendered.count(self._images.placeholder) == 1

    def _drops(self, role: str, is_first: bool) -> bool:
        """Whether the template renders a conversation without the message that has this role."""
        if role == "tool":
            return False
        message = Message(role=role, content=_SENTINEL)
        after = [] if role == "user" else [_USER]
        before = [] if is_first else [_USER] if role == "assistant" else [_USER, _ASSISTANT]
        return self._renders([*before, message, *after]) is False

    def _renders(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> bool | None:
        """Whether the word to look for is in the prompt; None if the template raises an error."""
        rendered = self._rendered_or_none(messages, tools)
        return None if rendered is None else _SENTINEL in rendered

    def _rendered_or_none(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str | None:
        try:
            return self._renderer.render_chat(
                [message.for_template() for message in messages], tools=tools
            )
        except ChatTemplateError:
            return None


def _fit_ids(messages: Sequence[Message], family: Family) -> list[Message]:
    """Mistral's templates refuse ids of calls that other servers and clients make."""
    if family != "mistral":
        return list(messages)
    return [
        replace(
            message,
            tool_call_id=message.tool_call_id and mistral_id_of(message.tool_call_id),
            tool_calls=tuple(replace(c, id=mistral_id_of(c.id)) for c in message.tool_calls),
        )
        for message in messages
    ]
