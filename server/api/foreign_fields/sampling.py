"""Fields of other servers that say how tokens are drawn, and where an answer ends.

Knows neither prompts nor the form of answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.foreign_fields.meanings import (
    BY_LOGITS,
    BY_N,
    BY_STOP,
    LEAVE_OUT,
    NO_BEAMS,
    OTHER_SAMPLER,
    THINKING,
    Meaning,
    alias,
    passes,
)
from server.api.requests.refused_fields import refused

_WHOLE_CONTEXT = "repetition_penalty looks at the whole context"

_FILTERS: Mapping[str, Meaning] = {
    **alias("p", "top_p"),
    **alias("k", "top_k"),
    **alias("random_seed sampler_seed", "seed"),
    **refused("typical_p typical tfs_z tfs", OTHER_SAMPLER, 1),
    **refused("top_a xtc_probability dynatemp_range smoothing_factor skew", OTHER_SAMPLER, 0),
    **refused("mirostat mirostat_mode epsilon_cutoff eta_cutoff min_keep", OTHER_SAMPLER, 0),
    **refused("mirostat_tau mirostat_eta mirostat_target mirostat_lr", OTHER_SAMPLER),
    **refused("top_n_sigma nsigma", OTHER_SAMPLER, 0, -1),
    **refused("dynamic_temperature", OTHER_SAMPLER, False),
    **refused("dynatemp_exponent dynatemp_low dynatemp_high dynatemp_min", OTHER_SAMPLER),
    **refused("dynatemp_max min_temp max_temp temp_exponent", OTHER_SAMPLER),
    **refused("smoothing_curve xtc_threshold xtc_special_tokens", OTHER_SAMPLER),
    **refused("adaptive_target adaptive_decay", OTHER_SAMPLER, -1),
    **refused("top_p_min top_p_decay top_p_reset_ids", OTHER_SAMPLER),
    **refused("runtime_top_k runtime_top_p", OTHER_SAMPLER),
    **refused("top_k_sampling top_p_sampling min_p_sampling", OTHER_SAMPLER),
    **refused("sampler_order sampler_priority samplers", OTHER_SAMPLER),
    **refused("temperature_last temp_last", LEAVE_OUT, False),
    **refused("do_sample", "for the likeliest token every time, send temperature 0", True),
    **refused(
        "decoding_method", "for the likeliest token every time, send temperature 0", "sample"
    ),
    **refused("guidance_scale cfg_scale", LEAVE_OUT, 1),
    **refused("renormalize_logits remove_invalid_values", LEAVE_OUT, False),
    **refused("dola_layers constraints watermarking_config", LEAVE_OUT),
    **refused("negative_prompt watermark", LEAVE_OUT, "", False),
    **refused("token_healing", "end the prompt where a token ends", False),
    **refused("logits_processors logits_processor logits_processor_args", LEAVE_OUT, []),
    **refused("custom_logit_processor custom_params", LEAVE_OUT),
}

_PENALTIES: Mapping[str, Meaning] = {
    **alias("repeat_penalty rep_pen", "repetition_penalty"),
    **refused("dry_multiplier", "use repetition_penalty or frequency_penalty", 0),
    **refused("dry_base dry_allowed_length dry_penalty_last_n dry_range", LEAVE_OUT),
    **refused("dry_sequence_breakers dry_sequence_breaker_ids", LEAVE_OUT),
    **refused("repeat_last_n repetition_context_size", _WHOLE_CONTEXT, -1),
    **refused("rep_pen_range repetition_penalty_range penalty_range", _WHOLE_CONTEXT),
    **refused("rep_pen_slope repetition_decay", LEAVE_OUT),
    **refused("no_repeat_ngram_size encoder_no_repeat_ngram_size", LEAVE_OUT, 0),
    **refused("encoder_repetition_penalty", "use repetition_penalty", 1),
    **refused("count_penalty", "use frequency_penalty"),
    **refused("penalty_prompt penalty_alpha repetition_detection", LEAVE_OUT),
    **refused("penalize_nl penalize_newline", BY_LOGITS, True),
}

_TOKENS: Mapping[str, Meaning] = {
    **refused("bad bad_words_ids bad_words_token_ids banned_strings", "use bad_words", []),
    **refused("custom_token_bans banned_tokens token_ban_ranges", BY_LOGITS, "", []),
    **refused("allowed_tokens", "use allowed_token_ids", []),
    **refused("force_words_ids suppress_tokens logit_bias_exp", BY_LOGITS),
    **refused("begin_suppress_tokens sequence_bias embedding_bias", BY_LOGITS, []),
    **refused("embedding_bias_words embedding_bias_weights", BY_LOGITS, []),
    **refused("forced_bos_token_id forced_eos_token_id forced_decoder_ids", LEAVE_OUT),
    **passes("pad_id pad_token_id", "this server pads nothing"),
}

_CHOICES: Mapping[str, Meaning] = {
    **refused("length_penalty len_penalty", NO_BEAMS, 1),
    **refused("use_beam_search early_stopping", NO_BEAMS, False),
    **refused("num_beams num_beam_groups beam_width", NO_BEAMS, 1),
    **refused("diversity_penalty beam_search_diversity_rate", NO_BEAMS, 0),
    **refused("best_of", NO_BEAMS + "; use n", 1, as_field="n"),
    **refused("num_return_sequences candidate_count num_generations", BY_N, 1, as_field="n"),
    **refused("num_results n_cmpl", BY_N, 1, as_field="n"),
}

_ENDS: Mapping[str, Meaning] = {
    **alias("max_completion_tokens max_output_tokens max_new_tokens", "max_tokens"),
    **alias("n_predict num_predict max_predicted_tokens request_output_len", "max_tokens"),
    **alias("max_tokens_to_sample max_token_count max_gen_len max_gen_toks", "max_tokens"),
    **alias("min_new_tokens", "min_tokens"),
    **alias("stop_sequences stop_sequence stop_strings until", "stop"),
    **refused("stop_regex", "use stop or stop_token_ids", []),
    **refused("stop_words stop_words_list stopping_strings", BY_STOP, []),
    **refused("custom_stopping_strings end_sequences", BY_STOP, []),
    **refused("eos_token_id end_id stop_token_id", "use stop_token_ids"),
    **refused("ban_eos_token bypass_eos", "use ignore_eos", False),
    **refused("no_stop_trim include_stop_str", "use include_stop_str_in_output", False),
    **refused("include_stop_sequence", "use include_stop_str_in_output", False),
    **refused("max_length max_context_length max_total_tokens", "use max_tokens"),
    **refused("min_length", "use min_tokens", 0),
    **refused("exponential_decay_length_penalty", "use max_tokens"),
    **refused("t_max_predict_ms max_time time_limit", "set a deadline at the client", 0, -1),
    **refused("n_indent", LEAVE_OUT, 0),
    **refused("max_tokens_second", LEAVE_OUT, 0),
    **refused("auto_max_new_tokens", "leave out max_tokens", False),
    **refused("thinking_token_budget thinking_budget thinking_budget_tokens", THINKING),
    **refused("reasoning_budget", THINKING, -1),
}

OF_SAMPLING: Mapping[str, Meaning] = {**_FILTERS, **_PENALTIES, **_TOKENS, **_CHOICES, **_ENDS}
