from __future__ import annotations

from server.plan.cost import aliased_bytes, cost_of
from server.plan.hlo import Shape, parse_module
from tests.plan.hlo_texts import STEP, WITHOUT_ALIASES

POOL = Shape("bf16", (40, 128, 2, 2, 128), False)
# One [64, 4096] array of bfloat16.
ARRAY = 64 * 4096 * 2


def cost(text=STEP):
    return cost_of(parse_module(text))


def test_cycles_are_those_of_the_cheapest_path_loops_by_their_trips():
    # Four layers of 1,010; greedy, 5; the result, 3. A fusion's inside is not counted again.
    assert cost().cycles == 4 * 1010 + 5 + 3


def test_the_dearest_path_is_summed_apart():
    assert cost().conditional_cycles == 32 * 50 + 405 - 5


def test_a_missing_estimate_counts_nothing():
    """The sparse core's largest integer would drown everything."""
    assert cost().cycles < 10_000


def test_kernels_are_counted_once_a_layer_and_once_a_step():
    assert cost().pallas_calls == 4 + 1


def test_collectives_count_what_a_chip_sends_in_a_ring_of_four():
    assert cost().collectives == 8
    all_reduce, reduce_scatter = 2 * 3 * ARRAY // 4, 3 * ARRAY // 4
    assert cost().collective_bytes == 4 * (all_reduce + reduce_scatter)


def test_groups_are_read_in_every_spelling():
    for spelled in ("{{0,1,2,3}}", "[2,4]<=[8]", "mesh['data'=2,'tensor'=4] {'tensor'}"):
        text = STEP.replace("mesh['data'=1,'tensor'=4] {'tensor'}", spelled)
        assert cost(text).collective_bytes == cost().collective_bytes


def test_one_chip_alone_sends_nothing():
    text = STEP.replace("'tensor'=4", "'tensor'=1").replace("{{0,1,2,3}}", "{{0}}")
    assert (cost(text).collectives, cost(text).collective_bytes) == (0, 0)


def test_a_gather_is_counted_by_its_result():
    line = "%psum.1 = bf16[64,4096]{1,0:T(8,128)(2,1)S(1)} all-reduce("
    gathered = STEP.replace(line, line.replace("all-reduce(", "all-gather("))
    assert cost().collective_bytes - cost(gathered).collective_bytes == 4 * 3 * ARRAY // 4


def test_collectives_on_sparse_cores_are_counted_and_their_cycles_are_not():
    """A v7x starts them as calls: `%started` of the step is one, of a computation without any."""
    inside = "ROOT %s = s32[65]{0:T(128)} parameter(0), backend_config"
    reduced = (
        "%s = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)\n"
        "  ROOT %r = bf16[64,4096]{1,0:T(8,128)(2,1)} all-reduce(%s), channel_id=3,"
        " replica_groups={{0,1,2,3}}, to_apply=%add.1, backend_config"
    )
    with_one = cost(STEP.replace(inside, reduced).replace("9223372036854775807", "7"))
    assert with_one.collectives == cost().collectives + 1
    assert with_one.collective_bytes == cost().collective_bytes + 2 * 3 * ARRAY // 4
    assert with_one.cycles == cost().cycles + 7


def test_copies_into_vmem_are_counted_in_bytes():
    assert cost().prefetch_bytes == ARRAY


def test_a_loop_that_data_bounds_is_counted_once_and_said():
    unknown = cost(STEP.replace("%four = s32[]{:T(128)} constant(4)", ""))
    assert unknown.unknown_loops == 1
    assert unknown.cycles == 1010 + 5 + 3


def test_the_pool_is_found_among_the_aliased_parameters():
    assert aliased_bytes(parse_module(STEP), [POOL]) == POOL.num_bytes
    assert aliased_bytes(parse_module(WITHOUT_ALIASES), [POOL]) == 0
    assert aliased_bytes(parse_module(STEP), [Shape("bf16", (41, 128, 2, 2, 128), False)]) == 0
