"""Writes the reference pages: every setting, every metric and every error, as the code has them.

    make reference

A test compares the pages in `docs/` with the code. This script knows neither a running server nor
a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client.core import Metric

from server.config import Setting, settings
from server.errors import ErrorKind
from server.metrics.metrics import Metrics

_DOCS = Path("docs")
_MADE_BY = "`make reference` writes this page from `{source}`; a test compares them."


def generated() -> dict[Path, str]:
    """The content of each reference page, by path."""
    return {
        _DOCS / "settings.md": _settings_page(),
        _DOCS / "metrics.md": _metrics_page(),
        _DOCS / "errors.md": _errors_page(),
    }


def _settings_page() -> str:
    return _page(
        "Settings",
        "server/config.py",
        "Each setting has one name in four spellings: the flag `--max-num-seqs`, the variable\n"
        "`ANTIPODE_MAX_NUM_SEQS`, the key `max_num_seqs` of the YAML file that `--config` names, and\n"
        "`maxNumSeqs` in the chart `helm/antipode`. A flag beats a variable. A variable beats the"
        " file.\n"
        "`server.extra` in the chart takes the settings that the chart has no value for.\n",
        *(_settings_section(title, section) for section, title in _SECTIONS.items()),
    )


_SECTIONS = {
    "engine": "Engine: model, memory, slice and hosts",
    "server": "Server: ports, drain, limits and logs",
}


def _settings_section(title: str, section: str) -> str:
    rows = [
        (f"`{one.flag}`", _default(one), _allowed(one), one.description)
        for one in settings()
        if one.section == section
    ]
    return f"## {title}\n\n" + _table(("flag", "default", "allowed", "what it sets"), rows)


def _default(setting: Setting) -> str:
    return "empty" if setting.default == "" else f"`{str(setting.default).lower()}`"


def _allowed(setting: Setting) -> str:
    return ", ".join(f"`{choice}`" for choice in setting.choices) or setting.allowed


def _metrics_page() -> str:
    fresh = Metrics(model="", version="", release="", started=0.0)
    rows = [
        (f"`{_name(family)}`", family.type, _labels(family), family.documentation)
        for family in fresh.collect()
    ]
    return _page(
        "Metrics",
        "server/metrics/",
        "`GET /metrics` on the HTTP port answers in the Prometheus text format. Every family is\n"
        "there from the start of the server. A histogram `NAME` has the series `NAME_bucket`,\n"
        "`NAME_sum` and `NAME_count`. [Observability](observability.md) says which of these to"
        " watch.\n",
        _table(("metric", "type", "labels", "what it says"), rows),
    )


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


def _errors_page() -> str:
    rows = [
        (f"`{kind.value}`", f"`{spec.grpc_code.name}`", str(spec.http_status))
        + (f"`{spec.openai_type}`", spec.when, _retry(spec.retry, spec.retry_after))
        for kind, spec in ((kind, kind.spec) for kind in ErrorKind)
    ]
    return _page(
        "Errors",
        "server/errors.py",
        "Each failure of a request is of one kind. Both protocols report the same kind in their own\n"
        "words. HTTP answers with `{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`; a stream"
        " that has\n"
        "begun ends with an event of that form. gRPC ends the call with the status. The kind is also"
        " the\n"
        "label `outcome` of `antipode_requests_total`.\n",
        _table(("kind", "gRPC", "HTTP", "OpenAI type", "when", "try again"), rows),
    )


def _retry(retry: str, retry_after: int | None) -> str:
    return retry if retry_after is None else f"{retry}, after {retry_after} s"


def _page(title: str, source: str, *parts: str) -> str:
    return "\n".join((f"# {title}\n", *parts, _MADE_BY.format(source=source) + "\n"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(_lines((head, ["---"] * len(head), *rows)))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in row)
        yield "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Write the pages."""
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
