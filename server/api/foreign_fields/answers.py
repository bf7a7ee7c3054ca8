"""Fields of other servers that say what form an answer has, and what else comes with it.

Knows neither prompts nor how tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.foreign_fields.meanings import (
    BY_LOGPROBS,
    BY_RESPONSE_FORMAT,
    LEAVE_OUT,
    TEXT_ONLY,
    Meaning,
    passes,
)
from server.api.requests.refused_fields import refused

_BY_GRAMMAR = "use structured_outputs with grammar"
_BY_TOOLS = "use tools and tool_choice"
_NO_TOOLS_OF_ITS_OWN = "this server runs no tool itself"

_FORMS: Mapping[str, Meaning] = {
    **refused("regex regex_pattern", "use structured_outputs with regex"),
    **refused("grammar ebnf ebnf_grammar grammar_string", _BY_GRAMMAR),
    **refused("grammar_lazy grammar_retain_state", LEAVE_OUT, False),
    **refused("grammar_triggers preserved_tokens", LEAVE_OUT, []),
    **refused("json_schema", "use response_format, or structured_outputs with json"),
    **refused("structural_tag", "use structured_outputs with structural_tag"),
    **refused("format", BY_RESPONSE_FORMAT, ""),
    **refused("json_mode json_object", BY_RESPONSE_FORMAT, False),
    **refused("choice", "use structured_outputs with choice"),
    **refused("response_schema response_json_schema structured", BY_RESPONSE_FORMAT),
    **refused("response_mime_type", BY_RESPONSE_FORMAT, "text/plain", ""),
    **refused("output_format output_config", BY_RESPONSE_FORMAT, {}),
    **refused(
        "text",
        "use response_format for a form, and prompt or messages for a text",
        {},
        {"format": {"type": "text"}},
    ),
    **refused("guided_decoding_params", "use structured_outputs"),
    **refused("guided_decoding_guide guided_decoding_guide_type", "use structured_outputs"),
    **refused(
        "guided_whitespace_pattern whitespace_pattern", "write the blanks into a regex or a grammar"
    ),
}

_TOOLS: Mapping[str, Meaning] = {
    **refused("function_call", LEAVE_OUT, "none", "auto"),
    **refused("functions", LEAVE_OUT, []),
    **refused("tool_config", _BY_TOOLS),
    **refused("strict_tools", "set strict in the functions", False),
    **refused("force_single_step", "use parallel_tool_calls", False),
    **refused("parallel_function_calling", "use parallel_tool_calls", True),
    **refused("disable_tool_validation parse_tool_calls", LEAVE_OUT, True),
    **refused("web_search_options", LEAVE_OUT),
    **refused("container mcp_servers", _NO_TOOLS_OF_ITS_OWN, [], {}),
    **refused("compound_custom", _NO_TOOLS_OF_ITS_OWN),
    **refused("disable_search", LEAVE_OUT, True),
    **refused("search_mode search_domain_filter search_recency_filter", LEAVE_OUT),
    **refused("search_queries_only return_images return_related_questions", LEAVE_OUT, False),
    **refused("plugins", LEAVE_OUT, []),
}

_PARTS: Mapping[str, Meaning] = {
    **refused("audio speech_config", TEXT_ONLY),
    **refused("modalities response_modalities", TEXT_ONLY, ["text"], ["TEXT"]),
    **refused("prediction", LEAVE_OUT),
    **refused("verbosity", "say in the messages how long the answer should be", "medium"),
    **refused("suffix", "this server continues a prompt and fills no gap", ""),
    **refused("safety_model safety_mode safety_settings", LEAVE_OUT, "OFF", "NONE", []),
    **refused("moderation moderations guardrails guardrail_config", LEAVE_OUT, {}, []),
    **refused("citation_options", LEAVE_OUT, {}),
    **refused("include_reasoning separate_reasoning stream_reasoning", LEAVE_OUT, True),
    **refused("reasoning_format", LEAVE_OUT, "auto", "deepseek"),
    **refused("reasoning_in_content", LEAVE_OUT, False),
    **refused("trim_stop", "use include_stop_str_in_output", True),
    **refused("render_special", "use skip_special_tokens", False),
}

_DETAILS: Mapping[str, Meaning] = {
    **refused("return_full_text return_prompt", "use echo", False),
    **refused("exclude_input_from_output exclude_input_in_output", "use echo", True),
    **refused("spaces_between_special_tokens", "this server adds no spaces", False, True),
    **refused("clean_up_tokenization_spaces", "this server cuts no spaces", False),
    **refused("return_tokens_as_token_ids", "use return_token_ids", False),
    **refused("return_tokens return_prompt_token_ids", "use return_token_ids", False),
    **refused("return_logprob return_log_probs response_logprobs", BY_LOGPROBS, False),
    **refused("n_probs top_logprobs_num top_n_tokens num_logprobs top_k_return", BY_LOGPROBS, 0),
    **refused("logprob_start_len", BY_LOGPROBS, -1),
    **refused("token_ids_logprob logprob_token_ids", BY_LOGPROBS, []),
    **refused("return_likelihoods", BY_LOGPROBS, "NONE"),
    **refused("details decoder_input_details output_scores output_logits", BY_LOGPROBS, False),
    **refused("return_options", BY_LOGPROBS, {}),
    **refused("post_sampling_probs", "log probabilities are those before sampling", False),
    **refused("return_hidden_states return_routed_experts", LEAVE_OUT, False),
    **refused("output_hidden_states output_attentions", LEAVE_OUT, False),
    **refused("return_context_logits return_generation_logits raw_output", LEAVE_OUT, False),
    **refused("detokenize", "use return_token_ids and ignore the text", True),
    **refused("response_fields include", LEAVE_OUT, []),
    **passes("timings_per_token return_progress perf_metrics_in_response", "it adds no text"),
    **passes("return_perf_metrics return_cached_tokens_details", "it adds no text"),
}

OF_ANSWERS: Mapping[str, Meaning] = {**_FORMS, **_TOOLS, **_PARTS, **_DETAILS}
