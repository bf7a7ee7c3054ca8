"""Writes the reference pages: every setting, metric, error and foreign field, as the code has them.

    make reference

A test compares the pages in `docs/` with the code. This script knows neither a running server nor
a device.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client.core import Metric

from server.api.foreign_fields.meanings import Alias, Meaning, Passes
from server.api.foreign_fields.table import FIELDS
from server.api.requests.refused_fields import Refusal
from server.config.config import settings
from server.config.setting import Setting
from server.errors import ErrorKind, ErrorSpec
from server.metrics.metrics import Metrics

_DOCS = Path("docs")
_SETTINGS = """\
# Settings

Each setting has one name in four spellings: the flag `--max-num-seqs`, the variable
`ANTIPODE_MAX_NUM_SEQS`, the key `max_num_seqs` of the YAML file that `--config` names, and
`maxNumSeqs` in the chart `helm/antipode`. A flag beats a variable. A variable beats the file.
`server.extra` in the chart takes the settings that the chart has no value for.
"""
_SECTIONS = {
    "engine": "Engine: model, memory, slice and hosts",
    "server": "Server: ports, drain, limits and logs",
}
_METRICS = """\
# Metrics

`GET /metrics` on the HTTP port answers in the Prometheus text format. Every family is there from
the start of the server. A histogram `NAME` has the series `NAME_bucket`, `NAME_sum` and
`NAME_count`. [Observability](observability.md) says which of these to watch.
"""
_ERRORS = """\
# Errors

Each failure of a request is of one kind. Both protocols report the same kind in their own words.
HTTP answers with `{"error": {"message", "type", "param", "code"}}`; a stream that has begun ends
with an event of that form. gRPC ends the call with the status. The kind is also the label
`outcome` of `antipode_requests_total`.
"""
_FIELDS = """\
# Fields of other servers

A request over HTTP may have fields of other servers. `/v1/completions` and `/v1/chat/completions`
read such a field under their own name, refuse the field with 400 and `unsupported_parameter`, or
ignore the field because the field changes no answer. A field that is neither here nor in the
OpenAPI document passes and does nothing. `null` is the same as leaving a field out. A field in
another spelling, such as `maxTokens` or `cacheSalt`, is refused as the usual one is.

`/v1/responses`, `/v1/messages` and the parameters of the Open Inference Protocol refuse the same
fields, unless they have a field of that name themselves. Where they do not read another name of a
field, they refuse that name and say what to write. Embeddings, scores and reranking refuse those
that say what is read: prompts, truncation, adapters, caches.
"""
_MADE_BY = "`make reference` writes this page from `{source}`; a test compares them.\n"


def generated() -> dict[Path, str]:
    """The content of each reference page, by path."""
    return {
        _DOCS / "settings.md": _page(_SETTINGS, *_settings(), source="server/config/"),
        _DOCS / "metrics.md": _page(_METRICS, _metrics(), source="server/metrics/"),
        _DOCS / "errors.md": _page(_ERRORS, _errors(), source="server/errors.py"),
        _DOCS / "fields.md": _page(_FIELDS, _fields(), source="server/api/foreign_fields/"),
    }


def _settings() -> Iterator[str]:
    for section, title in _SECTIONS.items():
        rows = [
            (f"`{one.flag}`", _default(one), _allowed(one), one.description)
            for one in settings()
            if one.section == section
        ]
        yield f"## {title}\n\n" + _table(("flag", "default", "allowed", "what it sets"), rows)


def _default(setting: Setting) -> str:
    return "empty" if setting.default == "" else f"`{str(setting.default).lower()}`"


def _allowed(setting: Setting) -> str:
    return ", ".join(f"`{choice}`" for choice in setting.choices) or setting.allowed


def _metrics() -> str:
    fresh = Metrics(model="", version="", release="", started=0.0)
    rows = [
        (f"`{_name(family)}`", family.type, _labels(family), family.documentation)
        for family in fresh.collect()
    ]
    return _table(("metric", "type", "labels", "what it says"), rows)


def _name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def _labels(family: Metric) -> str:
    """Each label, with its values where the code fixes more than one of them."""
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in values.setdefault(label, []):
                values[label].append(value)
    return "; ".join(
        f"`{label}`" + (f": {', '.join(each)}" if len(each) > 1 else "")
        for label, each in values.items()
    )


def _errors() -> str:
    head = ("kind", "gRPC", "HTTP", "OpenAI type", "when", "try again")
    return _table(head, [_error(kind.value, kind.spec) for kind in ErrorKind])


def _error(kind: str, spec: ErrorSpec) -> tuple[str, ...]:
    wait = "" if spec.retry_after is None else f", after {spec.retry_after} s"
    return (
        f"`{kind}`",
        f"`{spec.grpc_code.name}`",
        str(spec.http_status),
        f"`{spec.openai_type}`",
        spec.when,
        spec.retry + wait,
    )


def _fields() -> str:
    rows = [(f"`{name}`", *_meaning(meaning)) for name, meaning in sorted(FIELDS.items())]
    return _table(("field", "what the server does", "values that pass"), rows)


def _meaning(meaning: Meaning) -> tuple[str, str]:
    match meaning:
        case Alias(field):
            return f"reads it as `{field}`", f"those of `{field}`"
        case Refusal(instead, neutral, as_field):
            values = [f"`{json.dumps(value)}`" for value in neutral]
            same = [f"the value of `{as_field}`"] if as_field else []
            return f"refuses it: {instead}", ", ".join(values + same)
        case Passes(why):
            return f"ignores it: {why}", "all"


def _page(*parts: str, source: str) -> str:
    return "\n".join((*parts, _MADE_BY.format(source=source)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(map(_line, (head, ["---"] * len(head), *rows)))


def _line(row: Sequence[str]) -> str:
    cells = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in row)
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Write the pages."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
