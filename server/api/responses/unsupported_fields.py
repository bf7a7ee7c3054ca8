"""The fields that /v1/responses refuses: OpenAI's that need what is not here, and other names.

These come before the fields of other servers, which no endpoint here has.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.requests.refused_fields import Refusal, refused

_NOT_STORED = "this server stores no responses; send all earlier items in input"
_LEAVE_OUT = "leave it out"
_IN_CHAT = "/v1/chat/completions has it"


FIELDS: Mapping[str, Refusal] = {
    **refused("previous_response_id conversation", _NOT_STORED),
    **refused("background", "this server keeps no response to be fetched later", False),
    **refused("prompt", "this server has no stored prompts; send instructions and input"),
    **refused("context_management", "this server compacts no conversation", []),
    **refused("moderation", _LEAVE_OUT),
    **refused("messages", "write the conversation in input"),
    **refused("max_tokens", "write max_output_tokens"),
    **refused("response_format", "write text.format", {"type": "text"}),
    **refused("reasoning_effort", "write reasoning.effort"),
    **refused("verbosity", "write text.verbosity"),
    **refused("logprobs", "write top_logprobs", False),
    **refused("functions", "write tools", []),
    **refused("function_call", "write tool_choice", "auto", "none"),
    **refused("n best_of", _IN_CHAT, 1),
    **refused("stop stop_token_ids", _IN_CHAT, []),
    **refused("min_tokens prompt_logprobs", _IN_CHAT, 0),
    **refused("echo add_special_tokens", _IN_CHAT, False),
    **refused("ignore_eos return_token_ids include_stop_str_in_output", _IN_CHAT, False),
    **refused("logit_bias", _IN_CHAT, {}),
    **refused("structured_outputs guided_json guided_regex guided_choice", _IN_CHAT),
    **refused("guided_grammar resume skip_special_tokens", _IN_CHAT),
    **refused("continue_final_message", _IN_CHAT, False),
    **refused("add_generation_prompt", _IN_CHAT, True),
    **refused("truncate_prompt_tokens", "cut the input before sending it"),
    **refused("allowed_token_ids bad_words", _IN_CHAT, []),
}
