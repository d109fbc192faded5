"""What the documents say exists: files behind links, names in the files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    broken = [
        link
        for link in links
        if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()
    ]
    assert not broken


def test_names_in_model_md_stand_in_the_files_they_link_to():
    text = (ROOT / "docs/model.md").read_text()
    missing = []
    for names, link in re.findall(r"\[`([^\]]+)`\]\(\.\./([^)]+\.py)\)", text):
        source = (ROOT / link).read_text()
        for name in re.split(r"`?, `?", names):
            last = name.split(".")[-1]
            if not name.endswith(".py") and not re.search(rf"(class|def) {last}\b", source):
                missing.append((name, link))
    assert not missing


def test_every_equation_of_the_paper_has_a_place():
    text = (ROOT / "docs/model.md").read_text()
    cited = {
        int(n) for row in re.findall(r"^\| Eq ([\d, ]+) \|", text, re.M) for n in row.split(",")
    }
    assert cited == set(range(1, 12))
