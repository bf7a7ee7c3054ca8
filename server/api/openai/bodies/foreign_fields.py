"""Fields of other servers and of the OpenAI API that this server has no field for: the one table.

A field that would change the answer is an alias of a field of this server, or is refused with a
sentence. A field that changes no answer passes. Knows neither the bodies' own fields nor how a
request is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.api.requests.refused_fields import Refusal, refused


@dataclass(frozen=True, slots=True)
class Alias:
    """Another server's name for a field of this server, with the same meaning."""

    field: str


@dataclass(frozen=True, slots=True)
class Passes:
    """A field that changes no answer of this server."""

    why: str


type Meaning = Alias | Refusal | Passes

_LEAVE_OUT = "leave it out"
_OPTIONS_OUTSIDE = "write the options that it holds as fields of the body"
_OTHER_SAMPLER = "use temperature, top_p, top_k or min_p"
_NO_BEAMS = "this server samples and has no beam search"
_NO_ADAPTERS = "name the adapter in model, as /v1/models lists it"
_NO_ISOLATION = "all requests share one prefix cache; run a server per tenant to keep them apart"
_ONE_POOL = "this server prefills and decodes in one place"
_THINKING = "use chat_template_kwargs with the variable that the model's chat template has"
_TEXT_ONLY = "this server reads text and images, and writes text"
_IMAGE_PARTS = "send images as image_url parts of messages"
_BY_LOGITS = "use logit_bias"
_BY_LOGPROBS = "use logprobs, top_logprobs or prompt_logprobs"
_OWN_PROMPT = "write the whole prompt, or messages"
_CUT_BEFORE = "cut the prompt before sending it"
_SPEED = "it concerns only speed"


def _passes(names: str, why: str) -> dict[str, Meaning]:
    return dict.fromkeys(names.split(), Passes(why))


def _alias(names: str, field: str) -> dict[str, Meaning]:
    return dict.fromkeys(names.split(), Alias(field))


_ALIASES: Mapping[str, Meaning] = {
    **_alias("max_completion_tokens max_new_tokens n_predict num_predict", "max_tokens"),
    **_alias("min_new_tokens", "min_tokens"),
    **_alias("repeat_penalty rep_pen", "repetition_penalty"),
    **_alias("random_seed", "seed"),
    **_alias("stop_sequences", "stop"),
}

_OPENAI: Mapping[str, Meaning] = {
    **refused("audio", _TEXT_ONLY),
    **refused("modalities", _TEXT_ONLY, ["text"]),
    **refused("prediction", _LEAVE_OUT),
    **refused("web_search_options", _LEAVE_OUT),
    **refused("store", "this server stores no answer", False),
    **refused("suffix", "this server continues a prompt and fills no gap", ""),
    **refused("best_of", _NO_BEAMS + "; use n", 1, as_field="n"),
    **refused("verbosity", "say in the messages how long the answer should be", "medium"),
    **refused("function_call", _LEAVE_OUT, "none", "auto"),
    **refused("functions", _LEAVE_OUT, []),
    **_passes("user safety_identifier metadata", "it names the user or the request"),
    **_passes("prompt_cache_key prompt_cache_retention", "it concerns the price of an answer"),
    **_passes("service_tier", "this server has one tier"),
}

_CONSTRAINTS: Mapping[str, Meaning] = {
    **refused("regex", "use structured_outputs with regex"),
    **refused("grammar ebnf grammar_string", "use structured_outputs with grammar"),
    **refused("json_schema", "use response_format, or structured_outputs with json"),
    **refused("structural_tag", "use structured_outputs with structural_tag"),
    **refused("format", "use response_format", ""),
    **refused("guided_decoding_params", "use structured_outputs"),
}

