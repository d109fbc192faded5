"""What the documents say exists: files behind links, names in the files."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from d2it.config import experiments, schema
from d2it.jobs import last_word
from d2it.jobs.launcher import Launcher, Resources
from d2it.jobs.spread import ALONE
from d2it.shares import WORKER
from tests.test_layers import FLOORS

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


@pytest.mark.parametrize("page", ["model", "architecture"])
def test_names_stand_in_the_files_they_link_to(page):
    text = (ROOT / f"docs/{page}.md").read_text()
    missing = []
    for names, link in re.findall(r"\[`([^\]]+)`\]\(\.\./([^)]+\.py)\)", text):
        source = (ROOT / link).read_text()
        for name in re.split(r"`?, `?", names):
            last = name.split(".")[-1]
            if (
                last != Path(link).stem
                and not name.endswith(".py")
                and not re.search(rf"(class|def) {last}\b", source)
            ):
                missing.append((name, link))
    assert not missing


def test_the_map_has_every_room():
    text = (ROOT / "docs/architecture.md").read_text().split("## The rooms")[1].split("\n## ")[0]
    rooms = {room for floor in FLOORS for room in floor if not room.startswith("__")}
    assert set(re.findall(r"\[`(\w+)`\]", text)) == rooms


def test_the_committed_fault_matrix_was_passed():
    page = (ROOT / "docs/faults.md").read_text()
    found = re.search(r"^tried=(\d\d+) survived=\1 refused=\d+ bitwise=\1$", page, re.M)
    assert found and f"After each of {found[1]} kills" in (ROOT / "README.md").read_text()


def test_every_equation_of_the_paper_has_a_place():
    text = (ROOT / "docs/model.md").read_text()
    cited = {
        int(n) for row in re.findall(r"^\| Eq ([\d, ]+) \|", text, re.M) for n in row.split(",")
    }
    assert cited == set(range(1, 12))


def test_every_switch_of_the_departures_and_open_points_is_a_setting():
    """A row that names a switch, in brackets after its point, names one that the schema has."""
    text = (ROOT / "docs/model.md").read_text().split("## Where we depart from the paper")[1]
    departures, section = text.split("## What the paper leaves open")
    points = re.findall(r"^\| (?!Point|---)(.+?) \|", section.split("## Three")[0], re.M)
    named = {name.split(".")[-1] for point in points for name in re.findall(r"`(.+?)`", point)}
    settings = {
        field.name
        for kind in (vars(schema) | vars(experiments)).values()
        if is_dataclass(kind)
        for field in fields(kind)
    }
    assert len(points) > 50 and len(named) > 25 and not named - settings
    switches = set(re.findall(r"\(`(\w+)`", departures))
    assert len(switches) > 5 and not switches - settings


def test_the_cluster_page_names_every_launcher_field_and_every_state_of_a_run():
    text = (ROOT / "docs/cluster.md").read_text()
    named = {word for row in re.findall(r"^\| (`.+?) \|", text, re.M) for word in row.split("`")}
    assert {field.name for kind in (Launcher, Resources) for field in fields(kind)} <= named
    assert {"pending", "starting", "running", "stopped", "failed", "finished"} <= named


def test_the_table_of_environment_variables_is_that_of_the_code():
    """All but those with which one process of a command tells another something."""
    code = "".join(path.read_text() for path in sorted((ROOT / "d2it").rglob("*.py")))
    own = {WORKER, ALONE, last_word.FILE}
    table = re.findall(r"^\| `(D2IT_\w+)`", (ROOT / "docs/workflow.md").read_text(), re.M)
    assert set(table) == set(re.findall(r"D2IT_[A-Z_]+", code)) - own


def test_a_link_that_names_a_file_leads_to_it():
    for page in sorted((ROOT / "docs").glob("*.md")):
        for name, link in re.findall(r"\[`?(\w+\.py)`?\]\(([^)#]+)\)", page.read_text()):
            assert Path(link).name == name, f"{page.name}: {name} is a link to {link}"
