"""The fields that /v1/messages refuses: Anthropic's that need what is not here, and other names.

These come before the fields of other servers, which no endpoint here has.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.requests.refused_fields import Refusal, refused

_IN_CHAT = "/v1/chat/completions has it"
_KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}

FIELDS: Mapping[str, Refusal] = {
    **refused("container mcp_servers", "this server runs no tool itself", [], {}),
    **refused(
        "context_management", "cut the messages before sending them", {"edits": []}, _KEEPS_ALL
    ),
    **refused("fallbacks", "name one model", []),
    **refused("stop", "write stop_sequences", []),
    **refused("response_format", "write output_config.format", {"type": "text"}),
    **refused("reasoning_effort", "write output_config.effort"),
    **refused("reasoning", "write thinking"),
    **refused("instructions", "write system"),
    **refused("input", "write messages"),
    **refused("functions", "write tools", []),
    **refused("function_call", "write tool_choice", "auto", "none"),
    **refused("parallel_tool_calls", "write tool_choice.disable_parallel_tool_use", True),
    **refused("n best_of", _IN_CHAT, 1),
    **refused("logprobs", _IN_CHAT, False),
    **refused("top_logprobs min_tokens prompt_logprobs", _IN_CHAT, 0),
    **refused("stop_token_ids", _IN_CHAT, []),
    **refused("logit_bias", _IN_CHAT, {}),
    **refused("presence_penalty frequency_penalty min_p", _IN_CHAT, 0),
    **refused("repetition_penalty", _IN_CHAT, 1),
    **refused("allowed_token_ids bad_words", _IN_CHAT, []),
    **refused("echo add_special_tokens", _IN_CHAT, False),
    **refused("continue_final_message", "a last message of the assistant goes on", False),
    **refused("add_generation_prompt", "a last message of the assistant goes on", True),
    **refused("truncate_prompt_tokens", "cut the messages before sending them"),
    **refused("ignore_eos return_token_ids include_stop_str_in_output", _IN_CHAT, False),
    **refused("structured_outputs guided_json guided_regex guided_choice", _IN_CHAT),
    **refused("guided_grammar resume skip_special_tokens", _IN_CHAT),
    **refused("prompt", "write messages"),
}
