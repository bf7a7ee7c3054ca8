import re

from tests.docs.pages import ROOT, headings

RUNBOOK = ROOT / "docs/runbook.md"
TEMPLATES = sorted((ROOT / "helm").glob("*/templates/*.yaml"))


def alerts() -> list[str]:
    """The name of every alert rule in the charts."""
    texts = "\n".join(path.read_text() for path in TEMPLATES)
    return re.findall(r"^\s*- alert: (\w+)$", texts, re.MULTILINE)


def test_each_alert_of_the_charts_has_its_heading_in_the_runbook_and_no_heading_is_without_one():
    assert sorted(headings(RUNBOOK, level=2)) == sorted(alerts())


def test_alerts_of_both_charts_are_read():
    assert {"AntipodeNoReadyReplica", "AntipodeRegionsServeDifferentVersions"} <= set(alerts())


def test_each_entry_says_what_the_alert_means_what_to_look_at_and_what_to_do():
    _, *entries = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    words = ("**Means:**", "**Look at:**", "**Do:**")
    lacking = [entry.split()[0] for entry in entries if not all(word in entry for word in words)]
    assert lacking == []
