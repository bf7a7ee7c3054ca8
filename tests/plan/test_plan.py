from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import pytest

from models.presets import load_preset
from server.__main__ import build_parser
from server.config.sources import load_config
from server.engine.programs.blueprint.blueprint import make_blueprint
from server.plan.plan import make_plan, serve_flags
from server.plan.request import blueprint_for


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("llama-3.1-8b", {}),
        ("llama-3.1-8b", {"kv_dtype": "fp8", "weight_dtype": "int8", "tensor_parallel_size": 2}),
        ("llama-3.1-8b", {"num_blocks": 500, "max_num_batched_tokens": 512, "block_size": 64}),
        ("gemma-3-12b", {"max_num_seqs": 16}),
    ],
)
def test_a_server_with_the_flags_draws_the_same_blueprint(ask, preset, settings):
    """Also where its chip says it has a little more or less memory than the plan assumed."""
    config = load_preset(preset).config
    request = ask("v6e:2x2", config, 2048, **{"num_blocks": 0} | settings)
    planned = blueprint_for(request)
    arguments = vars(build_parser().parse_args(["serve", *serve_flags(request, planned)]))
    arguments.pop("command")
    engine = load_config(arguments, {}).engine
    chip_bytes = request.slice.chip.hbm_bytes - 10_000_000
    served = make_blueprint(config, engine, planned.mesh, chip_bytes)
    assert served.sizes == planned.sizes
    assert served.ladder.buckets == planned.ladder.buckets
    assert served.layout == planned.layout


def test_a_checkpoint_of_float16_is_planned_in_bfloat16_and_the_plan_says_so(ask):
    """No program is compiled here: nothing fits beside so many sequences."""
    config = replace(load_preset("llama-3.1-8b").config, dtype="float16")
    report = make_plan(ask("v6e:1x1", config, 131072, max_num_seqs=64, num_blocks=0))
    assert not report.fits
    assert "float16" in report.notes[0]
    assert blueprint_for(ask("v6e:2x2", config, 2048, num_blocks=0)).layout.dtype == jnp.bfloat16
