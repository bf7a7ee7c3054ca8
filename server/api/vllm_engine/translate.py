"""Between the messages of VllmEngine and the service's own types; pure functions.

Several fields have no presence: their zero stands for unset. What is refused is what would change
the answer and cannot be honoured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from server.api.load_reports import application_utilization
from server.api.requests.embedding import Embeddings, Vector
from server.api.requests.generation import Delta, Sampling, TokenLogprob
from server.api.requests.validation import invalid
from server.api.streams.generation import Generation
from server.link.frames import EngineInfo
from server.link.sampling import Grammar, GrammarKind
from server.link.status import EngineLoad
from server.pb.vllm.grpc import vllm_engine_pb2 as pb

SERVER_TYPE = "antipode-grpc"
_GRAMMARS: Mapping[str, GrammarKind] = {
    "json_schema": "json_schema",
    "regex": "regex",
    "grammar": "lark",
    "structural_tag": "structural_tag",
}


def prompt(message: pb.GenerateRequest | pb.EmbedRequest) -> str | tuple[int, ...]:
    """The text or the tokens of a request; ApiError without either."""
    if message.HasField("tokenized"):
        return tuple(message.tokenized.input_ids)
    if isinstance(message, pb.GenerateRequest) and message.HasField("text"):
        return message.text
    raise invalid("the request has no input", "input")


def check_supported(message: pb.GenerateRequest) -> None:
    """Refuse what would be ignored to the client's surprise."""
    if message.kv_transfer_params_json not in ("", "{}", "null"):
        raise invalid("this server moves no KV cache between replicas", "kv_transfer_params_json")
    if message.HasField("data_parallel_rank"):
        raise invalid("this server chooses the data rank itself", "data_parallel_rank")
    if message.sampling_params.HasField("truncate_prompt_tokens"):
        raise invalid("shorten the prompt yourself", "truncate_prompt_tokens")


def sampling(message: pb.SamplingParams) -> Sampling:
    """The options, with zeros that stand for unset left to the defaults."""
    return Sampling(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p or None,
        top_k=message.top_k,
        min_p=message.min_p,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        repetition_penalty=message.repetition_penalty or None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        min_tokens=message.min_tokens,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        skip_special_tokens=message.skip_special_tokens,
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        prompt_logprobs=message.prompt_logprobs if message.HasField("prompt_logprobs") else None,
        seed=message.seed if message.HasField("seed") else None,
        include_stop_str_in_output=message.include_stop_str_in_output,
        logit_bias=dict(message.logit_bias),
        grammar=_grammar(message),
    )


def chunk(generation: Generation, delta: Delta, *, is_first: bool) -> pb.GenerateResponse:
    """A part of one choice."""
    usage = generation.usage
    return pb.GenerateResponse(
        chunk=pb.GenerateStreamChunk(
            token_ids=delta.token_ids,
            prompt_tokens=usage.num_prompt_tokens,
            completion_tokens=len(delta.token_ids),
            cached_tokens=usage.num_cached_tokens,
            output_logprobs=_output_logprobs(delta.logprobs),
            input_logprobs=_input_logprobs(generation) if is_first else None,
            index=delta.index,
        )
    )


def complete(
    generation: Generation, parts: Sequence[Delta], *, has_chunks: bool
) -> pb.GenerateResponse:
    """All of one choice that has ended. The log probabilities are in its chunks, if it has any."""
    usage, end = generation.usage, parts[-1]
    token_ids = [token_id for part in parts for token_id in part.token_ids]
    logprobs = [entry for part in parts for entry in part.logprobs or ()]
    wants_logprobs = end.logprobs is not None and not has_chunks
    message = pb.GenerateComplete(
        output_ids=token_ids,
        finish_reason=end.finish_reason or "",
        prompt_tokens=usage.num_prompt_tokens,
        completion_tokens=len(token_ids),
        cached_tokens=usage.num_cached_tokens,
        output_logprobs=_output_logprobs(logprobs if wants_logprobs else None),
        input_logprobs=None if has_chunks else _input_logprobs(generation),
        index=end.index,
    )
    match end.stop_reason:
        case str(text):
            message.matched_stop_str = text
        case int(token_id):
            message.matched_token_id = token_id
    return pb.GenerateResponse(complete=message)


def embedding(found: Embeddings[Vector]) -> pb.EmbedResponse:
    [vector] = found.vectors
    return pb.EmbedResponse(
        embedding=vector.tolist(),
        prompt_tokens=found.num_prompt_tokens,
        embedding_dim=len(vector),
    )


def model_info(info: EngineInfo, *, generates: bool) -> pb.GetModelInfoResponse:
    return pb.GetModelInfoResponse(
        model_path=info.model,
        is_generation=generates,
        max_context_length=info.max_model_len,
        vocab_size=info.vocab_size,
        served_model_name=info.model,
        eos_token_ids=info.eos_token_ids,
    )


def server_info(load: EngineLoad, uptime_seconds: float) -> pb.GetServerInfoResponse:
    return pb.GetServerInfoResponse(
        active_requests=load.num_running + load.num_waiting,
        uptime_seconds=uptime_seconds,
        server_type=SERVER_TYPE,
        max_num_seqs=load.num_slots,
    )


def loads(load: EngineLoad) -> pb.GetLoadsResponse:
    totals = load.totals
    entry = pb.SchedulerLoad(
        num_running_reqs=load.num_running,
        num_waiting_reqs=load.num_waiting,
        num_total_reqs=load.num_running + load.num_waiting,
        num_used_tokens=round(load.kv_cache_usage * load.max_kv_tokens),
        max_total_num_tokens=load.max_kv_tokens,
        token_usage=load.kv_cache_usage,
        gen_throughput=load.tokens_per_second,
        cache_hit_rate=totals.num_cached_tokens / max(1, totals.num_prompt_tokens),
        utilization=application_utilization(load),
        max_running_requests=load.num_slots,
    )
    return pb.GetLoadsResponse(
        timestamp=datetime.now(UTC).isoformat(),
        version=version("antipode-server"),
        dp_rank_count=1,
        loads=[entry],
    )


def _grammar(message: pb.SamplingParams) -> Grammar | None:
    match message.WhichOneof("constraint"):
        case None:
            return None
        case "json_object":
            return Grammar("json_object", "") if message.json_object else None
        case "choice":
            return Grammar("choice", json.dumps(list(message.choice.choices)))
        case kind:
            return Grammar(_GRAMMARS[kind], getattr(message, kind))


def _output_logprobs(entries: Sequence[TokenLogprob] | None) -> pb.OutputLogProbs | None:
    if entries is None:
        return None
    return pb.OutputLogProbs(
        token_logprobs=[entry.logprob for entry in entries],
        token_ids=[entry.token_id for entry in entries],
        top_logprobs=[_top(entry.top) for entry in entries],
    )


def _input_logprobs(generation: Generation) -> pb.InputLogProbs | None:
    """None unless asked for. The first token of a prompt has no log probability."""
    entries = generation.prompt_logprobs
    if entries is None:
        return None
    return pb.InputLogProbs(
        token_logprobs=[
            pb.InputTokenLogProb(value=None if entry is None else entry.logprob)
            for entry in entries
        ],
        token_ids=generation.prompt_token_ids,
        top_logprobs=[_top(() if entry is None else entry.top) for entry in entries],
    )


def _top(entries: Iterable[TokenLogprob]) -> pb.TopLogProbs:
    candidates = list(entries)
    return pb.TopLogProbs(
        values=[each.logprob for each in candidates],
        token_ids=[each.token_id for each in candidates],
    )
