"""Every setting of an operator, validated once.

A setting has one spelling in four places. The field `max_num_seqs` here is the flag
`--max-num-seqs`, the variable `ANTIPODE_MAX_NUM_SEQS`, the key `max_num_seqs` of the configuration
file, and `maxNumSeqs` in the charts. Knows neither where a value comes from nor models and devices.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

ENVIRONMENT_PREFIX = "ANTIPODE_"


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its source and the allowed values."""


def _field(
    default: Any, description: str, *, low: float | None = None, high: float | None = None
) -> Any:
    """A dataclass field with its help text and, for numbers, its inclusive bounds."""
    metadata = {"description": description, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The settings of the engine process. Token and sequence limits apply to each data rank."""

    model: str = _field(
        "smollm2-135m-instruct",
        "a checkpoint directory, or the name of an embedded model (smollm2-135m-instruct, tiny)",
    )
    model_root: str = _field(
        ".cache/models", "folder that holds models by name, as <name>/<version>"
    )
    model_config: str = _field(
        "",
        "YAML file that names model, version, labels and swap policy; the server watches it for"
        " changes; empty serves --model",
    )
    swap_policy: Literal["availability", "resource"] = _field(
        "resource",
        "availability keeps room for two sets of weights on the device; resource stages the new"
        " weights in host memory, and requests wait during the exchange. The charts set"
        " availability, because their nodes are planned with room for both versions; a lone server"
        " may not have that room",
    )
    swap_timeout_seconds: float = _field(
        60.0, "how long the server waits for running sequences to leave a version", low=0
    )
    swap_host_memory_bytes: int = _field(
        0, "host memory that loading a version may take; 0 allows half of the free memory", low=0
    )
    swap_read_timeout_seconds: float = _field(
        30.0,
        "how long one read of another version may take; the server tries three times and then"
        " gives the version up",
        low=0.1,
    )
    watch_window_seconds: float = _field(
        60.0,
        "how long after a promotion a failure brings back the version before; 0 never does",
        low=0,
    )
    served_model_name: str = _field("", "the name requests use; empty takes it from the path")
    dtype: Literal["auto", "float32", "bfloat16"] = _field(
        "auto", "type of weights and activations; auto is the checkpoint's"
    )
    kv_dtype: Literal["auto", "float32", "bfloat16", "fp8", "int8"] = _field(
        "auto", "type of the KV cache; auto is dtype, on CPU float32"
    )
    weight_dtype: Literal["auto", "int8", "float"] = _field(
        "auto",
        "type of the weight matrices: int8, quantized during loading if need be, or float, which is"
        " dtype; auto is int8 for a checkpoint that is quantized, otherwise float",
    )
    attention_backend: Literal["auto", "tokamax", "pallas", "xla"] = _field(
        "auto", "backend of attention; auto is tokamax on TPU and xla elsewhere"
    )
    max_loras: int = _field(
        0,
        "LoRA adapters that are on the device at once; 0 serves none. More may be loaded: they wait"
        " in host memory for a place on the device",
        low=0,
        high=256,
    )
    max_lora_rank: int = _field(
        16,
        "highest rank of a LoRA adapter; each place on the device has this rank",
        low=1,
        high=512,
    )
    lora_adapters: str = _field(
        "",
        "LoRA adapters to load at the start, comma-separated: NAME (its newest version in the"
        " folder adapters/NAME next to the model's versions), NAME@VERSION, or NAME=PATH",
    )
    max_images_per_prompt: int = _field(
        8,
        "most images of a prompt, for a model that reads images; 0 serves text only, and does not"
        " load what reads images",
        low=0,
        high=1024,
    )
    max_num_seqs: int = _field(32, "sequences that run at once on each data rank", low=1)
    max_model_len: int = _field(
        0, "tokens of prompt and generation together; 0 is the model's own limit", low=0
    )
    max_num_batched_tokens: int = _field(
        0, "token budget per step on each data rank; 0 is 128 on CPU and 2048 elsewhere", low=0
    )
    max_queue_len: int = _field(256, "requests that may wait; further requests are refused", low=1)
    block_size: int = _field(0, "tokens per KV block; 0 is 16 on CPU and 128 elsewhere", low=0)
    num_blocks: int = _field(
        0, "KV blocks of each data rank; 0 takes as many as the bytes of KV cache hold", low=0
    )
    kv_cache_bytes: int = _field(
        0,
        "bytes of KV cache of each data rank; 0 takes what hbm_utilization leaves, and on CPU 1 GiB"
        " for all ranks together",
        low=0,
    )
    kv_context: int = _field(
        0,
        "context length for dividing KV memory between layers that keep the whole context and"
        " layers that keep a window; 0 is max_model_len, at most 8192",
        low=0,
    )
    hbm_utilization: float = _field(
        0.9, "part of the device's memory to use, weights included", low=0.01, high=1
    )
    tensor_parallel_size: int = _field(
        0,
        "chips that share each layer; 0 is the fewest that hold the weights and the KV of"
        " max_num_seqs sequences of kv_context tokens",
        low=0,
    )
    data_parallel_size: int = _field(
        0,
        "data ranks, each with its own copy of the weights, max_num_seqs sequences and KV cache;"
        " 0 is as many as the chips allow",
        low=0,
    )
    slice_accelerator: str = _field(
        "", "generation of TPU to require, such as v6e; the server refuses any other"
    )
    slice_topology: str = _field(
        "", "topology to require, such as 2x2; the server refuses any other"
    )
    slice_chips: int = _field(
        0, "chips to require on all hosts together; the server refuses any other number", low=0
    )
    hosts: str = _field(
        "",
        "the slice's hosts, HOST[:PORT],HOST[:PORT], each with a server of its own; empty takes"
        " them from the pod's controller (TPU_WORKER_HOSTNAMES, or a LeaderWorkerSet's variables)",
    )
    host_index: int = _field(
        -1, "index of this host in hosts, from 0; -1 takes it from the pod's controller", low=-1
    )
    group_port: int = _field(
        9200,
        "port on host 0 that the other hosts connect to; JAX's coordinator uses the next port",
        low=1,
        high=65534,
    )
    group_secret_file: str = _field(
        "",
        "file with the secret by which the hosts prove themselves to each other, the same on every"
        " host; hosts that meet on loopback need none, all others refuse to start without it",
    )
    group_timeout_seconds: float = _field(
        20.0, "if a host is silent for longer than this, the server ends on all hosts", low=1
    )
    group_start_timeout_seconds: float = _field(
        300.0, "how long the hosts wait at start-up until all hosts are there", low=1
    )
    claim_name: str = _field(
        "", "claim that must bring network interfaces; without them the server refuses to start"
    )
    interface_class: str = _field("", "device class of claim_name, such as netdev.google.com")
    chip_claim_name: str = _field(
        "",
        "claim that must bring the TPU chips; empty if the node's device plugin brings them",
    )
    tpu_metrics_interval_seconds: float = _field(
        60.0,
        "time between two reads of the TPU's memory and utilization while serving; 0 never reads."
        " Reading more often than once per minute has crashed v6e nodes",
        low=0,
    )
    prefix_caching: bool = _field(True, "reuse the KV blocks of equal beginnings of prompts")
    prefix_host_bytes: int = _field(
        0,
        "host memory for KV blocks that leave the prefix cache of the device; they come back when a"
        " prompt begins with their tokens. 0 is off. Needs one host and one data rank",
        low=0,
    )
    overlap: bool = _field(True, "dispatch a step before the tokens of the last step are read")
    exact: bool = _field(
        False,
        "compute each token by programs of fixed sizes, so that a request's tokens do not depend on"
        " what else runs, also in bfloat16; slower, and with one data rank only",
    )
    speculation: Literal["off", "prompt_lookup"] = _field(
        "off",
        "prompt_lookup guesses tokens from what followed the same tokens before, and checks several"
        " in one step; faster for text that repeats itself, with the same tokens as without. Needs"
        " one data rank, and exact off",
    )
    num_speculative_tokens: int = _field(
        7, "most tokens that speculation guesses per sequence and step", low=1, high=31
    )
    compile_cache_dir: str = _field(
        ".cache/xla", "folder of the persistent compilation cache; empty turns it off"
    )
    baked_dir: str = _field(
        "",
        "folder of programs that `antipode plan --bake` compiled; loading a program runs code from"
        " this folder, so name only a folder you trust",
    )

    @property
    def most_drafts(self) -> int:
        """Most tokens that are guessed per sequence and step; 0 without speculation."""
        return 0 if self.speculation == "off" else self.num_speculative_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The settings of the main process and API processes. Times are seconds, sizes are bytes."""

    host: str = _field(
        "",
        "address to listen on; empty is every address (0.0.0.0) if callers need a key or a client"
        " certificate, and else only this machine (127.0.0.1)",
    )
    http_port: int = _field(8000, "port of the HTTP API; 0 picks a free one", low=0, high=65535)
    grpc_port: int = _field(9000, "port of the gRPC API; 0 picks a free one", low=0, high=65535)
    admin_host: str = _field("127.0.0.1", "address of the admin ports")
    admin_port: int = _field(
        8001, "port of the admin HTTP API; 0 picks a free one", low=0, high=65535
    )
    admin_grpc_port: int = _field(
        9001, "port of antipode.v1.Versions; 0 picks a free one", low=0, high=65535
    )
    admin_token_file: str = _field(
        "", "file with the token that admin calls must bear; empty closes the admin ports"
    )
    api_keys_file: str = _field(
        "",
        "file of the API keys, one NAME: KEY per line; the server reads it again when it changes."
        " Every route but the probes then needs a key; empty needs none",
    )
    metrics_need_key: bool = _field(
        False, "/metrics needs a key or a client certificate too; endpoint pickers send none"
    )
    tls_cert_file: str = _field(
        "",
        "PEM file with the server's certificate chain, for TLS on all ports; the server reads it"
        " again when it changes; empty serves without TLS",
    )
    tls_key_file: str = _field("", "PEM file with the private key of tls_cert_file")
    tls_client_ca_file: str = _field(
        "",
        "PEM file with the authorities whose certificates clients must have (mTLS); probes over"
        " HTTP answer without one; empty asks for none",
    )
    trust_scheduling_headers: bool = _field(
        True,
        "whether fairness ids, objectives and priorities in the headers of requests count; set"
        " false where callers reach the server without a gateway that sets or removes them",
    )
    objectives: str = _field(
        "",
        "priorities of objectives that requests may name in x-llm-d-inference-objective, such as"
        " interactive=10,batch=-1; below zero may be shed and preempted",
    )
    access_log: bool = _field(
        True, "log a line for each call: path, status, tokens, key's name, never what it said"
    )
    tracing: bool = _field(
        False,
        "send a span for each call and its queue, prefill and decode by OpenTelemetry, as the"
        " OTEL_ variables say; needs the extra otel",
    )
    api_processes: int = _field(1, "API processes that share the ports", low=1, high=256)
    lame_duck_seconds: float = _field(
        0.0, "after SIGTERM, how long the server is not ready but still accepts requests", low=0
    )
    drain_timeout_seconds: float = _field(
        20.0, "after lame_duck_seconds, how long running streams may take to finish", low=0
    )
    hang_timeout_seconds: float = _field(
        30.0,
        "if the engine makes no progress for longer than this, /livez fails; if an API process"
        " hangs for longer, the server ends",
        low=0.5,
    )
    queue_stall_seconds: float = _field(
        0.0,
        "if requests wait for longer than this and none begins, /readyz fails until one does; 0"
        " leaves /readyz alone",
        low=0,
    )
    write_timeout_seconds: float = _field(
        30.0, "if a client reads nothing for longer than this, its stream is cut off", low=0.1
    )
    head_timeout_seconds: float = _field(
        20.0,
        "how long a client of the HTTP ports may take to send a request's headers, from the"
        " connection or from the first byte of a further request",
        low=0.1,
    )
    body_timeout_seconds: float = _field(
        30.0,
        "how long a client may take to send a request's body; every 4096 bytes that come give one"
        " second more",
        low=0.1,
    )
    max_header_bytes: int = _field(64 << 10, "most bytes of a request's HTTP headers", low=1024)
    max_connections: int = _field(
        4096,
        "most HTTP connections of each API process and port, but at most half of its open files;"
        " the connection that has been without a request for longest makes room for a new one; also"
        " most gRPC connections, but at most a quarter of the open files, and further ones are"
        " closed at once",
        low=1,
    )
    cors_origins: str = _field(
        "",
        "web origins whose pages may call the HTTP API from a browser, comma-separated, such as"
        " https://chat.example.org; * is every origin; empty allows none",
    )
    tool_call_parser: Literal[
        "auto", "none", "hermes", "llama3_json", "mistral", "gemma3", "pythonic", "qwen3_coder"
    ] = _field(
        "auto",
        "how the model writes tool calls; auto takes it from the chat template, and none refuses"
        " tools",
    )
    reasoning_parser: Literal["auto", "none", "qwen3", "deepseek_r1", "mistral"] = _field(
        "auto",
        "how the model writes its reasoning, which answers carry as reasoning_content; auto takes"
        " it from the chat template, and none leaves reasoning in the content",
    )
    control_tokens_in_messages: bool = _field(
        False,
        "read control tokens such as <|im_start|> in the text of messages as control tokens; false"
        " keeps them plain text",
    )
    allow_runtime_lora_updating: bool = _field(
        False,
        "serve vLLM's routes /v1/load_lora_adapter and /v1/unload_lora_adapter, by which every"
        " client can have the server read a folder as an adapter; the admin port can do so in any"
        " case",
    )
    load_report_format: Literal["json", "text", "bin", "none"] = _field(
        "json",
        "form of the ORCA load report in the header endpoint-load-metrics of answers; a request may"
        " ask for another by endpoint-load-metrics-format; none sends it only to those",
    )
    load_report_min_interval_seconds: float = _field(
        1.0, "shortest interval of the ORCA load reports that gRPC streams out of band", low=0.1
    )
    max_body_bytes: int = _field(8 << 20, "most bytes of an HTTP body or gRPC message", low=1)
    max_request_sequences: int = _field(64, "most sequences of one request, prompts times n", low=1)
    max_request_tokens: int = _field(
        0,
        "most tokens of one request, prompt and max_tokens of all its sequences; 0 is 16 times the"
        " model's context",
        low=0,
    )
    allowed_image_hosts: str = _field(
        "",
        "hosts from which the server fetches images that requests give by address, comma-separated,"
        " such as images.example.org; exact names, public addresses only; empty fetches none, and"
        " images come in requests",
    )
    max_image_bytes: int = _field(8 << 20, "most bytes of the file of one image", low=1)
    max_request_image_bytes: int = _field(
        24 << 20,
        "most bytes of the files of all images of one request; where the model reads images, HTTP"
        " bodies and gRPC messages may be four thirds of this longer than max_body_bytes",
        low=1,
    )
    max_image_pixels: int = _field(
        1 << 24, "most pixels of an image as it is sent; they take 20 bytes of memory each", low=1
    )
    pooling: Literal["auto", "last", "mean", "cls", "none"] = _field(
        "auto",
        "which hidden states of a text become its embedding: the last token's, the mean, the first"
        " token's (cls); auto is what the checkpoint's sentence-transformers files say, and last"
        " without them; none makes no embeddings",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field("info", "lowest level to log")
    log_format: Literal["text", "json"] = _field("text", "format of the log lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one server."""

    engine: EngineConfig = EngineConfig()
    server: ServerConfig = ServerConfig()


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the configuration: its spellings and its allowed values."""

    section: Literal["engine", "server"]
    key: str
    type: Any
    default: Any
    description: str
    low: float | None
    high: float | None

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def choices(self) -> tuple[Any, ...]:
        return typing.get_args(self.type)

    @property
    def allowed(self) -> str:
        """The allowed values, as the end of the sentence "it must be ..."."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
        return kind[self.type] + self._range

    @property
    def _range(self) -> str:
        if self.low is None:
            return ""
        if self.high is None:
            return f" of at least {self.low}"
        return f" from {self.low} to {self.high}"

    def parse(self, raw: object, source: str) -> Any:
        """Turn text, or a value of the file, into the field's type. Raises ConfigError."""
        try:
            value = msgspec.convert(raw, self.type, strict=not isinstance(raw, str))
        except msgspec.ValidationError:
            value = None
        if value is None or not self._is_in_range(value):
            raise ConfigError(f"{source} is {raw!r}; it must be {self.allowed}")
        return value

    def _is_in_range(self, value: Any) -> bool:
        if self.type not in (int, float):
            return True
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return bool(math.isfinite(value) and low <= value <= high)


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the dataclasses."""
    sections: list[tuple[Literal["engine", "server"], type]] = [
        ("engine", EngineConfig),
        ("server", ServerConfig),
    ]
    for section, cls in sections:
        types = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            yield Setting(section, field.name, types[field.name], field.default, **field.metadata)
