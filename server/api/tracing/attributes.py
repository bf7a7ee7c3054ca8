"""The attributes of spans, by OpenTelemetry's names. Pure functions of what is recorded."""

from __future__ import annotations

from server.api.access.call import Call
from server.api.access.work import Work

type Value = str | int | float | tuple[str, ...]

# The codes of gRPC that are the server's fault, by the conventions.
_GRPC_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
# The fields of Sampling that the conventions have a name for: the same as ours.
_SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty"
)  # fmt: skip


def span_name(call: Call) -> str:
    """By the route, not the path: names are few however many paths callers try."""
    return call.path.lstrip("/") if call.method == "gRPC" else f"{call.method} {call.route}".strip()


def is_fault(call: Call) -> bool:
    """Whether the server is at fault, by the conventions."""
    if isinstance(call.status, int):
        return call.status >= 500
    return call.status in _GRPC_FAULTS


def call_attributes(call: Call) -> dict[str, Value]:
    common: dict[str, Value] = {
        "client.address": call.client,
        "antipode.request_id": call.request_id,
        "antipode.key": call.caller_name,
        "error.type": str(call.status) if is_fault(call) else "",
    }
    if call.method == "gRPC":
        common |= {
            "rpc.system.name": "grpc",
            "rpc.method": call.path.lstrip("/"),
            "rpc.response.status_code": call.status,
        }
    else:
        common |= {
            "http.request.method": call.method,
            "http.route": call.route,
            "url.path": call.path,
            "url.scheme": call.scheme,
            "http.response.status_code": call.status,
        }
    return {name: value for name, value in common.items() if value != ""}


def work_attributes(operation: str, work: Work) -> dict[str, Value]:
    given: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "antipode",
        "gen_ai.request.model": work.model,
        "gen_ai.response.model": work.model,
        "antipode.model_version": work.version,
        "gen_ai.usage.input_tokens": work.num_prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": work.num_cached_tokens,
        "error.type": work.error,
    }
    if operation != "embeddings":
        given |= {f"gen_ai.request.{name}": getattr(work.sampling, name) for name in _SAMPLING}
        given |= {
            "gen_ai.request.choice.count": work.n if work.n != 1 else None,
            "gen_ai.usage.output_tokens": work.num_generated_tokens,
            "gen_ai.response.finish_reasons": work.finish_reasons,
        }
    if work.first_token is not None:
        given["gen_ai.response.time_to_first_chunk"] = work.first_token - work.submitted
    return {name: value for name, value in given.items() if value not in (None, "", ())}
