"""The page of `d2it app` in a browser: opened, painted on, waited for; and a picture of it.

python -m tests.browser.driven FOLDER docs/app.png [CLASS [SEED]]
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.chromium import find

PATIENCE = 60_000  # ms
WIDTH, HEIGHT = 1180, 720  # px of the picture: down to the command


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """The address of a page that draws with a folder."""
    words = [sys.executable, "-m", "d2it", "app", folder, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@contextmanager
def started() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        unguarded = ["--no-sandbox"] * (os.geteuid() == 0)  # chromium's needs another user
        browser = playwright.chromium.launch(executable_path=find(), args=unguarded)
        yield browser
        browser.close()


def opened(page: Page, address: str) -> Page:
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    drawn(page)
    return page


def drawn(page: Page) -> None:
    """Wait until nothing is being drawn."""
    expect(page.locator("body")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


def paint(page: Page, *regions: tuple[int, int]) -> None:
    """Move the mouse with its button down from region to region."""
    page.locator("#board").scroll_into_view_if_needed()
    box = page.locator("#board").bounding_box()
    side = page.evaluate("document.querySelector('#board canvas').width")
    assert box
    for i, (row, column) in enumerate(regions):
        x = box["x"] + (column + 0.5) * box["width"] / side
        y = box["y"] + (row + 0.5) * box["height"] / side
        page.mouse.move(x, y, steps=2 * side if i else 1)
        if i == 0:
            page.mouse.down()
    page.mouse.up()
    drawn(page)


def photograph(folder: str, out: str, label: str | None = None, seed: str = "0") -> None:
    """A disc of fine regions on a coarse ground, painted, and what is drawn of it."""
    with serving(folder) as address, started() as browser:
        view = {"width": WIDTH, "height": HEIGHT}
        page = opened(browser.new_page(viewport=view), address)
        if label:
            page.select_option("#label", label)
        page.fill("#seed", seed)
        page.press("#seed", "Enter")
        page.click("#coarse")
        drawn(page)
        for row, (first, last) in enumerate([(3, 4), (2, 5), (1, 6), (1, 6), (2, 5), (3, 4)]):
            paint(page, (row + 1, first), (row + 1, last))
        page.screenshot(path=out)


if __name__ == "__main__":
    photograph(*sys.argv[1:])