_SAMPLERS: Mapping[str, Meaning] = {
    **refused("typical_p typical tfs_z tfs", _OTHER_SAMPLER, 1),
    **refused("top_a xtc_probability dynatemp_range smoothing_factor", _OTHER_SAMPLER, 0),
    **refused("mirostat mirostat_mode epsilon_cutoff eta_cutoff", _OTHER_SAMPLER, 0),
    **refused("mirostat_tau mirostat_eta mirostat_target mirostat_lr", _OTHER_SAMPLER),
    **refused("top_n_sigma", _OTHER_SAMPLER, 0, -1),
    **refused("dynatemp_exponent smoothing_curve xtc_threshold", _OTHER_SAMPLER),
    **refused("top_p_min top_p_decay top_p_reset_ids sampler_order samplers", _OTHER_SAMPLER),
    **refused("dry_multiplier", "use repetition_penalty or frequency_penalty", 0),
    **refused("dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers", _LEAVE_OUT),
    **refused("repeat_last_n", "repetition_penalty looks at the whole context", -1),
    **refused("rep_pen_range repetition_penalty_range", "the penalty looks at the whole context"),
    **refused("rep_pen_slope", _LEAVE_OUT),
    **refused("no_repeat_ngram_size encoder_no_repeat_ngram_size", _LEAVE_OUT, 0),
    **refused("encoder_repetition_penalty", "use repetition_penalty", 1),
    **refused("penalty_prompt penalty_alpha repetition_detection", _LEAVE_OUT),
    **refused("penalize_nl penalize_newline", _BY_LOGITS, True),
    **refused("temperature_last", _LEAVE_OUT, False),
    **refused("do_sample", "for the likeliest token every time, send temperature 0", True),
    **refused("guidance_scale", _LEAVE_OUT, 1),
    **refused("negative_prompt watermark", _LEAVE_OUT, "", False),
    **refused("logits_processors logits_processor logits_processor_args", _LEAVE_OUT, []),
    **refused("custom_logit_processor custom_params", _LEAVE_OUT),
    **refused("bad bad_words_ids bad_words_token_ids", "use bad_words", []),
    **refused("custom_token_bans", _BY_LOGITS, ""),
    **refused("force_words_ids suppress_tokens", _BY_LOGITS),
    **refused("begin_suppress_tokens sequence_bias embedding_bias", _BY_LOGITS, []),
    **refused("forced_bos_token_id forced_eos_token_id", _LEAVE_OUT),
    **refused("length_penalty", _NO_BEAMS, 1),
    **refused("use_beam_search early_stopping", _NO_BEAMS, False),
    **refused("num_beams num_beam_groups beam_width", _NO_BEAMS, 1),
    **refused("diversity_penalty beam_search_diversity_rate", _NO_BEAMS, 0),
    **refused("num_return_sequences", "use n", 1, as_field="n"),
}

_ENDS: Mapping[str, Meaning] = {
    **refused("stop_regex", "use stop or stop_token_ids", []),
    **refused("stop_words stop_words_list", "use stop", []),
    **refused("eos_token_id end_id stop_token_id", "use stop_token_ids"),
    **refused("ban_eos_token", "use ignore_eos", False),
    **refused("no_stop_trim include_stop_str", "use include_stop_str_in_output", False),
    **refused("max_length max_context_length max_total_tokens", "use max_tokens"),
    **refused("min_length", "use min_tokens", 0),
    **refused("exponential_decay_length_penalty", "use max_tokens"),
    **refused("t_max_predict_ms max_time", "set a deadline at the client", 0, -1),
    **refused("n_indent", _LEAVE_OUT, 0),
    **refused("max_tokens_second", _LEAVE_OUT, 0),
    **refused("auto_max_new_tokens", "leave out max_tokens", False),
    **refused("thinking_token_budget thinking_budget thinking_budget_tokens", _THINKING),
}

