"""Writes the files that follow from the charts: manifests, tables of values, dashboards.

    make charts

Tests compare the checked-in files with the output. Needs no cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import yaml

from scripts import dashboards

_HELM, _RENDERED = Path("helm"), Path("k8s/rendered")
_REGIONS = ("europe-west4", "us-east5")
_GATEWAY = {"regions": list(_REGIONS)}


def generated() -> Iterator[tuple[Path, str]]:
    """Each generated file's path and content. A file may follow from those before it."""
    yield _HELM / "antipode/files/dashboard.json", dashboards.grafana()
    yield Path("k8s/terraform/modules/monitoring/dashboard.json"), dashboards.cloud_monitoring()
    for region in _REGIONS:
        values = yaml.safe_load((_HELM / "regions" / f"{region}.yaml").read_text())
        yield _RENDERED / f"{region}.yaml", _render("antipode", values)
    yield _RENDERED / "gateway.yaml", _render("antipode-gateway", _GATEWAY)
    for chart in ("antipode", "antipode-gateway"):
        yield _HELM / chart / "README.md", _readme(_HELM / chart)


def _render(chart: str, values: dict[str, Any]) -> str:
    texts = helm_python.Chart.load(_HELM / chart).render(
        values, name="antipode" if chart == "antipode" else "gateway", namespace="antipode"
    )
    objects = [
        one
        for name, text in sorted(texts.items())
        if name.endswith(".yaml") and "/tests/" not in name
        for one in yaml.safe_load_all(text)
        if one
    ]
    return yaml.safe_dump_all(objects, sort_keys=False, width=100)


def _readme(chart: Path) -> str:
    """The chart's README with a new table of values; the text around the table stays."""
    rows = "".join(
        f"| `{name}` | `{default}` | {comment} |\n"
        for name, default, comment in _values((chart / "values.yaml").read_text())
    )
    before, head, rest = (chart / "README.md").read_text().partition("|---|---|---|\n")
    after = re.sub(r"\A(\|.*\n)*", "", rest)
    return before + head + rows + after


def _values(text: str) -> Iterator[tuple[str, str, str]]:
    """Leaf values with default and comment, which is on the same line or on the lines before."""
    path: list[str] = []
    before: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            before.append(stripped.lstrip("# "))
            continue
        if match := re.match(r"( *)([A-Za-z]+):(?: +(.*?))?(?:  # (.*))?$", line):
            indent, key, default, comment = match.groups()
            path = [*path[: len(indent) // 2], key]
            if default is not None:
                yield ".".join(path), default, comment or " ".join(before)
        before = []


def main() -> None:
    """Write them all."""
    for path, text in generated():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
