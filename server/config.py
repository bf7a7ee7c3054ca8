"""Everything an operator can set, validated once.

One spelling in four places: a field `max_num_seqs` here is the flag `--max-num-seqs`, the variable
`ANTIPODE_MAX_NUM_SEQS`, the key `max_num_seqs` of the configuration file, and `maxNumSeqs` in the
charts. A flag beats a variable, a variable beats the file. This module reads no model and no
device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine process needs. Token and sequence limits count whole-server, not per chip.

    `dtype` auto is the checkpoint's; `kv_dtype` auto is `dtype`, but float32 on CPU.
    `kv_cache_bytes` 0 sizes the pool from `hbm_utilization` of what the device has free (on CPU:
    1 GiB). `num_blocks` 0 derives it from those bytes. `compile_cache_dir` empty turns the
    persistent compilation cache off. `overlap` off is the plain loop, for debugging.
    """

    model: str = "smollm2-135m-instruct"
    model_root: str = "models"
    served_model_name: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_num_seqs: int = 32
    max_model_len: int = 0
    max_num_batched_tokens: int = 512
    max_queue_len: int = 256
    block_size: int = 16
    num_blocks: int = 0
    kv_cache_bytes: int = 0
    hbm_utilization: float = 0.9
    tensor_parallel_size: int = 0
    prefix_caching: bool = True
    overlap: bool = True
    compile_cache_dir: str = ".cache/xla"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What the main and API processes need.

    `lame_duck_seconds`: after SIGTERM, not ready but still accepting. `drain_timeout_seconds`: then
    running streams may finish for this long. `hang_timeout_seconds`: a step loop that has not come
    round for this long makes /livez red. `max_body_bytes` bounds an HTTP body and a gRPC message.
    """

    host: str = "0.0.0.0"
    http_port: int = 8000
    grpc_port: int = 9000
    api_processes: int = 1
    lame_duck_seconds: float = 0.0
    drain_timeout_seconds: float = 20.0
    hang_timeout_seconds: float = 30.0
    write_timeout_seconds: float = 30.0
    max_body_bytes: int = 64 << 20
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
