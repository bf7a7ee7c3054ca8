"""Fields of other servers and of the OpenAI API that this server has no field for: the one table.

A field that would change the answer is an alias of a field of this server, or is refused with a
sentence. A field that changes no answer passes. Knows neither the bodies' own fields nor how a
request is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Alias:
    """Another server's name for a field of this server, with the same meaning."""

    field: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is refused, unless its value is one of `neutral`. `instead` says what to do.

    `as_field` names a field of the body whose value is neutral too, such as `best_of` equal to `n`.
    """

    instead: str
    neutral: tuple[Any, ...] = ()
    as_field: str = ""


@dataclass(frozen=True, slots=True)
class Passes:
    """A field that changes no answer of this server."""

    why: str


type Meaning = Alias | Refused | Passes

_LEAVE_OUT = "leave it out"
_OPTIONS_OUTSIDE = "write the options that it holds as fields of the body"
_OTHER_SAMPLER = "use temperature, top_p, top_k or min_p"
_NO_BEAMS = "this server samples and has no beam search"
_NO_ADAPTERS = "this server has no adapters; name a model that /v1/models lists"
_NO_ISOLATION = "all requests share one prefix cache; run a server per tenant to keep them apart"
_ONE_POOL = "this server prefills and decodes in one place"
_THINKING = "use chat_template_kwargs with the variable that the model's chat template has"
_TEXT_ONLY = "this server reads and writes text"
_BY_LOGITS = "use logit_bias"
_BY_LOGPROBS = "use logprobs, top_logprobs or prompt_logprobs"
_OWN_PROMPT = "write the whole prompt, or messages"
_CUT_BEFORE = "cut the prompt before sending it"
_SPEED = "it concerns only speed"


def _refused(names: str, instead: str, *neutral: Any, as_field: str = "") -> dict[str, Meaning]:
    return dict.fromkeys(names.split(), Refused(instead, neutral, as_field))


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
    **_refused("audio", _TEXT_ONLY),
    **_refused("modalities", _TEXT_ONLY, ["text"]),
    **_refused("prediction", _LEAVE_OUT),
    **_refused("web_search_options", _LEAVE_OUT),
    **_refused("store", "this server stores no answer", False),
    **_refused("suffix", "this server continues a prompt and fills no gap", ""),
    **_refused("best_of", _NO_BEAMS + "; use n", 1, as_field="n"),
    **_refused("reasoning_effort", _THINKING),
    **_refused("verbosity", "say in the messages how long the answer should be", "medium"),
    **_refused("function_call", _LEAVE_OUT, "none", "auto"),
    **_refused("functions", _LEAVE_OUT, []),
    **_passes("user safety_identifier metadata", "it names the user or the request"),
    **_passes("prompt_cache_key prompt_cache_retention", "it concerns the price of an answer"),
    **_passes("service_tier", "this server has one tier"),
}

_CONSTRAINTS: Mapping[str, Meaning] = {
    **_refused("regex", "use structured_outputs with regex"),
    **_refused("grammar ebnf grammar_string", "use structured_outputs with grammar"),
    **_refused("json_schema", "use response_format, or structured_outputs with json"),
    **_refused("structural_tag", "use structured_outputs with structural_tag"),
    **_refused("format", "use response_format", ""),
    **_refused("guided_decoding_params", "use structured_outputs"),
}

_SAMPLERS: Mapping[str, Meaning] = {
    **_refused("typical_p typical tfs_z tfs", _OTHER_SAMPLER, 1),
    **_refused("top_a xtc_probability dynatemp_range smoothing_factor", _OTHER_SAMPLER, 0),
    **_refused("mirostat mirostat_mode epsilon_cutoff eta_cutoff", _OTHER_SAMPLER, 0),
    **_refused("mirostat_tau mirostat_eta mirostat_target mirostat_lr", _OTHER_SAMPLER),
    **_refused("top_n_sigma", _OTHER_SAMPLER, 0, -1),
    **_refused("dynatemp_exponent smoothing_curve xtc_threshold", _OTHER_SAMPLER),
    **_refused("top_p_min top_p_decay top_p_reset_ids sampler_order samplers", _OTHER_SAMPLER),
    **_refused("dry_multiplier", "use repetition_penalty or frequency_penalty", 0),
    **_refused("dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers", _LEAVE_OUT),
    **_refused("repeat_last_n", "repetition_penalty looks at the whole context", -1),
    **_refused("rep_pen_range repetition_penalty_range", "the penalty looks at the whole context"),
    **_refused("rep_pen_slope", _LEAVE_OUT),
    **_refused("no_repeat_ngram_size encoder_no_repeat_ngram_size", _LEAVE_OUT, 0),
    **_refused("encoder_repetition_penalty", "use repetition_penalty", 1),
    **_refused("penalty_prompt penalty_alpha repetition_detection", _LEAVE_OUT),
    **_refused("penalize_nl penalize_newline", _BY_LOGITS, True),
    **_refused("temperature_last", _LEAVE_OUT, False),
    **_refused("do_sample", "for the likeliest token every time, send temperature 0", True),
    **_refused("guidance_scale", _LEAVE_OUT, 1),
    **_refused("negative_prompt watermark", _LEAVE_OUT, "", False),
    **_refused("logits_processors logits_processor logits_processor_args", _LEAVE_OUT, []),
    **_refused("custom_logit_processor custom_params", _LEAVE_OUT),
    **_refused("bad_words bad bad_words_ids bad_words_token_ids", _BY_LOGITS, []),
    **_refused("custom_token_bans", _BY_LOGITS, ""),
    **_refused("allowed_token_ids force_words_ids suppress_tokens", _BY_LOGITS),
    **_refused("begin_suppress_tokens sequence_bias embedding_bias", _BY_LOGITS, []),
    **_refused("forced_bos_token_id forced_eos_token_id", _LEAVE_OUT),
    **_refused("length_penalty", _NO_BEAMS, 1),
    **_refused("use_beam_search early_stopping", _NO_BEAMS, False),
    **_refused("num_beams num_beam_groups beam_width", _NO_BEAMS, 1),
    **_refused("diversity_penalty beam_search_diversity_rate", _NO_BEAMS, 0),
    **_refused("num_return_sequences", "use n", 1, as_field="n"),
}

_ENDS: Mapping[str, Meaning] = {
    **_refused("stop_regex", "use stop or stop_token_ids", []),
    **_refused("stop_words stop_words_list", "use stop", []),
    **_refused("eos_token_id end_id stop_token_id", "use stop_token_ids"),
    **_refused("ban_eos_token", "use ignore_eos", False),
    **_refused("no_stop_trim include_stop_str", "use include_stop_str_in_output", False),
    **_refused("max_length max_context_length max_total_tokens", "use max_tokens"),
    **_refused("min_length", "use min_tokens", 0),
    **_refused("exponential_decay_length_penalty", "use max_tokens"),
    **_refused("t_max_predict_ms max_time", "set a deadline at the client", 0, -1),
    **_refused("n_indent", _LEAVE_OUT, 0),
    **_refused("max_tokens_second", _LEAVE_OUT, 0),
    **_refused("auto_max_new_tokens", "leave out max_tokens", False),
    **_refused("thinking_token_budget thinking_budget thinking_budget_tokens", _THINKING),
}

_PROMPTS: Mapping[str, Meaning] = {
    **_refused("num_keep n_keep", _CUT_BEFORE, 0),
    **_refused("truncate_prompt_tokens truncate truncation_length", _CUT_BEFORE),
    **_refused("prompt_truncate_len prompt_truncate_length prompt_ignore_length", _CUT_BEFORE),
    **_refused("truncation_side", _CUT_BEFORE),
    **_refused("context_length_exceeded_behavior", _CUT_BEFORE, "error"),
    **_refused("num_ctx n_ctx", "the operator sets the context's length"),
    **_refused("transforms plugins", _LEAVE_OUT, []),
    **_refused("chat_template template instruction_template", "render the prompt at the client"),
    **_refused("documents", "write the documents into the messages", []),
    **_refused("prompt_embeds input_embeds", "send text or token ids"),
    **_refused("input_ids prompt_token_ids", "send the token ids as prompt"),
    **_refused("inputs input input_text text_input", _OWN_PROMPT),
    **_refused("system preset character context", _OWN_PROMPT),
    **_refused("input_prefix input_suffix input_extra", _OWN_PROMPT),
    **_refused("raw", "use /v1/completions for a prompt without a template", False),
    **_refused("safe_prompt", "write the words into the system message", False),
    **_refused("safety_model", _LEAVE_OUT),
    **_refused("prompt_mode", _THINKING),
    **_refused("prefill assistant_prefill", "use continue_final_message"),
    **_refused("add_bos_token", "use add_special_tokens", True),
    **_refused("image_data images image video_data audio_data multi_modal_data", _TEXT_ONLY, []),
    **_refused("mm_processor_kwargs media_io_kwargs", _TEXT_ONLY, {}),
    **_refused("use_audio_in_video", _TEXT_ONLY, False),
    **_refused("cache_salt extra_key prompt_cache_isolation_key", _NO_ISOLATION),
    **_refused("think enable_thinking thinking reasoning", _THINKING),
    **_refused("include_reasoning separate_reasoning", _LEAVE_OUT, True),
}

_ANSWERS: Mapping[str, Meaning] = {
    **_refused("return_full_text", "use echo", False),
    **_refused("spaces_between_special_tokens", "this server adds no spaces", False, True),
    **_refused("return_tokens_as_token_ids", "use return_token_ids", False),
    **_refused("return_tokens", "use return_token_ids", False),
    **_refused("return_logprob", _BY_LOGPROBS, False),
    **_refused("n_probs top_logprobs_num top_n_tokens num_logprobs", _BY_LOGPROBS, 0),
    **_refused("logprob_start_len", _BY_LOGPROBS, -1),
    **_refused("token_ids_logprob logprob_token_ids", _BY_LOGPROBS, []),
    **_refused("details decoder_input_details", _BY_LOGPROBS, False),
    **_refused("post_sampling_probs", "log probabilities are those before sampling", False),
    **_refused("return_hidden_states return_routed_experts", _LEAVE_OUT, False),
    **_refused("return_context_logits return_generation_logits raw_output", _LEAVE_OUT, False),
    **_refused("detokenize", "use return_token_ids and ignore the text", True),
    **_refused("response_fields", _LEAVE_OUT, []),
}

_CONTAINERS: Mapping[str, Meaning] = {
    **_refused("options parameters sampling_params extra_body", _OPTIONS_OUTSIDE, {}),
    **_refused("generation_config generationConfig", _OPTIONS_OUTSIDE, {}),
    **_refused("nvext vllm_xargs extra_args", _OPTIONS_OUTSIDE, {}),
}

_PLACES: Mapping[str, Meaning] = {
    **_refused("lora loras lora_path lora_name lora_request lora_adapters", _NO_ADAPTERS, []),
    **_refused("adapter adapters adapter_id adapter_source", _NO_ADAPTERS, []),
    **_refused("models", "name one model", []),
    **_refused("priority", "this server takes turns by source", 0),
    **_refused("kv_transfer_params ec_transfer_params disaggregated_params", _ONE_POOL),
    **_refused("bootstrap_host bootstrap_port bootstrap_room", _ONE_POOL),
    **_refused("session_params", _LEAVE_OUT),
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
