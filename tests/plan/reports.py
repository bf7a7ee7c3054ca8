"""Reports made up for tests that need no compiler."""

from __future__ import annotations

from server.plan.report import (
    Decode,
    HbmBytes,
    MeshSize,
    Prefill,
    ProgramReport,
    Report,
    Software,
)

POOL_BYTES = 4_000_000_000


def program(bucket="decode-64", **changes):
    kind = "decode" if bucket.startswith("decode") else "prefill"
    fields = {
        "kind": kind,
        "bucket": bucket,
        "tokens": 64 if kind == "decode" else 2048,
        "rows": 64,
        "compile_s": 12.34,
        "temp_bytes": 6_500_000,
        "alias_bytes": POOL_BYTES + 10_000_000,
        "pool_alias_bytes": POOL_BYTES,
        "total_bytes": 8_300_000_000,
        "cycles": 6_000_000,
        "conditional_cycles": 1_000_000,
        "pallas_calls": 33,
        "collectives": 68,
        "collective_bytes": 51_000_000,
        "prefetch_bytes": 44_000_000,
        "unknown_loops": 0,
        "program_hash": "ab" * 32,
    }
    return ProgramReport(**fields | changes)


def report(**changes):
    step = {
        "context": 2048,
        "predicted_ms": 6.152,
        "roofline_ms": 4.907,
        "roofline_fraction": 0.7976,
        "attention_ms": 2.619,
        "conditional_ms": 0.911,
    }
    fields = {
        "model": "llama",
        "slice": "v6e:2x2",
        "devices": 4,
        "devices_per_chip": 1,
        "hosts": 1,
        "mesh": MeshSize(data=1, tensor=4),
        "weight_dtype": "auto",
        "kv_dtype": "auto",
        "max_num_seqs": 64,
        "context": 2048,
        "fits": True,
        "two_versions_fit": True,
        "hbm_bytes_per_chip": HbmBytes(
            weights=4_016_000_000,
            kv=POOL_BYTES,
            sampler=10_600_000,
            temp=6_500_000,
            total=8_300_000_000,
            limit=33_543_700_000,
        ),
        "kv_tokens": 130_944,
        "concurrent_sequences": 63,
        "concurrent_sequences_of_two": 40,
        "decode": Decode(batch=63, tokens_per_s_per_chip=2601.3, **step),
        "prefill": Prefill(tokens=2048, tokens_per_s_per_chip=35304.4, **step),
        "programs": [program(), program("mixed-2048x64")],
        "leaves_out": ["host and dispatch time"],
        "serve_flags": ["--model", "llama", "--max-num-seqs", "64"],
        "software": Software(jax="0.12", jaxlib="0.12", libtpu="0.0.50"),
    }
    return Report(**fields | changes)
