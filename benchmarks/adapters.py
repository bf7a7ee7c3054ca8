"""Times a decode step's layers with adapters against the same layers without, turn by turn.

    python -m benchmarks.adapters --hidden 4096 --mlp 14336 --rows 32 --adapters 8 --rank 16

One layer of random weights in float32, without embedding, head and sampler: what adapters add does
not depend on these. The result is the median of the ratios of neighbouring runs, so that other
load on the machine counts on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from models.attention.base import Ragged
from models.attention.xla import XlaAttention
from models.config import ModelConfig, RopeConfig
from models.decoder.adapters import of_layers
from models.decoder.decoder import pool_shapes
from models.decoder.layout import AdapterSizes, DecoderLayout
from models.sharding import make_mesh
from models.weights.loading import abstract_decoder, leaf_shardings, random_leaves
from server.engine.programs.adapter_programs import choose

_F32 = jnp.dtype(jnp.float32)
_HEAD_DIM, _BLOCK_SIZE = 128, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("hidden", 4096), ("mlp", 14336), ("rows", 32), ("adapters", 8), ("rank", 16), ("runs", 20),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    config = _config(chosen.hidden, chosen.mlp)
    plain = _runner(config, None, chosen.rows)
    adapted = _runner(config, AdapterSizes(chosen.adapters, chosen.rank), chosen.rows)
    pairs = [(_seconds(plain), _seconds(adapted)) for _ in range(chosen.runs)]
    without, with_adapters = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"without: {without * 1e3:.1f} ms, with: {with_adapters * 1e3:.1f} ms, ratio {ratio:.3f}")


def _config(hidden: int, mlp: int) -> ModelConfig:
    heads = hidden // _HEAD_DIM
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=256,
        hidden_size=hidden,
        num_layers=1,
        num_heads=heads,
        num_kv_heads=max(1, heads // 4),
        head_dim=_HEAD_DIM,
        mlp_size=mlp,
        max_position=2048,
        rms_norm_eps=1e-5,
        rope=RopeConfig(theta=10_000.0),
        local_rope=RopeConfig(theta=10_000.0),
        tie_embeddings=True,
        dtype="float32",
        eos_token_ids=(0,),
        layer_windows=(None,),
        attention_scale=_HEAD_DIM**-0.5,
    )


def _runner(config: ModelConfig, sizes: AdapterSizes | None, rows: int) -> Callable[[], Any]:
    """A compiled decode step of `rows` rows, which take the adapters in turn."""
    layout = DecoderLayout(
        tensor_size=1,
        stacked=False,
        dtype=_F32,
        activation_dtype=_F32,
        kv_dtype=_F32,
        backend=XlaAttention(),
        adapters=sizes,
    )
    mesh = make_mesh(config, 1, jax.devices()[:1])
    model = abstract_decoder(config, layout)
    graphdef, state = nnx.split(model)
    treedef = jax.tree.structure(state)
    leaves = random_leaves(config, layout, mesh)
    rng = np.random.default_rng(0)
    adapters = of_layers(
        config, layout, lambda shape, _: jnp.asarray(rng.standard_normal(shape), _F32)
    )
    number_T = np.arange(rows, dtype=np.int32) % (sizes.num_slots if sizes else 1) + 1
    shapes = pool_shapes(config, layout, (rows + 1,), _BLOCK_SIZE)
    abstract = tuple(layout.backend.abstract_pool(shape) for shape in shapes)
    pools = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)

    def step(leaves: Any, pools: Any, adapters: Any) -> jax.Array:
        decoder = nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))
        chosen = choose(adapters, jnp.asarray(number_T), sizes) if sizes else None
        tokens = jnp.arange(rows, dtype=jnp.int32)
        ragged = _one_token_each(rows)
        hidden, _ = decoder(tokens, pools, ragged, row_tokens=1, adapters=chosen)
        return jnp.sum(hidden)

    specs = [sharding.spec for sharding in leaf_shardings(model, mesh)]
    everywhere = PartitionSpec()
    mapped = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(specs, everywhere, everywhere),
            out_specs=everywhere,
            check_vma=False,
        )
    )
    run = lambda: mapped(leaves, pools, adapters).block_until_ready()  # noqa: E731
    run()
    return run


def _one_token_each(rows: int) -> Ragged:
    return Ragged(
        positions_T=jnp.full(rows, 7, jnp.int32),
        row_T=jnp.arange(rows, dtype=jnp.int32),
        is_padding_T=jnp.zeros(rows, jnp.bool_),
        block_tables_KSB=1 + jnp.arange(rows, dtype=jnp.int32).reshape(1, rows, 1),
        seq_lens_S=jnp.full(rows, 8, jnp.int32),
        query_start_S1=jnp.arange(rows + 1, dtype=jnp.int32),
        num_decodes=jnp.int32(rows),
        num_rows=jnp.int32(rows),
    )


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
