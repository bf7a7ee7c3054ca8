import pytest

from scripts.reference import generated
from server.api.foreign_fields.table import FIELDS
from server.config.config import settings
from server.errors import ErrorKind

PAGES = {path.name: (path, text) for path, text in generated().items()}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_reference_page_says_what_the_code_says(name):
    path, text = PAGES[name]
    assert path.read_text() == text, f"{path} is stale; run `make reference`"


def test_the_settings_page_has_a_row_for_each_flag():
    _, text = PAGES["settings.md"]
    assert [one.flag for one in settings() if text.count(f"\n| `{one.flag}` |") != 1] == []


def test_the_metrics_page_has_a_row_for_each_family_of_an_exposition():
    _, text = PAGES["metrics.md"]
    assert "\n| `antipode_requests_total` | counter | `outcome`: stop, length, abort," in text
    assert "\n| `antipode_step_duration_seconds` | histogram | `kind`: prefill, decode," in text
    assert "\n| `vllm:num_requests_waiting` | gauge | `model_name` |" in text


def test_the_errors_page_has_a_row_for_each_kind():
    _, text = PAGES["errors.md"]
    assert [kind for kind in ErrorKind if text.count(f"\n| `{kind.value}` |") != 1] == []
    assert "| `RESOURCE_EXHAUSTED` | 429 | `rate_limit_error` |" in text


def test_the_fields_page_has_a_row_for_each_foreign_field():
    _, text = PAGES["fields.md"]
    assert [name for name in FIELDS if text.count(f"\n| `{name}` |") != 1] == []
    assert "| `n_predict` | reads it as `max_tokens` |" in text
    assert "| `best_of` | refuses it: this server samples" in text


def test_a_cell_cannot_break_its_table():
    _, text = PAGES["settings.md"]
    assert "&lt;name>/&lt;version>" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.count(" | ") for row in rows} == {3}