_PROMPTS: Mapping[str, Meaning] = {
    **refused("num_keep n_keep", _CUT_BEFORE, 0),
    **refused("truncate truncation_length", _CUT_BEFORE),
    **refused("prompt_truncate_len prompt_truncate_length prompt_ignore_length", _CUT_BEFORE),
    **refused("truncation_side", _CUT_BEFORE),
    **refused("context_length_exceeded_behavior", _CUT_BEFORE, "error"),
    **refused("num_ctx n_ctx", "the operator sets the context's length"),
    **refused("transforms plugins", _LEAVE_OUT, []),
    **refused("chat_template template instruction_template", "render the prompt at the client"),
    **refused("documents", "write the documents into the messages", []),
    **refused("prompt_embeds input_embeds", "send text or token ids"),
    **refused("input_ids prompt_token_ids", "send the token ids as prompt"),
    **refused("inputs input input_text text_input", _OWN_PROMPT),
    **refused("system preset character context", _OWN_PROMPT),
    **refused("input_prefix input_suffix input_extra", _OWN_PROMPT),
    **refused("raw", "use /v1/completions for a prompt without a template", False),
    **refused("safe_prompt", "write the words into the system message", False),
    **refused("safety_model", _LEAVE_OUT),
    **refused("prompt_mode", _THINKING),
    **refused("prefill assistant_prefill", "use continue_final_message"),
    **refused("add_bos_token", "use add_special_tokens", True),
    **refused("image_data images image multi_modal_data", _IMAGE_PARTS, []),
    **refused("video_data audio_data", _TEXT_ONLY, []),
    **refused("mm_processor_kwargs media_io_kwargs", _TEXT_ONLY, {}),
    **refused("use_audio_in_video", _TEXT_ONLY, False),
    **refused("cache_salt extra_key prompt_cache_isolation_key", _NO_ISOLATION),
    **refused("think enable_thinking thinking reasoning", _THINKING),
    **refused("include_reasoning separate_reasoning", _LEAVE_OUT, True),
}

_ANSWERS: Mapping[str, Meaning] = {
    **refused("return_full_text", "use echo", False),
    **refused("spaces_between_special_tokens", "this server adds no spaces", False, True),
    **refused("return_tokens_as_token_ids", "use return_token_ids", False),
    **refused("return_tokens", "use return_token_ids", False),
    **refused("return_logprob", _BY_LOGPROBS, False),
    **refused("n_probs top_logprobs_num top_n_tokens num_logprobs", _BY_LOGPROBS, 0),
    **refused("logprob_start_len", _BY_LOGPROBS, -1),
    **refused("token_ids_logprob logprob_token_ids", _BY_LOGPROBS, []),
    **refused("details decoder_input_details", _BY_LOGPROBS, False),
    **refused("post_sampling_probs", "log probabilities are those before sampling", False),
    **refused("return_hidden_states return_routed_experts", _LEAVE_OUT, False),
    **refused("return_context_logits return_generation_logits raw_output", _LEAVE_OUT, False),
    **refused("detokenize", "use return_token_ids and ignore the text", True),
    **refused("response_fields", _LEAVE_OUT, []),
}

_CONTAINERS: Mapping[str, Meaning] = {
    **refused("options parameters sampling_params extra_body", _OPTIONS_OUTSIDE, {}),
    **refused("generation_config generationConfig", _OPTIONS_OUTSIDE, {}),
    **refused("nvext vllm_xargs extra_args", _OPTIONS_OUTSIDE, {}),
}

_PLACES: Mapping[str, Meaning] = {
    **refused("lora loras lora_path lora_name lora_request lora_adapters", _NO_ADAPTERS, []),
    **refused("adapter adapters adapter_id adapter_source", _NO_ADAPTERS, []),
    **refused("models", "name one model", []),
    **refused("priority", "this server takes turns by source", 0),
    **refused("kv_transfer_params ec_transfer_params disaggregated_params", _ONE_POOL),
    **refused("bootstrap_host bootstrap_port bootstrap_room", _ONE_POOL),
    **refused("session_params", _LEAVE_OUT),
    **_passes("provider route", "this server is one provider"),
    **_passes("cache_prompt id_slot slot_id keep_alive ttl session_id rid", _SPEED),
    **_passes("draft_model speculation prompt_lookup_num_tokens", _SPEED),
    **_passes("num_batch num_gpu main_gpu num_thread use_mmap low_vram", "the operator sets it"),
    **_passes("timings_per_token return_progress perf_metrics_in_response", "it adds no text"),
}

FIELDS: Mapping[str, Meaning] = {
    **_ALIASES,
    **_OPENAI,
    **_CONSTRAINTS,
    **_SAMPLERS,
    **_ENDS,
    **_PROMPTS,
    **_ANSWERS,
    **_CONTAINERS,
    **_PLACES,
}
