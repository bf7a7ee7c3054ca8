"""Fields of other servers and of other APIs that this server has no field for: the one table.

A field that would change the answer is an alias of a field of this server, or is refused with a
sentence. A field that changes no answer passes. Knows neither the bodies' own fields nor how a
request is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.api.foreign_fields.answers import OF_ANSWERS
from server.api.foreign_fields.meanings import (
    LEAVE_OUT,
    OPTIONS_OUTSIDE,
    SPEED,
    Meaning,
    passes,
)
from server.api.foreign_fields.prompts import OF_PROMPTS
from server.api.foreign_fields.sampling import OF_SAMPLING
from server.api.requests.refused_fields import refused

_NO_ADAPTERS = "name the adapter in model, as /v1/models lists it"
_ONE_POOL = "this server prefills and decodes in one place"

_CONTAINERS: Mapping[str, Meaning] = {
    **refused("options parameters extra_body", OPTIONS_OUTSIDE, {}),
    **refused("sampling_params sampling_parameters", OPTIONS_OUTSIDE, {}),
    **refused("generation_config generation_kwargs gen_kwargs", OPTIONS_OUTSIDE, {}),
    **refused("inference_config text_generation_config", OPTIONS_OUTSIDE, {}),
    **refused("additional_model_request_fields", OPTIONS_OUTSIDE, {}),
    **refused("nvext vllm_xargs extra_args", OPTIONS_OUTSIDE, {}),
}

_PLACES: Mapping[str, Meaning] = {
    **refused("lora loras lora_path lora_name lora_request lora_adapters", _NO_ADAPTERS, []),
    **refused("lora_task_id lora_weights lora_config", _NO_ADAPTERS, []),
    **refused("adapter adapters adapter_id adapter_source", _NO_ADAPTERS, []),
    **refused("models fallbacks", "name one model", []),
    **refused("priority", "this server takes turns by source", 0),
    **refused("kv_transfer_params ec_transfer_params disaggregated_params", _ONE_POOL),
    **refused("bootstrap_host bootstrap_port bootstrap_room", _ONE_POOL),
    **refused("session_params", LEAVE_OUT),
    **refused("store", "this server stores no answer", False),
    **refused("background deferred", "this server keeps no answer to be fetched later", False),
    **passes("provider route", "this server is one provider"),
    **passes("user safety_identifier metadata labels", "it names the user or the request"),
    **passes("request_metadata rid", "it names the user or the request"),
    **passes("prompt_cache_key prompt_cache_retention", "it concerns the price of an answer"),
    **passes("service_tier", "this server has one tier"),
    **passes("cache_prompt id_slot slot_id keep_alive ttl session_id", SPEED),
    **passes("draft_model speculation prompt_lookup_num_tokens num_draft_tokens", SPEED),
    **passes("use_cache performance_config", SPEED),
    **passes("num_batch num_gpu main_gpu num_thread use_mmap low_vram", "the operator sets it"),
}

# What says which text is read by which weights: an embedding depends on it too.
OF_INPUTS: Mapping[str, Meaning] = {**OF_PROMPTS, **_CONTAINERS, **_PLACES}
FIELDS: Mapping[str, Meaning] = {**OF_SAMPLING, **OF_ANSWERS, **OF_INPUTS}
