"""JSON schemas of many forms, made by hypothesis: depth, unions, references, formats, enums.

Also every way of bounding a number, of naming properties by patterns, and of joining schemas.
"""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = st.text("abcdefghij_ é", min_size=1, max_size=8)
FORMATS = ("date", "time", "date-time", "duration", "ipv4", "ipv6", "uuid", "hostname")
# Their texts may be of any length, which random ones use.
LONG_FORMATS = ("email", "uri")
LITERALS = st.one_of(
    st.none(), st.booleans(), st.integers(-999, 999), st.text(max_size=6), st.just([]), st.just({})
)


def _bounded(kind: str, low: str, high: str, numbers: st.SearchStrategy) -> st.SearchStrategy:
    def make(bounds: tuple[int, int]) -> dict:
        return {"type": kind, low: min(bounds), high: max(bounds)}

    return st.tuples(numbers, numbers).map(make)


STRINGS = st.one_of(
    st.just({"type": "string", "maxLength": 20}),
    _bounded("string", "minLength", "maxLength", st.integers(0, 12)),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(LONG_FORMATS).map(
        lambda name: {"type": "string", "format": name, "maxLength": 30}
    ),
    st.sampled_from(("^[a-c]{2,5}$", "^x[0-9]+y$", "^(on|off)$")).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
)
NUMBERS = st.one_of(
    st.just({"type": "integer"}),
    st.just({"type": "number"}),
    _bounded("integer", "minimum", "maximum", st.integers(-500, 500)),
    _bounded("number", "minimum", "maximum", st.integers(-50, 50)),
    st.integers(-500, 500).map(
        lambda low: {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 9}
    ),
    st.integers(-50, 50).map(
        lambda low: {"type": "number", "exclusiveMinimum": low, "maximum": low + 3}
    ),
    st.integers(2, 9).map(lambda factor: {"type": "integer", "multipleOf": factor}),
)
LEAVES = st.one_of(
    STRINGS,
    NUMBERS,
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.lists(LITERALS, min_size=1, max_size=5).map(lambda values: {"enum": values}),
    LITERALS.map(lambda value: {"const": value}),
    st.just({"$ref": "#/$defs/shared"}),
    st.just({"type": ["string", "null"], "maxLength": 9}),
)


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy, max_size: int = 5) -> dict:
    properties = draw(st.dictionaries(NAMES, inner, max_size=max_size))
    required = [name for name in properties if draw(st.booleans())]
    extra = draw(st.sampled_from((False, False, {"type": "integer"})))
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": extra,
    }


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy) -> dict:
    least = draw(st.integers(0, 2))
    return {
        "type": "array",
        "items": draw(inner),
        "minItems": least,
        "maxItems": least + draw(st.integers(0, 3)),
    }


@st.composite
def _maps(draw: st.DrawFn, inner: st.SearchStrategy) -> dict:
    """Objects whose properties have names of a pattern, beside one of its own name."""
    return {
        "type": "object",
        "properties": {"own": draw(inner)},
        "patternProperties": {"^x_[a-c]{1,3}$": draw(inner)},
        "additionalProperties": False,
        "required": draw(st.sampled_from(([], ["own"]))),
    }


@st.composite
def _tuples(draw: st.DrawFn, inner: st.SearchStrategy) -> dict:
    first = draw(st.lists(inner, min_size=1, max_size=3))
    return {
        "type": "array",
        "prefixItems": first,
        "items": draw(st.sampled_from((False, {"type": "boolean"}))),
        "minItems": draw(st.integers(0, len(first))),
        "maxItems": len(first) + 2,
    }


@st.composite
def _one_of(draw: st.DrawFn, inner: st.SearchStrategy) -> dict:
    """Options of which no two can be true, because each has a kind of its own."""
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "value": draw(inner)},
            "required": ["kind", "value"],
            "additionalProperties": False,
        }
        for kind in ("a", "b")
    ]
    return {"oneOf": [*options, {"type": "null"}]}


@st.composite
def _all_of(draw: st.DrawFn, inner: st.SearchStrategy) -> dict:
    properties = {"left": draw(inner), "right": draw(inner)}
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    numbers = [{"type": "integer", "minimum": -9}, {"exclusiveMaximum": draw(st.integers(0, 99))}]
    return draw(st.sampled_from(({"allOf": [closed, {"required": ["left"]}]}, {"allOf": numbers})))


def _within(inner: st.SearchStrategy) -> st.SearchStrategy:
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    made = (_objects, _arrays, _maps, _tuples, _one_of, _all_of)
    return st.one_of(unions, *(make(inner) for make in made))


@st.composite
def schemas(draw: st.DrawFn) -> dict:
    """A whole schema. Some are an object of many properties; some refer to themselves."""
    root = draw(st.one_of(st.recursive(LEAVES, _within, max_leaves=12), _objects(LEAVES, 25)))
    tree = {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/shared"}, {"type": "null"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    shared = draw(st.sampled_from(({"type": "boolean"}, {"enum": ["a", 1, None]}, tree)))
    return {**root, "$defs": {"shared": shared}}
