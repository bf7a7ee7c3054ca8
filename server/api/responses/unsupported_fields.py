"""Fields that would change a response, but that this server cannot honour: the one table.

A field that is in no table passes, because client libraries add new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.validation import invalid

# What to do instead, and the values that change nothing.
type _Refusal = tuple[str, tuple[Any, ...]]

_NOT_STORED = "this server stores no responses; send all earlier items in input"
_LEAVE_OUT = "leave it out"
_IN_CHAT = "/v1/chat/completions has it"


def _refused(names: str, instead: str, *neutral: Any) -> dict[str, _Refusal]:
    return dict.fromkeys(names.split(), (instead, neutral))


_FIELDS: Mapping[str, _Refusal] = {
    **_refused("previous_response_id conversation", _NOT_STORED),
    **_refused("background", "this server keeps no response to be fetched later", False),
    **_refused("prompt", "this server has no stored prompts; send instructions and input"),
    **_refused("context_management", "this server compacts no conversation", []),
    **_refused("moderation", _LEAVE_OUT),
    **_refused("messages", "write the conversation in input"),
    **_refused("max_tokens max_completion_tokens", "write max_output_tokens"),
    **_refused("response_format", "write text.format", {"type": "text"}),
    **_refused("reasoning_effort", "write reasoning.effort"),
    **_refused("verbosity", "write text.verbosity"),
    **_refused("logprobs", "write top_logprobs", False),
    **_refused("functions", "write tools", []),
    **_refused("function_call", "write tool_choice", "auto", "none"),
    **_refused("n best_of", _IN_CHAT, 1),
    **_refused("stop stop_token_ids", _IN_CHAT, []),
    **_refused("min_tokens prompt_logprobs", _IN_CHAT, 0),
    **_refused("ignore_eos return_token_ids include_stop_str_in_output", _IN_CHAT, False),
    **_refused("logit_bias", _IN_CHAT, {}),
    **_refused("structured_outputs guided_json guided_regex guided_choice", _IN_CHAT),
    **_refused("guided_grammar resume skip_special_tokens", _IN_CHAT),
    **_refused("continue_final_message", _IN_CHAT, False),
    **_refused("add_generation_prompt", _IN_CHAT, True),
    **_refused("modalities", "this server writes text", ["text"]),
    **_refused("audio documents chat_template prediction cache_salt", _LEAVE_OUT),
    **_refused("truncate_prompt_tokens", "cut the input before sending it"),
    **_refused("priority", "this server takes turns by source", 0),
    **_refused("use_beam_search", "this server has no beam search", False),
    **_refused("logits_processors bad_words", _LEAVE_OUT, []),
    **_refused("allowed_token_ids length_penalty suffix", _LEAVE_OUT, 1, ""),
}


def check_fields(extra: Mapping[str, Any]) -> None:
    """Refuse what would be ignored to the client's surprise."""
    for name, value in extra.items():
        instead, neutral = _FIELDS.get(name, ("", ()))
        if instead and value is not None and not _is_one_of(value, neutral):
            message = f"{name} is not supported by /v1/responses; {instead}"
            raise invalid(message, name, "unsupported_parameter")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equality of JSON values, in which true is not 1."""
    return any(isinstance(value, bool) == isinstance(n, bool) and value == n for n in neutral)
