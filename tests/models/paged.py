"""A decoder over a paged pool of its own, driven by lists of tokens: no engine, no sampler."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from numpy.typing import NDArray

from models.attention.base import Ragged, StateSlots
from models.attention.xla import XlaAttention
from models.calibration import calibrate
from models.checkpoint.checkpoint import Checkpoint
from models.checkpoint.files import LocalFiles
from models.decoder.adapters import of_layers, put_adapter
from models.decoder.decoder import pool_shapes
from models.decoder.layout import DecoderLayout
from models.decoder.state_pool import abstract_states
from models.huggingface.config_file import read_config
from models.lora.slot_values import read_adapter
from models.sharding import TENSOR, make_mesh
from models.vision.pixel_input import packed_pixels
from models.vision.step_images import StepImages
from models.weights.loading import abstract_decoder, leaf_shardings, load_leaves
from server.engine.programs.adapter_programs import choose
from server.engine.programs.step_geometry import with_images

BLOCK_SIZE = 16
_PAD_TO = 64


def make_layout(**fields: Any) -> DecoderLayout:
    """Float32 throughout, layers listed, on one shard, unless told otherwise."""
    f32 = jnp.dtype("float32")
    defaults: dict[str, Any] = {
        "tensor_size": 1,
        "stacked": False,
        "dtype": f32,
        "activation_dtype": f32,
        "kv_dtype": f32,
        "backend": XlaAttention(),
    }
    return DecoderLayout(**(defaults | fields))


class PagedModel:
    """One checkpoint, `num_rows` sequences side by side, each with blocks for `max_tokens`."""

    def __init__(
        self,
        folder: Path,
        num_rows: int,
        max_tokens: int,
        *,
        tensor_size: int = 1,
        adapter_folders: list[Path] | None = None,
        slots: list[int] | None = None,
        gives_states: bool = False,
        **layout_fields: Any,
    ) -> None:
        """The adapters are put into the slots from 1; `slots` has the slot of each row.

        With `gives_states`, steps give hidden states [tokens, D] in the place of logits.
        """
        config = read_config(folder)
        mesh = make_mesh(config, tensor_size)
        layout = make_layout(tensor_size=tensor_size, **layout_fields)
        model = abstract_decoder(config, layout)
        self._leaves = calibrate(model, load_leaves(model, Checkpoint(folder), mesh), mesh)
        self._vision = config.vision
        self._width = config.hidden_size if gives_states else config.vocab_size
        self._lens = np.zeros(num_rows, np.int32)
        blocks = -(-max_tokens // BLOCK_SIZE)
        # Block 0 takes the writes of padding; neighbours in a sequence are not neighbours here.
        self._tables = 1 + np.arange(num_rows * blocks).reshape(blocks, num_rows).T
        num_blocks = (1 + num_rows * blocks,) * len(config.windows)
        self._slots = np.array(slots or [0] * num_rows)
        self._adapters = _place(adapter_folders or [], config, layout)
        shapes = pool_shapes(config, layout, num_blocks, BLOCK_SIZE)
        abstract = tuple(layout.backend.abstract_pool(shape) for shape in shapes)
        # Slots of states hold what is no state yet: a row must not read it.
        states = abstract_states(config, layout, num_rows + 1)
        self._kv = (
            *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract),
            *jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), states),
        )
        self._num_kinds = len(config.windows)
        graphdef, weights = nnx.split(model)
        treedef = jax.tree.structure(weights)

        def merge(leaves: Any) -> Any:
            return nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves))

        def step(
            leaves: Any,
            kv: Any,
            tokens: Any,
            ragged: Any,
            adapters: Any,
            images: Any,
            row_tokens: int | None,
        ) -> Any:
            decoder = merge(leaves)
            if images is not None:
                ragged = with_images(ragged, images)
            chosen = None
            if layout.adapters is not None:
                chosen = choose(adapters, jnp.asarray(self._slots)[ragged.row_T], layout.adapters)
            x, kv = decoder(
                tokens, kv, ragged, row_tokens=row_tokens, adapters=chosen, images=images
            )
            return (x if gives_states else decoder.logits(x)), kv

        leaf_specs = [sharding.spec for sharding in leaf_shardings(model, mesh)]
        by_head, everywhere = PartitionSpec(None, TENSOR), PartitionSpec()
        adapter_specs = of_layers(config, layout, lambda shape, spec: spec)

        def mapped(row_tokens: int | None) -> Any:
            return jax.jit(
                jax.shard_map(
                    lambda *args: step(*args, row_tokens),
                    mesh=mesh,
                    in_specs=(
                        leaf_specs,
                        by_head,
                        everywhere,
                        everywhere,
                        adapter_specs,
                        everywhere,
                    ),
                    out_specs=(everywhere if gives_states else by_head, by_head),
                    check_vma=False,
                ),
                donate_argnums=1,
            )

        self._prefill, self._decode = mapped(None), mapped(1)
        self._encode = jax.jit(
            jax.shard_map(
                lambda leaves, pixels, grid: merge(leaves).vision(pixels, grid),
                mesh=mesh,
                in_specs=(leaf_specs, everywhere, everywhere),
                out_specs=everywhere,
                check_vma=False,
            )
        )

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rows [tokens, D] of an image [height, width, 3], the last ones arbitrary."""
        packed, grid = packed_pixels(pixels, self._vision)
        return np.asarray(self._encode(self._leaves, packed, np.array(grid, np.int32)))

    def prefill(
        self, prompts: list[list[int]], images: StepImages | None = None
    ) -> list[NDArray[np.float32]]:
        """All prompts in one step: logits [its length, V] of each. Rows start anew."""
        self._lens[:] = 0
        logits = self._run(self._prefill, prompts, num_decodes=0, images=images)
        return np.split(logits, np.cumsum([len(prompt) for prompt in prompts])[:-1])

    def decode(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """One more token for every row: logits [rows, V]."""
        return self._run(self._decode, token_ids[:, None].tolist(), num_decodes=len(token_ids))

    def _run(
        self,
        program: Any,
        rows: list[list[int]],
        num_decodes: int,
        images: StepImages | None = None,
    ) -> NDArray[np.float32]:
        counts = np.array([len(row) for row in rows])
        total = int(counts.sum())
        padded = total if num_decodes else -(-total // _PAD_TO) * _PAD_TO
        start = np.concatenate([[0], np.cumsum(counts)])
        row = np.repeat(np.arange(len(rows)), counts)
        position = self._lens[row] + np.arange(total) - start[row]
        self._lens += counts.astype(np.int32)
        tokens = np.concatenate([np.asarray(row, np.int32) for row in rows])
        ragged = Ragged(
            positions_T=_pad(position, padded),
            row_T=_pad(row, padded),
            is_padding_T=np.arange(padded) >= total,
            block_tables_KSB=np.stack([self._tables.astype(np.int32)] * self._num_kinds),
            seq_lens_S=self._lens.copy(),
            query_start_S1=start.astype(np.int32),
            num_decodes=np.int32(num_decodes),
            num_rows=np.int32(len(rows)),
            slots=_state_slots(len(rows)),
        )
        padded_tokens = _pad(tokens, padded)
        logits, self._kv = program(
            self._leaves, self._kv, padded_tokens, ragged, self._adapters, images
        )
        return np.asarray(logits)[:total, : self._width]


def _state_slots(num_rows: int) -> StateSlots:
    """Each row has one of its own, in another order than the rows; nothing is kept."""
    own = np.arange(num_rows, dtype=np.int32)[::-1]
    return StateSlots(own, own, np.full(num_rows, num_rows, np.int32), np.zeros_like(own))


def _place(folders: list[Path], config: Any, layout: DecoderLayout) -> Any:
    """The arrays of all slots, with these adapters in the first ones."""
    placed = of_layers(config, layout, lambda shape, _: np.zeros(shape, layout.dtype))
    for slot, folder in enumerate(folders):
        with TemporaryDirectory() as copy:
            adapter = read_adapter(LocalFiles(folder), Path(copy), config, layout)
        put = jax.jit(put_adapter)
        placed = put(placed, np.int32(slot), adapter.values)
    return placed


def _pad(values: NDArray[Any], size: int) -> NDArray[np.int32]:
    return np.pad(values.astype(np.int32), (0, size - len(values)))
