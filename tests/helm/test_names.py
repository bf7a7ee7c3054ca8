"""Names and other texts reach an object as the text that was given, and only those that fit.

YAML reads `true`, `null`, `404` and `1e3` as something else than text where a template does not
quote them. What Kubernetes would refuse, the schema refuses first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from helm_python import HelmError

from tests.helm.charts import CASES, CHARTS, HELM, case_values, merged, render

PLAIN, ODD = "abcd", ("true", "1e10")
# Of what a picker or a claim is made, and of a namespace and release.
HASH = re.compile(r"[0-9a-f]{64}|-[0-9a-f]{8}(?=')")
BASES = {
    "antipode": ("everything", "v6e-4x4", "compute-class"),
    "antipode-gateway": ("gke", "gke-tls", "gke-second-model", "envoy"),
}


def renamed(thing: Any, before: str, after: str) -> Any:
    """The thing with one text in place of another, wherever it is."""
    return json.loads(json.dumps(thing).replace(before, after))


@pytest.mark.parametrize(("chart", "case"), CASES)
@pytest.mark.parametrize(("release", "namespace"), [("true", "2024"), ("null", "0xff")])
def test_a_release_and_its_namespace_may_be_words_that_yaml_reads_otherwise(
    chart, case, release, namespace
):
    values = case_values(chart, case)
    plain = renamed(render(chart, values, "abcd", "nsns"), "abcd", release)
    odd = render(chart, values, release, namespace)
    assert HASH.sub("", str(odd)) == HASH.sub("", str(renamed(plain, "nsns", namespace)))


@cache
def texts(chart: str) -> list[str]:
    """The dotted name of each text among the values, and `NAME[]` of each list of texts."""
    schema = json.loads((HELM / chart / "values.schema.json").read_text())

    def found(part: dict[str, Any], path: str) -> Iterator[str]:
        for name, one in part.get("properties", {}).items():
            whole = one | schema["$defs"].get(one.get("$ref", "").rpartition("/")[2], {})
            if whole.get("type") == "string":
                yield f"{path}{name}"
            items = whole.get("items", {})
            if items.get("type") == "string" or "$ref" in items:
                yield f"{path}{name}[]"
            yield from found(one, f"{path}{name}.")

    return list(found(schema, ""))


def given(chart: str, base: str, name: str, text: str) -> list[dict[str, Any]] | None:
    """The objects with that text; None where the chart refuses it."""
    value = [text] if name.endswith("[]") else text
    try:
        return render(chart, merged(case_values(chart, base), {name.removesuffix("[]"): value}))
    except HelmError:
        return None


@pytest.mark.parametrize(
    ("chart", "name"), [(chart, name) for chart in CHARTS for name in texts(chart)]
)
def test_a_text_is_not_read_as_another_kind_of_value(chart, name):
    for base in BASES[chart]:
        plain = given(chart, base, name, PLAIN)
        for odd in ODD:
            objects = given(chart, base, name, odd) if plain else None
            if objects:
                expected = renamed(plain, PLAIN, odd)
                assert HASH.sub("", str(objects)) == HASH.sub("", str(expected))


LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
)
LABEL = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?")
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def misfits(thing: Any, path: str = "") -> Iterator[str]:
    """Labels, names and variables that an API server would refuse."""
    if isinstance(thing, list):
        for index, one in enumerate(thing):
            yield from misfits(one, f"{path}[{index}]")
    if not isinstance(thing, dict):
        return
    for key, value in thing.items():
        here = f"{path}.{key}"
        if key in ("labels", "matchLabels", "nodeSelector"):
            yield from (
                f"{here}: {name}: {text}"
                for name, text in value.items()
                if not (LABEL_KEY.fullmatch(name) and LABEL.fullmatch(text))
            )
        elif key == "env":
            names = [one["name"] for one in value]
            yield from (f"{here}: {name}" for name in {*names} if names.count(name) > 1)
        elif key == "metadata" and "name" in value and not NAME.fullmatch(value["name"]):
            yield f"{here}.name: {value['name']}"
        yield from misfits(value, here)


@pytest.mark.parametrize(("chart", "case"), CASES)
@pytest.mark.parametrize("release", ["prod", "x" * 48])
def test_no_case_has_a_label_or_name_that_does_not_fit(chart, case, release):
    assert list(misfits(render(chart, case_values(chart, case), release))) == []


LONG = "x" * 64
UNFIT = {
    "antipode": {
        **{
            f"{place}: {word[:20]}": {place: labels}
            for place in ("commonLabels", "podLabels", "nodeSelector")
            for word, labels in (
                ("a long value", {"team": LONG}),
                ("a value with a space", {"team": "a b"}),
                ("a value that ends in -", {"team": "a-"}),
                ("a key with a space", {"te am": "a"}),
                ("a key of two slashes", {"a/b/c": "a"}),
                ("a long key", {LONG: "a"}),
                ("a number", {"cost": 123}),
            )
        },
        "an annotation's key": {"podAnnotations": {"te am": "a"}},
        "a service's annotation": {"service.annotations": {"": "a"}},
        "a label of the dashboard": {"commonLabels": {"grafana_dashboard": "0"}},
        "a region that begins with -": {"region": "-us"},
        "a long region": {"region": LONG},
        "a variable of two sources": {
            "extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {}}}]
        },
        "a variable twice": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A"}]},
        "a variable that is a number": {"extraEnv": [{"name": "A", "value": 1}]},
        "a variable of the slice": {"extraEnv": [{"name": "TPU_TOPOLOGY", "value": "9x9"}]},
        "a variable of the group": {"extraEnv": [{"name": "LWS_GROUP_SIZE", "value": "2"}]},
        "an objective twice": {"objectives": [{"name": "a", "priority": i} for i in (1, 2)]},
        "a large priority": {"objectives": [{"name": "a", "priority": 2**31}]},
        "a priority class": {"priorityClassName": "A B"},
        "a storage class": {"compileCache.storageClass": "A_B"},
        "an affinity": {"affinity": {"node": {}}},
        "a toleration": {"tolerations": [{"key": 1}]},
        "a toleration's field": {"picker.tolerations": [{"keys": "a"}]},
        "a spread": {"topologySpreadConstraints": [{"maxSkew": 1}]},
        "a repository": {"image.repository": "registry/a b"},
        "a path of two lines": {"model.path": "a\nb"},
        "a device class": {"dranet.deviceClassName": "a..b"},
        "too many replicas": {"replicas": 2**31},
        "a reservation": {"computeClass.reservation": "a: b"},
    },
    "antipode-gateway": {
        "a long label": {"commonLabels": {"team": LONG}},
        "a label of the release": {"commonLabels": {"app.kubernetes.io/instance": "x"}},
        "a label of the chart": {"commonLabels": {"app.kubernetes.io/name": "x"}},
        "17 host names": {"hostnames": [f"h{i}.example" for i in range(17)]},
        "an empty part of a host": {"hostnames": ["a..b"]},
        "a host twice": {"hostnames": ["a.example", "a.example"]},
        "an address as a host": {"hostnames": ["10.0.0.1"]},
        "a star within a host": {"hostnames": ["a.*.example"]},
        "a long header": {"requestHeader": {"name": "X-Model", "values": ["x" * 4097]}},
        "a header of two lines": {"requestHeader": {"name": "X-Model", "values": ["a\nb"]}},
        "a header's name": {"requestHeader": {"name": "X Model", "values": ["a"]}},
        "a gateway": {"existingGateway": "a..b", "hostnames": ["a.example"]},
        "a class of gke": {"gke.className": "A B"},
        "a class of envoy": {"envoy.className": "A B"},
        "a secret": {"tls": {"enabled": True, "secretName": "a b"}},
        "an option": {"tls": {"enabled": True, "options": {"a b": "c"}}},
        "a long prefix": {"gke.addressPrefix": "a" * 52},
        "a region of one -": {"regions": ["-", "us-east5"]},
        "a region that is a number": {"regions": ["1", "us-east5"]},
    },
}


@pytest.mark.parametrize(
    ("chart", "what"), [(chart, what) for chart in CHARTS for what in UNFIT[chart]]
)
def test_what_kubernetes_would_refuse_is_refused_first(chart, what):
    base = case_values(chart, BASES[chart][0])
    with pytest.raises(HelmError):
        render(chart, merged(base, UNFIT[chart][what]))


def test_a_variable_that_tunes_libtpu_is_taken():
    tuning = [{"name": "TPU_MIN_LOG_LEVEL", "value": "0"}, {"name": "LIBTPU_INIT_ARGS"}]
    base = case_values("antipode", "v6e-2x2")
    assert render("antipode", merged(base, {"extraEnv": tuning}))
