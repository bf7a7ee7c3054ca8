"""Fields of other servers that say what the prompt is, and how it becomes tokens.

An embedding's text has them too. Knows neither sampling nor answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.foreign_fields.meanings import (
    LEAVE_OUT,
    OWN_PROMPT,
    TEXT_ONLY,
    THINKING,
    Meaning,
    passes,
)
from server.api.requests.refused_fields import refused

_CUT_BEFORE = "cut the prompt before sending it"
_NO_ISOLATION = "all requests share one prefix cache; run a server per tenant to keep them apart"
_IMAGE_PARTS = "send images as image_url parts of messages"
_IDS_OR_TEXT = "send text or token ids"
_IN_MESSAGES = "write it into the messages"
_RENDERED_BY_CLIENT = "render the prompt at the client"
_NOT_STORED = "this server stores no answer; send all earlier messages"

_CUTS: Mapping[str, Meaning] = {
    **refused("num_keep n_keep", _CUT_BEFORE, 0),
    **refused("truncate truncation_length truncate_input_tokens", _CUT_BEFORE),
    **refused("prompt_truncate_len prompt_truncate_length prompt_ignore_length", _CUT_BEFORE),
    **refused("truncation_side n_discard max_input_tokens context_overflow_policy", _CUT_BEFORE),
    **refused("truncation", _CUT_BEFORE, "disabled", False),
    **refused("prompt_truncation", _CUT_BEFORE, "OFF"),
    **refused("context_length_exceeded_behavior", _CUT_BEFORE, "error"),
    **refused("context_management", _CUT_BEFORE, [], {"edits": []}),
    **refused("num_ctx n_ctx", "the operator sets the context's length"),
    **refused("transforms", LEAVE_OUT, []),
}

_TEXTS: Mapping[str, Meaning] = {
    **refused("chat_template template instruction_template", _RENDERED_BY_CLIENT),
    **refused("chat_instruct_command role_mapping tool_prompt guideline", _RENDERED_BY_CLIENT),
    **refused("chat_format", _RENDERED_BY_CLIENT, "", 0),
    **refused("documents", "write the documents into the messages", []),
    **refused("data_sources connectors search_parameters search_settings", LEAVE_OUT, [], {}),
    **refused("prompt_embeds input_embeds prompt_embedding_table prompt_vocab_size", _IDS_OR_TEXT),
    **refused("input_ids prompt_token_ids", "send the token ids as prompt"),
    **refused("inputs input input_text text_input", OWN_PROMPT),
    **refused("system system_instruction instructions preamble preset", OWN_PROMPT),
    **refused("character context contents message chat_history memory", OWN_PROMPT),
    **refused("user_bio name1 name2 greeting authors_note", OWN_PROMPT, ""),
    **refused("input_prefix input_suffix input_extra prompt_variables", OWN_PROMPT),
    **refused("cached_content", OWN_PROMPT),
    **refused("previous_response_id conversation", _NOT_STORED),
    **refused("raw raw_prompting", "use /v1/completions for a prompt without a template", False),
    **refused("safe_prompt", "write the words into the system message", False),
    **refused("tool_results", _IN_MESSAGES, []),
    **refused("prefill assistant_prefill", "use continue_final_message"),
    **refused("continue_", "use continue_final_message", False),
    **refused("add_bos_token", "use add_special_tokens", True),
    **refused("bos_token_id decoder_start_token_id", LEAVE_OUT),
    **refused("cache_salt extra_key prompt_cache_isolation_key", _NO_ISOLATION),
    **passes("guided_decoding_backend tokenizer_mode", "the operator sets it"),
}

_THINKING: Mapping[str, Meaning] = {
    **refused("prompt_mode", THINKING),
    **refused("think enable_thinking thinking reasoning thinking_config", THINKING),
    **refused("thinking_forced_open", THINKING, False),
}

_MEDIA: Mapping[str, Meaning] = {
    **refused("image_data images image multi_modal_data", _IMAGE_PARTS, []),
    **refused("video_data audio_data", TEXT_ONLY, []),
    **refused("mm_processor_kwargs media_io_kwargs", TEXT_ONLY, {}),
    **refused("use_audio_in_video audio_timestamp", TEXT_ONLY, False),
    **refused("media_resolution max_dynamic_patch min_dynamic_patch", TEXT_ONLY),
}

OF_PROMPTS: Mapping[str, Meaning] = {**_CUTS, **_TEXTS, **_THINKING, **_MEDIA}
