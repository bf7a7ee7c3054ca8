"""The settings of the main process and the API processes: ports, access, bounds, times, formats.

Each field has its default, its help text and its bounds here, and nowhere else. Knows neither
where a value comes from nor models and devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.config.setting import field


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The settings of the main process and API processes. Times are seconds, sizes are bytes."""

    host: str = field(
        "",
        "address to listen on; empty is every address (0.0.0.0) if callers need a key or a client"
        " certificate, and else only this machine (127.0.0.1)",
    )
    http_port: int = field(8000, "port of the HTTP API; 0 picks a free one", low=0, high=65535)
    grpc_port: int = field(9000, "port of the gRPC API; 0 picks a free one", low=0, high=65535)
    admin_host: str = field("127.0.0.1", "address of the admin ports")
    admin_port: int = field(
        8001, "port of the admin HTTP API; 0 picks a free one", low=0, high=65535
    )
    admin_grpc_port: int = field(
        9001, "port of antipode.v1.Versions; 0 picks a free one", low=0, high=65535
    )
    admin_token_file: str = field(
        "", "file with the token that admin calls must bear; empty closes the admin ports"
    )
    api_keys_file: str = field(
        "",
        "file of the API keys, one NAME: KEY per line; the server reads it again when it changes."
        " Every route but the probes then needs a key; empty needs none",
    )
    metrics_need_key: bool = field(
        False, "/metrics needs a key or a client certificate too; endpoint pickers send none"
    )
    tls_cert_file: str = field(
        "",
        "PEM file with the server's certificate chain, for TLS on all ports; the server reads it"
        " again when it changes; empty serves without TLS",
    )
    tls_key_file: str = field("", "PEM file with the private key of tls_cert_file")
    tls_client_ca_file: str = field(
        "",
        "PEM file with the authorities whose certificates clients must have (mTLS); probes over"
        " HTTP answer without one; empty asks for none",
    )
    trust_scheduling_headers: bool = field(
        True,
        "whether fairness ids, objectives and priorities in the headers of requests count; set"
        " false where callers reach the server without a gateway that sets or removes them",
    )
    objectives: str = field(
        "",
        "priorities of objectives that requests may name in x-llm-d-inference-objective, such as"
        " interactive=10,batch=-1; below zero may be shed and preempted",
    )
    access_log: bool = field(
        True, "log a line for each call: path, status, tokens, key's name, never what it said"
    )
    tracing: bool = field(
        False,
        "send a span for each call and its queue, prefill and decode by OpenTelemetry, as the"
        " OTEL_ variables say; needs the extra otel",
    )
    api_processes: int = field(1, "API processes that share the ports", low=1, high=256)
    lame_duck_seconds: float = field(
        0.0, "after SIGTERM, how long the server is not ready but still accepts requests", low=0
    )
    drain_timeout_seconds: float = field(
        20.0, "after lame_duck_seconds, how long running streams may take to finish", low=0
    )
    hang_timeout_seconds: float = field(
        30.0,
        "if the engine makes no progress for longer than this, /livez fails; if an API process"
        " hangs for longer, the server ends",
        low=0.5,
    )
    queue_stall_seconds: float = field(
        0.0,
        "if requests wait for longer than this and none begins, /readyz fails until one does; 0"
        " leaves /readyz alone",
        low=0,
    )
    write_timeout_seconds: float = field(
        30.0, "if a client reads nothing for longer than this, its stream is cut off", low=0.1
    )
    head_timeout_seconds: float = field(
        20.0,
        "how long a client of the HTTP ports may take to send a request's headers, from the"
        " connection or from the first byte of a further request",
        low=0.1,
    )
    body_timeout_seconds: float = field(
        30.0,
        "how long a client may take to send a request's body; every 4096 bytes that come give one"
        " second more",
        low=0.1,
    )
    max_header_bytes: int = field(64 << 10, "most bytes of a request's HTTP headers", low=1024)
    max_connections: int = field(
        4096,
        "most HTTP connections of each API process and port, but at most half of its open files;"
        " the connection that has been without a request for longest makes room for a new one; also"
        " most gRPC connections, but at most a quarter of the open files, and further ones are"
        " closed at once",
        low=1,
    )
    cors_origins: str = field(
        "",
        "web origins whose pages may call the HTTP API from a browser, comma-separated, such as"
        " https://chat.example.org; * is every origin; empty allows none",
    )
    tool_call_parser: Literal[
        "auto",
        "none",
        "hermes",
        "llama3_json",
        "mistral",
        "gemma3",
        "gemma4",
        "pythonic",
        "qwen3_coder",
    ] = field(
        "auto",
        "how the model writes tool calls; auto takes it from the chat template, and none refuses"
        " tools",
    )
    reasoning_parser: Literal["auto", "none", "qwen3", "deepseek_r1", "mistral", "gemma4"] = field(
        "auto",
        "how the model writes its reasoning, which answers carry as reasoning_content; auto takes"
        " it from the chat template, and none leaves reasoning in the content",
    )
    control_tokens_in_messages: bool = field(
        False,
        "read control tokens such as <|im_start|> in the text of messages as control tokens; false"
        " keeps them plain text",
    )
    generation_config: Literal["auto", "none"] = field(
        "auto",
        "what a request gets that leaves out temperature, top_p, top_k, min_p or"
        " repetition_penalty: auto is what the checkpoint's generation_config.json says, as in"
        " vLLM; none is the protocol's default for every model",
    )
    allow_runtime_lora_updating: bool = field(
        False,
        "serve vLLM's routes /v1/load_lora_adapter and /v1/unload_lora_adapter, by which every"
        " client can have the server read a folder as an adapter; the admin port can do so in any"
        " case",
    )
    load_report_format: Literal["json", "text", "bin", "none"] = field(
        "json",
        "form of the ORCA load report in the header endpoint-load-metrics of answers; a request may"
        " ask for another by endpoint-load-metrics-format; none sends it only to those",
    )
    load_report_min_interval_seconds: float = field(
        1.0, "shortest interval of the ORCA load reports that gRPC streams out of band", low=0.1
    )
    max_body_bytes: int = field(8 << 20, "most bytes of an HTTP body or gRPC message", low=1)
    max_request_sequences: int = field(64, "most sequences of one request, prompts times n", low=1)
    max_request_tokens: int = field(
        0,
        "most tokens of one request, prompt and max_tokens of all its sequences; 0 is 16 times the"
        " model's context",
        low=0,
    )
    allowed_image_hosts: str = field(
        "",
        "hosts from which the server fetches images that requests give by address, comma-separated,"
        " such as images.example.org; exact names, public addresses only; empty fetches none, and"
        " images come in requests",
    )
    max_image_bytes: int = field(8 << 20, "most bytes of the file of one image", low=1)
    max_request_image_bytes: int = field(
        24 << 20,
        "most bytes of the files of all images of one request; where the model reads images, HTTP"
        " bodies and gRPC messages may be four thirds of this longer than max_body_bytes",
        low=1,
    )
    max_image_pixels: int = field(
        1 << 24, "most pixels of an image as it is sent; they take 20 bytes of memory each", low=1
    )
    pooling: Literal["auto", "last", "mean", "cls", "none"] = field(
        "auto",
        "which hidden states of a text become its embedding: the last token's, the mean, the first"
        " token's (cls); auto is what the checkpoint's sentence-transformers files say, and last"
        " without them; none makes no embeddings",
    )
    log_level: Literal["debug", "info", "warning", "error"] = field("info", "lowest level to log")
    log_format: Literal["text", "json"] = field("text", "format of the log lines")
