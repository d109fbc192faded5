"""The page of a scale: what it shows resolves, needs no network, and is byte-stable."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from d2it.config import paths
from d2it.config.run import run_of, runs_of
from d2it.config.study import FIGURES, TABLES, load_study, needs
from d2it.report.figures import write_figure
from d2it.report.page import write_page
from d2it.report.page_pictures import POINTS, losses
from d2it.report.tables import write_table
from tests.composed import composed
from tests.fake_results import write_gallery, write_results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of everything but what trains: numbers, pictures and one training log."""
    study = load_study()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        patch.delenv("D2IT_RUNS", raising=False)
        config = composed()
        write_results(config)
        write_gallery(config, "d2it_l", "one_map", 8, shared=True)
        write_gallery(config, "d2it_xl_classes", "main", 16, shared=False)
        write_gallery(config, "dit_xl_classes", "main", 16, shared=False)
        for name in TABLES:
            write_table(study, name, config)
        for name in FIGURES:
            write_figure(study, name, config)
        log(config, "d2it_b", [(100 * i, 2.0 - i / 1000) for i in range(1, 1001)])
        write_page(study, config)
        yield config


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("D2IT_RUNS", raising=False)
    return composed()


def log(config, run: str, points) -> None:
    folder = run_of(config, run).folder
    folder.mkdir(parents=True)
    rows = [json.dumps({"images": i, "loss/content": x, "tflops": 1}) for i, x in points]
    (folder / "metrics.jsonl").write_text("\n".join(rows))


def leads(page: Path) -> list[str]:
    """What its links and pictures name; an anchor is in the page, all else a file beside it."""
    text = page.read_text()
    named = [unquote(name) for name in re.findall(r'(?:href|src)="([^"]*)"', text)]
    lost = [n for n in named if not n.startswith("#") and not (page.parent / n).is_file()]
    lost += [n for n in named if n.startswith("#") and f'id="{n[1:]}"' not in text]
    assert not lost, f"{page}: {lost}"
    return named


def test_every_link_resolves_and_nothing_asks_for_a_network(made):
    text, named = paths.page(made).read_text(), leads(paths.page(made))
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?:", text)
    for name in FIGURES:
        assert f"figures/{name}.png" in named and f"figures/{name}.svg" in named
    for name in TABLES:
        assert {f"tables/{name}.{kind}" for kind in ("csv", "md", "tex")} <= set(named)
    study = load_study()
    for run in {run for item in (*TABLES, *FIGURES) for run in needs(study, item, made)}:
        assert f"evaluations/{run}.json" in named and f'id="run-{run}"' in text
    assert "samples/d2it_xl_classes.png" in named and "Not made yet" not in text


def test_it_is_the_same_bytes_again(made):
    files = [paths.page(made), *sorted(paths.samples(made).iterdir())]
    before = [file.read_bytes() for file in files]
    write_page(load_study(), made)
    assert [file.read_bytes() for file in files] == before and len(files) == 4


def test_it_shows_what_numbers_are_worth_and_every_table_in_full(made):
    text = paths.page(made).read_text()
    assert made.caption_of(made.task.values()) in text and f"n = {made.evaluation.n}" in text
    assert "one sampling seed" in text and "from one seed" in text
    for name in TABLES:
        table = (paths.tables(made) / f"{name}.md").read_text()
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        part = text.split(f'id="{name}"')[1].split("<h2")[0]
        assert part.count("<tr") == len(lines) - 1  # the line of dashes
        for line in lines[2:]:
            method = line.strip("| ").split(" | ")[0].strip()
            assert method.replace("&", "&amp;") in part


def test_maps_stand_below_samples_but_not_below_those_of_a_dit(made):
    with_maps, without = (
        np.asarray(Image.open(paths.samples(made) / f"{run}.png"))
        for run in ("d2it_xl_classes", "dit_xl_classes")
    )
    assert with_maps.shape[0] > 2 * without.shape[0] > 0 and with_maps.shape[1] == without.shape[1]


def test_a_page_can_be_written_at_any_time(empty):
    """Before anything is made; and with a log alone, whose curve it has."""
    page = write_page(load_study(), empty)
    text = page.read_text()
    leads(page)
    assert text.count("Not made yet") == len(TABLES) + len(FIGURES)
    assert "<polyline" not in text and "Nothing is evaluated yet" in text
    log(empty, "d2it_b", [(10, 2.0), (20, 1.5), (20, 1.25)])
    card = write_page(load_study(), empty).read_text().split('id="run-d2it_b"')[1]
    assert "Training loss 2 → 1.25 over 20 images" in card.split("</article>")[0]
    shutil.rmtree(run_of(empty, "d2it_b").folder)
    assert write_page(load_study(), empty).read_text() == text


def test_a_long_log_is_a_short_curve(empty):
    log(empty, "d2it_b", [(i, i % 2) for i in range(1, 100_001)])
    found = losses(run_of(empty, "d2it_b").folder / "metrics.jsonl")
    assert len(found) == POINTS and found[-1] == (100_000, 0.5)


def test_a_damaged_log_is_no_error(empty):
    log(empty, "d2it_b", [(10, 2.0), (20, 1.0)])
    path = run_of(empty, "d2it_b").folder / "metrics.jsonl"
    half = b'\n{"images": 30, "los'  # killed while it was written
    path.write_bytes(path.read_bytes() + b'\n{"images": 25, "l\xefss": 3.0}' + half)
    assert losses(path) == [(10, 2.0), (20, 1.0)]


def test_runs_of_every_kind_have_a_card(made):
    text = paths.page(made).read_text()
    kinds = {run_of(made, run).kind for run in re.findall(r'<article id="run-(\w+)"', text)}
    assert kinds == {run.kind for run in runs_of(made).values()}


def test_links_of_the_committed_page_resolve():
    assert len(leads(ROOT / "docs/demo/index.html")) > 50
