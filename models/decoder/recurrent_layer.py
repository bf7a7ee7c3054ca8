"""One layer of a decoder that has a state in the place of attention, then the MLP or the experts.

All such layers of a model have the same shapes. Knows neither how layers follow one another nor
which weights they have.
"""

from __future__ import annotations

import jax
from flax import nnx

from models.config import ModelConfig
from models.decoder.adapters import OfLayer
from models.decoder.gated_delta import GatedDelta
from models.decoder.layer import Kind, make_mlp, run_mlp
from models.decoder.layers import inverse_rms
from models.decoder.layout import DecoderLayout
from models.decoder.moe import Layer
from models.decoder.state_pool import StatePlan, StatePool


class RecurrentLayer(nnx.Module):
    """A pre-norm gated delta net and MLP, each added to the residual stream [T, D].

    It is called as a layer with attention is; `inputs` are those of all recurrent layers.
    """

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, layout: DecoderLayout) -> None:
        self.mixer = GatedDelta(rngs, config, layout)
        self.mlp = make_mlp(rngs, config, layout)
        self.eps = config.rms_norm_eps

    def __call__(
        self,
        x_TD: jax.Array,
        pool: StatePool,
        inputs: StatePlan,
        kind: Kind,
        layer: Layer,
        of_layer: OfLayer = None,
    ) -> tuple[jax.Array, StatePool]:
        assert of_layer is None
        residual = kind.residual
        with jax.named_scope("recurrence"):
            norm_T1 = residual.gather(inverse_rms(x_TD, self.eps))
            gathered_TD = residual.gather(x_TD)
            out, pool = self.mixer(gathered_TD, norm_T1, pool, inputs, residual, kind.row_tokens)
            x_TD = x_TD + out
        with jax.named_scope("mlp"):
            return x_TD + run_mlp(self.mlp, x_TD, self.eps, residual, layer), pool
