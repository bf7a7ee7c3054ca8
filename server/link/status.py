"""How the engine process is doing, as a pulse tells it: its versions, its adapters and its load.

Plain values, which several frames and readers share. Knows neither how they are measured nor who
shows them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# In their only order; the words are TensorFlow Serving's.
VersionState = Literal["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of the model, as it is now.

    `path` is where it came from, `progress` how far it is loaded, 0 to 1. `message` says what is
    being done, or why the version ended. `labels` are the names requests may call it by.
    """

    version: str
    path: str
    state: VersionState
    is_serving: bool = False
    labels: tuple[str, ...] = ()
    progress: float = 0.0
    message: str = ""


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One loaded adapter, as it is now.

    AVAILABLE: requests may name it. UNLOADING: requests still run with it. `version` is "" where
    its folder has none. `num_bytes` is the host memory that it takes.
    """

    name: str
    version: str
    path: str
    state: VersionState
    rank: int = 0
    num_bytes: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts since the start, of all API processes.

    Succeeded requests ended by stop or length. Failed ones ended by the server's fault or refusal;
    those that their client ended are neither. `queue_seconds` is of the admitted, `busy_seconds` of
    the steps. `last_end` is when a request last succeeded, in seconds since the epoch.
    """

    num_succeeded: int = 0
    succeeded_seconds: float = 0.0
    num_failed: int = 0
    failed_seconds: float = 0.0
    num_admitted: int = 0
    queue_seconds: float = 0.0
    num_steps: int = 0
    busy_seconds: float = 0.0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    last_end: float = 0.0


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How busy the engine is.

    `num_slots` sequences may run at once, and `max_queue_len` requests may wait. `kv_cache_usage`,
    `device_busy`, `duty_cycle` (of the busiest chip) and `hbm_usage` (of the fullest device) are 0
    to 1; the last two are None where the platform does not report them. Rates are of the last
    seconds; `requests_per_second` counts requests that ended, refused ones included. `mean_wanted`
    is the mean of sequences running and requests waiting over the same seconds.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_slots: int = 0
    max_queue_len: int = 0
    kv_cache_usage: float = 0.0
    max_kv_tokens: int = 0
    device_busy: float = 0.0
    duty_cycle: float | None = None
    hbm_usage: float | None = None
    requests_per_second: float = 0.0
    errors_per_second: float = 0.0
    tokens_per_second: float = 0.0
    mean_wanted: float = 0.0
    totals: Totals = Totals()
