"""The settings of the engine process: model, versions, memory, parallelism, slice, hosts, steps.

Each field has its default, its help text and its bounds here, and nowhere else. Knows neither
where a value comes from nor models and devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from server.config.setting import field


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The settings of the engine process. Token and sequence limits apply to each data rank."""

    model: str = field(
        "smollm2-135m-instruct",
        "a checkpoint directory, or the name of an embedded model (smollm2-135m-instruct, tiny)",
    )
    model_root: str = field(
        ".cache/models", "folder that holds models by name, as <name>/<version>"
    )
    model_config: str = field(
        "",
        "YAML file that names model, version, labels and swap policy; the server watches it for"
        " changes; empty serves --model",
    )
    swap_policy: Literal["availability", "resource"] = field(
        "resource",
        "availability keeps room for two sets of weights on the device; resource stages the new"
        " weights in host memory, and requests wait during the exchange. The charts set"
        " availability, because their nodes are planned with room for both versions; a lone server"
        " may not have that room",
    )
    swap_timeout_seconds: float = field(
        60.0, "how long the server waits for running sequences to leave a version", low=0
    )
    swap_host_memory_bytes: int = field(
        0, "host memory that loading a version may take; 0 allows half of the free memory", low=0
    )
    swap_read_timeout_seconds: float = field(
        30.0,
        "how long one read of another version may take; the server tries three times and then"
        " gives the version up",
        low=0.1,
    )
    watch_window_seconds: float = field(
        60.0,
        "how long after a promotion a failure brings back the version before; 0 never does",
        low=0,
    )
    served_model_name: str = field("", "the name requests use; empty takes it from the path")
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto",
        "type of weights and activations; auto is the checkpoint's, on TPU bfloat16 for float16",
    )
    kv_dtype: Literal["auto", "float32", "bfloat16", "fp8", "int8"] = field(
        "auto", "type of the KV cache; auto is dtype, on CPU float32"
    )
    weight_dtype: Literal["auto", "int8", "float"] = field(
        "auto",
        "type of the weight matrices: int8, quantized during loading if need be, or float, which is"
        " dtype; auto is int8 for a checkpoint that is quantized, otherwise float",
    )
    attention_backend: Literal["auto", "tokamax", "pallas", "xla"] = field(
        "auto", "backend of attention; auto is tokamax on TPU and xla elsewhere"
    )
    cpu_kernels: Literal["auto", "off"] = field(
        "auto",
        "kernels in C++ for decode steps on CPU; auto takes those that `make cpu-kernels` compiled,"
        " off leaves all to XLA",
    )
    max_loras: int = field(
        0,
        "LoRA adapters that are on the device at once; 0 serves none. More may be loaded: they wait"
        " in host memory for a place on the device",
        low=0,
        high=256,
    )
    max_lora_rank: int = field(
        16,
        "highest rank of a LoRA adapter; each place on the device has this rank",
        low=1,
        high=512,
    )
    lora_adapters: str = field(
        "",
        "LoRA adapters to load at the start, comma-separated: NAME (its newest version in the"
        " folder adapters/NAME next to the model's versions), NAME@VERSION, or NAME=PATH",
    )
    max_images_per_prompt: int = field(
        8,
        "most images of a prompt, for a model that reads images; 0 serves text only, and does not"
        " load what reads images",
        low=0,
        high=1024,
    )
    max_num_seqs: int = field(32, "sequences that run at once on each data rank", low=1)
    max_model_len: int = field(
        0,
        "tokens of prompt and generation together; 0 is the model's own limit, and more is refused",
        low=0,
    )
    max_num_batched_tokens: int = field(
        0, "token budget per step on each data rank; 0 is 128 on CPU and 2048 elsewhere", low=0
    )
    max_queue_len: int = field(256, "requests that may wait; further requests are refused", low=1)
    block_size: int = field(0, "tokens per KV block; 0 is 64 on CPU and 128 elsewhere", low=0)
    num_blocks: int = field(
        0, "KV blocks of each data rank; 0 takes as many as the bytes of KV cache hold", low=0
    )
    kv_cache_bytes: int = field(
        0,
        "bytes of KV cache of each data rank; 0 takes what hbm_utilization leaves, and on CPU 1 GiB"
        " for all ranks together",
        low=0,
    )
    kv_context: int = field(
        0,
        "context length for dividing KV memory between layers that keep the whole context and"
        " layers that keep a window; 0 is max_model_len, at most 8192",
        low=0,
    )
    hbm_utilization: float = field(
        0.9, "part of the device's memory to use, weights included", low=0.01, high=1
    )
    tensor_parallel_size: int = field(
        0,
        "chips that share each layer; 0 is the fewest that hold the weights and the KV of"
        " max_num_seqs sequences of kv_context tokens",
        low=0,
    )
    data_parallel_size: int = field(
        0,
        "data ranks, each with its own copy of the weights, max_num_seqs sequences and KV cache;"
        " 0 is as many as the chips allow",
        low=0,
    )
    slice_accelerator: str = field(
        "", "generation of TPU to require, such as v6e; the server refuses any other"
    )
    slice_topology: str = field(
        "", "topology to require, such as 2x2; the server refuses any other"
    )
    slice_chips: int = field(
        0, "chips to require on all hosts together; the server refuses any other number", low=0
    )
    hosts: str = field(
        "",
        "the slice's hosts, HOST[:PORT],HOST[:PORT], each with a server of its own; empty takes"
        " them from the pod's controller (TPU_WORKER_HOSTNAMES, or a LeaderWorkerSet's variables)",
    )
    host_index: int = field(
        -1, "index of this host in hosts, from 0; -1 takes it from the pod's controller", low=-1
    )
    group_port: int = field(
        9200,
        "port on host 0 that the other hosts connect to; JAX's coordinator uses the next port",
        low=1,
        high=65534,
    )
    group_secret_file: str = field(
        "",
        "file with the secret by which the hosts prove themselves to each other, the same on every"
        " host; hosts that meet on loopback need none, all others refuse to start without it",
    )
    group_timeout_seconds: float = field(
        20.0, "if a host is silent for longer than this, the server ends on all hosts", low=1
    )
    group_start_timeout_seconds: float = field(
        300.0, "how long the hosts wait at start-up until all hosts are there", low=1
    )
    claim_name: str = field(
        "", "claim that must bring network interfaces; without them the server refuses to start"
    )
    interface_class: str = field("", "device class of claim_name, such as netdev.google.com")
    chip_claim_name: str = field(
        "",
        "claim that must bring the TPU chips; empty if the node's device plugin brings them",
    )
    tpu_metrics_interval_seconds: float = field(
        60.0,
        "time between two reads of the TPU's memory and utilization while serving; 0 never reads."
        " Reading more often than once per minute has crashed v6e nodes",
        low=0,
    )
    prefix_caching: bool = field(True, "reuse the KV blocks of equal beginnings of prompts")
    prefix_host_bytes: int = field(
        0,
        "host memory for KV blocks that leave the prefix cache of the device; they come back when a"
        " prompt begins with their tokens. 0 is off. Needs one host and one data rank",
        low=0,
    )
    overlap: bool = field(True, "dispatch a step before the tokens of the last step are read")
    exact: bool = field(
        False,
        "compute each token by programs of fixed sizes, so that a request's tokens do not depend on"
        " what else runs, also in bfloat16; slower, and with one data rank only",
    )
    speculation: Literal["off", "prompt_lookup"] = field(
        "off",
        "prompt_lookup guesses tokens from what followed the same tokens before, and checks several"
        " in one step; faster for text that repeats itself, with the same tokens as without. Needs"
        " one data rank, and exact off",
    )
    num_speculative_tokens: int = field(
        7, "most tokens that speculation guesses per sequence and step", low=1, high=31
    )
    compile_cache_dir: str = field(
        ".cache/xla", "folder of the persistent compilation cache; empty turns it off"
    )
    compiler_options: str = field(
        "",
        "options of XLA's compiler for TPUs, comma-separated: KIND:OPTION=VALUE, where KIND is"
        " decode, prefill or other; KIND: alone gives a kind none. A kind that is not named gets"
        " what was measured for the model or the chip; `antipode plan --tune` finds values",
    )
    baked_dir: str = field(
        "",
        "folder of programs that `antipode plan --bake` compiled; loading a program runs code from"
        " this folder, so name only a folder you trust",
    )

    @property
    def most_drafts(self) -> int:
        """Most tokens that are guessed per sequence and step; 0 without speculation."""
        return 0 if self.speculation == "off" else self.num_speculative_tokens
