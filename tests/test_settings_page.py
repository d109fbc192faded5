"""docs/settings.md is what the schema and params/ say now."""

from tools.settings_page import PAGE, page


def test_the_page_of_settings_is_that_of_the_schema():
    text = page()
    assert PAGE.read_text() == text, "write it again: python -m tools.settings_page"
    for setting, yes in (("thresholds_from", True), ("data", True), ("origin", False)):
        rows = [row.split(" | ") for row in text.splitlines() if row.startswith(f"| `{setting}` ")]
        assert any(row[3].strip() == "yes" for row in rows) is yes, setting
    assert "| `sigma` " in text and "## runs.content.<name>" in text
