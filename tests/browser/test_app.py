"""`d2it app` as a person uses it: a real browser, the real command, and `d2it sample` beside it."""

import base64
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.driven import drawn, opened, paint, serving, started
from tests.commands import command
from tests.exported import THREE, export_random
from tests.tiny_world import enter

SIDE = 8


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        enter(tmp_path_factory.mktemp("app"), patch)
        export_random("exported")
        export_random("three", THREE)
        yield


@pytest.fixture(scope="module")
def app(folders: None) -> Iterator[str]:
    with serving("exported") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def page(app: str, browser: Browser) -> Iterator[Page]:
    """A new window; nothing may fail in it, or be asked of another machine."""
    with browser.new_context() as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=app)
        page, failed, asked = context.new_page(), [], set()
        page.on("pageerror", lambda error: failed.append(error))
        page.on("console", lambda said: failed.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        yield opened(page, app)
        refused = "Failed to load resource"  # what the browser says of a status of 400
        assert not [said for said in failed if refused not in str(said)]
        assert asked <= {urlsplit(app).netloc, ""}


def picture(image: Locator) -> bytes:
    return base64.b64decode(
        (image.get_attribute("src") or "").removeprefix("data:image/png;base64,")
    )


def sampled(words: str, folder: Path) -> tuple[bytes, np.ndarray]:
    """The picture and the map of the page's command, which writes to `folder`."""
    arguments = shlex.split(words)[1:]
    seed = int(arguments[arguments.index("--seeds") + 1])
    done = command(*arguments[:-1], str(folder))
    assert done.returncode == 0, done.stderr
    return (folder / f"{seed:06d}.png").read_bytes(), np.load(folder / "maps.npy")[0]


def test_paint_draw_change_and_compare(page: Page, tmp_path: Path) -> None:
    page.click("#coarse")
    drawn(page)
    paint(page, (2, 1), (2, 5), (6, 5))
    map = np.zeros((SIDE, SIDE), dtype=np.int64)
    map[2, 1:6] = map[2:7, 5] = 1
    image = page.locator("#drawn .picture img")
    file, given = sampled(page.inner_text("#command"), tmp_path / "painted")
    assert np.array_equal(given, map) and picture(image) == file
    expect(page.locator("#drawn dl")).to_contain_text(f"{64 + 3 * 9} of 256")

    beside = picture(page.locator("#beside .picture img"))
    page.click("#use")
    drawn(page)
    other, given = sampled(page.inner_text("#command"), tmp_path / "other")
    assert np.array_equal(given, 1 - map) and picture(image) == other == beside != file

    page.select_option("#label", "food")
    for name, value in (("seed", "21"), ("steps", "3"), ("guidance", "1.5")):
        page.fill(f"#{name}", value)
        page.press(f"#{name}", "Enter")
    page.check("#brushes label:first-child input")
    paint(page, (0, 0))
    changed, given = sampled(page.inner_text("#command"), tmp_path / "changed")
    assert given[0, 0] == 0 and given.sum() == (1 - map).sum() - 1
    assert picture(image) == changed != other
    for word in ("food", "--seeds 21", "--steps 3", "--guidance 1.5"):
        assert word in page.inner_text("#command")


def test_the_networks_map_at_another_ratio(page: Page, tmp_path: Path) -> None:
    page.locator("#ratio input").fill("0.25")
    drawn(page)
    words = page.inner_text("#command")
    file, map = sampled(words, tmp_path / "drawn")
    assert "--ratio 0.25" in words and picture(page.locator("#drawn .picture img")) == file
    expect(page.locator("#drawn dl")).to_contain_text(f"{64 + 3 * map.sum()} of 256")


def test_three_grains(browser: Browser, tmp_path: Path) -> None:
    """Their shares give way to each other, and each can be painted with."""
    with serving("three") as address, browser.new_context() as context:
        page = opened(context.new_page(), address)
        page.locator("#ratio input").first.fill("0.8")
        drawn(page)
        assert "--ratio 0.8,0.2" in page.inner_text("#command")
        page.check("#brushes label:nth-child(2) input")
        paint(page, (0, 0), (0, 3))
        page.click("#complement")
        drawn(page)
        file, map = sampled(page.inner_text("#command"), tmp_path / "three")
        assert picture(page.locator("#drawn .picture img")) == file
        assert map[0].tolist() == [1, 1, 1, 1]


def test_the_map_of_a_photograph(page: Page, tmp_path: Path) -> None:
    pixels = np.full((90, 70, 3), 128, dtype=np.uint8)
    pixels[:, 35:] = np.random.default_rng(0).integers(0, 256, (90, 35, 3))
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page.set_input_files("#photograph", tmp_path / "photo.png")
    expect(page.locator("#command")).to_contain_text("--grain-map 00001111,0")
    page.set_input_files("#photograph", {"name": "a.png", "mimeType": "image/png", "buffer": b"a"})
    expect(page.locator("#told")).to_contain_text("no image of a known kind")


def test_the_previous_map(page: Page) -> None:
    page.click("#coarse")
    drawn(page)
    coarse = picture(page.locator("#drawn .picture img"))
    page.click("#fine")
    drawn(page)
    page.select_option("#other", "previous")
    drawn(page)
    assert picture(page.locator("#beside .picture img")) == coarse


def test_reloads_double_clicks_and_two_windows(page: Page, app: str, browser: Browser) -> None:
    paint(page, (7, 0), (7, 7))
    page.dblclick("#another")
    drawn(page)
    words = page.inner_text("#command")
    assert "--seeds 2 " in words
    page.dblclick("#another")  # of another block: while it is drawn,
    page.reload()
    drawn(page)
    assert (
        page.inner_text("#command").split(" --out")[0]
        == (words.replace("--seeds 2 ", "--seeds 4 ").split(" --out")[0])
    )
    with browser.new_context() as context:
        second = opened(context.new_page(), app)
        page.click("#fine")
        second.click("#coarse")
        drawn(page)
        drawn(second)
        assert "11111111,1" in page.inner_text("#command")
        assert "00000000,0" in second.inner_text("#command")
    image = picture(page.locator("#drawn .picture img"))
    page.click("#seeds button:nth-child(2)")
    drawn(page)
    assert "--seeds 5 " in page.inner_text("#command")
    assert picture(page.locator("#drawn .picture img")) != image


def test_painting_with_the_keyboard(page: Page) -> None:
    page.click("#coarse")
    drawn(page)
    page.focus("#board")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    drawn(page)
    assert "00000000,00100000,0" in page.inner_text("#command")


def test_words_are_copied(page: Page) -> None:
    for name in ("command", "python"):
        page.click(f"[data-copies={name}]")
        expect(page.locator(f"[data-copies={name}]")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == page.text_content(f"#{name}")


def test_what_is_refused_is_a_sentence_on_the_page(page: Page, app: str) -> None:
    page.evaluate("document.querySelector('#label').append(new Option('no class'))")
    page.select_option("#label", "no class")
    expect(page.locator("#told.wrong")).to_contain_text("There is no class 'no class'")
    page.select_option("#label", "flags")
    expect(page.locator("#told")).to_have_text("")
    page.route(f"{app}/draw", lambda route: route.abort())
    page.click("#fine")
    expect(page.locator("#told.wrong")).to_contain_text("is `d2it app` still running?")
