"""docs/settings.md is what the schema and params/ say now."""

from tools.settings_page import PAGE, page


def test_the_page_of_settings_is_that_of_the_schema():
    text = page()
    assert PAGE.read_text() == text, "write it again: python -m tools.settings_page"
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    identity = {row[0].strip("| `"): row[3].strip() for row in rows}
    assert identity["thresholds_from"] == identity["data"] == "yes" and not identity["caption"]
    assert "| `sigma` " in text and "## runs.content.<name>" in text
