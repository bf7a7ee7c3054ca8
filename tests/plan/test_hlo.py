from __future__ import annotations

import pytest

from server.plan.hlo import Shape, parse_module, parse_shapes
from tests.plan.hlo_texts import STEP, WITHOUT_ALIASES


def named(module, name):
    instructions = (one for each in module.computations.values() for one in each)
    return next(one for one in instructions if one.name == name)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("f32[]{:T(128)}", [Shape("f32", (), False)]),
        ("pred[64]{0:T(512)(128)(4,1)}", [Shape("pred", (64,), False)]),
        ("bf16[64,4096]{1,0:T(8,128)(2,1)S(1)}", [Shape("bf16", (64, 4096), True)]),
        ("f8e4m3fn[2,128]{1,0}", [Shape("f8e4m3fn", (2, 128), False)]),
        (
            "(s32[]{:T(128)}, /*index=5*/bf16[8,2]{1,0:T(8,128)(2,1)S(1)})",
            [Shape("s32", (), False), Shape("bf16", (8, 2), True)],
        ),
    ],
)
def test_shapes_are_read_with_their_memory(text, shapes):
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (Shape("bf16", (64, 4096), False), 524_288),
        (Shape("s4", (3,), False), 2),
        (Shape("f32", (), False), 4),
        (Shape("f8e4m3fn", (2, 128), False), 256),
    ],
)
def test_bytes_follow_from_the_shape(shape, size):
    assert shape.num_bytes == size


def test_every_computation_is_found_and_one_is_the_entry():
    module = parse_module(STEP)
    assert module.entry == "main.64_spmd"
    assert {"body", "condition", "greedy", "filtered", "fused.1"} < module.computations.keys()


def test_an_instruction_knows_its_opcode_and_type_also_where_that_is_a_tuple():
    kernel = named(parse_module(STEP), "RPAd-nhs.3")
    assert kernel.opcode == "custom-call"
    assert kernel.shapes[1] == Shape("bf16", (40, 128, 2, 2, 128), False)


def test_loops_are_counted_by_the_constant_they_run_to():
    module = parse_module(STEP)
    assert module.trips(named(module, "while.42")) == 4
    assert module.trips(named(module, "while.2")) == 32


def test_a_trip_count_that_is_written_down_is_believed():
    text = STEP.replace(
        'condition=%condition, body=%body, metadata={op_name="jit(step)/while"}',
        'condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}',
    )
    module = parse_module(text)
    assert module.trips(named(module, "while.42")) == 7


def test_a_loop_to_what_only_data_knows_has_no_count():
    module = parse_module(STEP.replace("%four = s32[]{:T(128)} constant(4)", ""))
    assert module.trips(named(module, "while.42")) is None


def test_branches_are_named_in_either_spelling():
    module = parse_module(STEP)
    assert named(module, "conditional.9").branches == ["greedy", "filtered"]
    text = STEP.replace(
        "branch_computations={%greedy, %filtered}",
        "true_computation=%greedy, false_computation=%filtered",
    )
    assert named(parse_module(text), "conditional.9").branches == ["greedy", "filtered"]


def test_aliased_parameters_are_read_off_the_header():
    assert parse_module(STEP).aliased == {1, 2}
    assert parse_module(WITHOUT_ALIASES).aliased == frozenset()


def test_parameters_of_the_entry_come_with_their_numbers():
    assert [(i, one.name) for i, one in parse_module(STEP).parameters()] == [
        (0, "param.0"),
        (1, "param.1"),
        (2, "param.2"),
    ]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no entry"):
        parse_module("HloModule nothing")
