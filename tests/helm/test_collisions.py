"""Two releases make no two objects of one kind and name, wherever they are.

A release's objects are named after it, so the name of one release may be that of another's object.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from helm_python import HelmError

from tests.helm.charts import BASE, GATEWAY, SEVERAL, case_values, merged, render

EVERYTHING = {
    "pools.grpc.enabled": True,
    "pools.appProtocol": True,
    "objectives": [{"name": "x", "priority": 1}],
}
VARIANTS = (
    merged(BASE, EVERYTHING),
    merged(BASE, EVERYTHING | {"compileCache.storageClass": "fast"}),
    merged(SEVERAL, EVERYTHING | {"replicas": 3}),
)
CLASS = {"create": True, "serviceAccount": "default"}


@cache
def objects(release, namespace="llm", variant=0):
    """Kind, namespace and name of each object of a release; none where the chart refuses it."""
    try:
        rendered = render("antipode", VARIANTS[variant], release, namespace)
    except HelmError as error:
        if "the release name is" not in str(error):
            raise
        return frozenset()
    return keys(rendered)


def keys(rendered):
    return frozenset(
        (one["apiVersion"], one["kind"], meta.get("namespace"), meta["name"])
        for one in rendered
        for meta in [one["metadata"]]
    )


def suffixes():
    """What the names of objects have after the release's, and what is before each - of it."""
    names = {name for i, _ in enumerate(VARIANTS) for *_, name in objects("a", variant=i)}
    for name in names:
        parts = name.split("-")
        yield from ("-".join(parts[1:n]) for n in range(2, len(parts) + 1))


@pytest.mark.parametrize("suffix", sorted(set(suffixes())))
def test_a_release_named_after_an_object_of_another_is_refused_or_apart(suffix):
    pairs = itertools.product(range(len(VARIANTS)), repeat=2)
    for first, second in pairs:
        assert not objects("a", variant=first) & objects(f"a-{suffix}", variant=second)


@pytest.mark.parametrize("name", ["a-picker", "a-http-picker", "a-grpc-picker", "a-group-0"])
def test_the_name_of_anothers_objects_is_refused(name):
    with pytest.raises(HelmError, match="makes objects of that name; use a name that does not end"):
        render("antipode", BASE, name)


def test_what_belongs_to_the_cluster_is_of_one_namespace_and_release():
    pairs = [("prod-gw", "llm"), ("gw", "llm-prod"), ("x" * 48, "n"), ("x" * 48, "n" * 63)]
    pairs += [("x" * 48, "n" * 62)]
    for chart, values, kind in (
        ("antipode", merged(BASE, {"computeClass": CLASS}), "ComputeClass"),
        ("antipode-gateway", GATEWAY, "GlobalRules"),
    ):
        names = [
            one["metadata"]["name"]
            for release, namespace in pairs
            for one in render(chart, values, release, namespace)
            if one["kind"] == kind
        ]
        assert len({*names}) == len(pairs)
        # The name of a class is a label's value.
        assert kind == "GlobalRules" or max(map(len, names)) <= 63


def test_releases_of_the_gateway_make_no_object_of_one_name():
    envoy = case_values("antipode-gateway", "envoy")
    for values in (GATEWAY, envoy):
        one = keys(render("antipode-gateway", values, "a"))
        for name in {name for *_, name in one if name.startswith("a-")}:
            other = keys(render("antipode-gateway", values, name))
            assert not one & other
