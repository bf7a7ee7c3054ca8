from __future__ import annotations

import pytest

from models.presets import load_preset
from server.engine.programs.blueprint.chip_memory import SizeError
from server.plan.request import blueprint_for, has_room, kv_tokens, need_of, sequences_of_two

LLAMA_8B = load_preset("llama-3.1-8b").config
LLAMA_70B = load_preset("llama-3.3-70b").config


@pytest.fixture
def llama(ask):
    return ask(config=LLAMA_8B, context=2048, num_blocks=0, max_num_seqs=256)


def test_the_pool_takes_what_weights_and_working_memory_leave(llama):
    blueprint = blueprint_for(llama)
    memory = blueprint.memory
    assert memory.usable == int(0.9 * llama.slice.chip.hbm_bytes)
    assert memory.weights == pytest.approx(4.016e9, rel=1e-3)
    # 32 layers, one chip's 2 heads of 128 for keys and for values, in two bytes.
    of_block = 128 * 32 * 2 * 2 * 128 * 2
    assert blueprint.sizes.num_blocks == (memory.for_kv // of_block,)


def test_sequences_are_counted_in_whole_blocks_beside_the_one_for_padding(ask):
    blueprint = blueprint_for(ask(num_blocks=65))
    assert blueprint.sizes.sequences_at(1024) == 8
    assert blueprint.sizes.sequences_at(1025) == 7


def test_a_second_version_takes_its_weights_from_the_pool(llama):
    blueprint = blueprint_for(llama)
    one, two = blueprint.sizes.sequences_at(2048), sequences_of_two(llama, blueprint)
    of_sequence = 2048 * 32 * 2 * 2 * 128 * 2
    assert one - two == pytest.approx(blueprint.memory.weights / of_sequence, abs=1)


def test_local_layers_bound_the_sequences_by_their_windows(ask):
    """Gemma 3 1B keeps 512 tokens in 22 of its layers: at most 5 blocks a sequence there."""
    config = load_preset("gemma-3-1b").config
    blueprint = blueprint_for(ask("v6e:1x1", config, 4096, num_blocks=0, max_num_seqs=64))
    everything, window = blueprint.sizes.kinds
    assert (everything.window, window.window) == (None, 512)
    assert kv_tokens(blueprint.sizes) == (everything.num_blocks - 1) * 128
    assert blueprint.sizes.sequences_at(4096) == min(
        (everything.num_blocks - 1) // 32, (window.num_blocks - 1) // 5
    )


def test_blocks_of_each_kind_of_layers_are_counted_in_their_own_bytes(ask):
    """Gemma 4 31B on four chips: a block of a local layer is twice as large as a global one's."""
    config = load_preset("gemma-4-31b").config
    request = ask("v6e:2x2", config, 4096, num_blocks=0, max_num_seqs=32)
    of_global = 128 * 2 * 512 * 2
    # 32 blocks of the context and 9 of the window, and the one for padding.
    assert need_of(request).kv == (10 * 33 + 50 * 10 * 2) * of_global
    blueprint = blueprint_for(request)
    everything, window = blueprint.sizes.kinds
    taken = (10 * everything.num_blocks + 50 * window.num_blocks * 2) * of_global
    assert taken <= blueprint.memory.for_kv < taken + 10 * of_global


def test_what_has_no_room_is_refused_with_what_is_missing(ask):
    request = ask(config=LLAMA_70B, context=2048, num_blocks=0)
    assert not has_room(request)
    with pytest.raises(SizeError, match=r"5\.\d\d GiB per chip are missing"):
        blueprint_for(request)


def test_a_pool_of_less_than_one_sequence_is_no_room(ask):
    with pytest.raises(SizeError, match="room for the KV of 384 tokens, less than one sequence"):
        blueprint_for(ask(num_blocks=4))


def test_what_is_needed_is_known_where_there_is_no_room(ask):
    need = need_of(ask(config=LLAMA_70B, context=2048, num_blocks=0))
    assert need.tensor_size == 4
    assert need.memory.weights == pytest.approx(35.28e9, rel=1e-2)
    # 16 blocks and the one for padding.
    assert need.kv == 17 * 128 * 80 * 2 * 2 * 128 * 2


def test_block_tables_beyond_scalar_memory_are_refused_with_what_to_lower(ask):
    request = ask(config=LLAMA_8B, context=131_072, num_blocks=0, max_num_seqs=256)
    with pytest.raises(SizeError, match=r"lower max_model_len to 98304, max_num_seqs to 192"):
        blueprint_for(request)


def test_a_changed_request_leaves_the_first_as_it_was(ask):
    request = ask()
    changed = request.changed(max_num_seqs=16)
    assert (request.engine.max_num_seqs, changed.engine.max_num_seqs) == (8, 16)
    assert request.shortened(512).engine.max_model_len == 512
