"""The pages as a reader meets them: in headless Chromium, from a loopback server."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "reports"
THERE = (COMMITTED / "index.html").is_file()
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio"
)
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        say = "Chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(say)
        pytest.skip(say)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield started
        started.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Served:
    """A reports folder with the address it is served at."""

    folder: Path
    url: str

    def pages(self) -> list[str]:
        papers = sorted(self.folder.glob("papers/*.html"))
        return ["index.html", *(f"papers/{path.name}" for path in papers)]


@pytest.fixture(scope="module", params=["made", *["committed"] * THERE])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    folder = COMMITTED
    if request.param == "made":
        folder = request.getfixturevalue("site") / "reports"
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Served(folder, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Any]:
    """Opens a page; afterwards: nothing on the console, nothing asked of any other server."""
    said: list[str] = []
    context: Any = None

    def opener(name: str, **settings: Any) -> Page:
        nonlocal context
        context = browser.new_context(**settings)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        page.on("request", lambda r: None if _own(r.url, served) else said.append(r.url))
        page.goto(served.url + name, wait_until="load")
        return page

    yield opener
    context.close()
    assert said == []


def _own(url: str, served: Served) -> bool:
    return url.startswith((served.url, "data:"))


def load_all(page: Page) -> None:
    """Open what is folded, and load pictures that a reader would scroll to."""
    page.evaluate("""async () => {
      document.querySelectorAll('details').forEach(d => d.open = true);
      const images = [...document.images];
      images.forEach(i => i.loading = 'eager');
      await Promise.all(images.map(i => i.decode().catch(() => null)));
    }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_load_in_the_page_s_colours(served: Served, opened: Any, scheme: str) -> None:
    for name in served.pages():
        page = opened(name, color_scheme=scheme)
        load_all(page)
        images = page.evaluate("[...document.images].map(i => [i.currentSrc, i.naturalWidth])")
        assert all(width > 0 for _, width in images), images
        assert all(src.endswith(".dark.svg") == (scheme == "dark") for src, _ in images)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground[4:-1].split(",")) / 3
        assert brightness > 240 if scheme == "light" else brightness < 40
        page.context.close()


def test_board_shows_the_result_files(served: Served, opened: Any) -> None:
    claims = json.loads((served.folder / "claims.json").read_text())["claims"]
    page = opened("index.html")
    rows = page.evaluate(
        "[...document.querySelectorAll('tr[data-claim]')].map(row => ({...row.dataset}))"
    )
    found = {(row["paper"], row["claim"]): row for row in rows}
    assert len(found) == len(claims)
    for claim in claims:
        row = found[claim["paper"], claim["id"]]
        source = json.loads((served.folder / f"papers/{claim['paper']}.json").read_text())
        assert claim in source["claims"] and row["verdict"] == claim["verdict"]
        for key in ("value", "low", "high", "published"):
            assert (float(row[key]) if row[key] else None) == claim[key]


def test_no_page_is_wider_than_a_phone(served: Served, opened: Any) -> None:
    for name in served.pages():
        page = opened(name, viewport={"width": 380, "height": 800}, has_touch=True, is_mobile=True)
        load_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 380, name
        page.context.close()


def test_keyboard_reaches_everything(served: Served, opened: Any) -> None:
    for name in served.pages():
        page = opened(name)
        page.keyboard.press("Tab")
        first = page.evaluate("[document.activeElement.className, "
                              "document.activeElement.getBoundingClientRect().left]")  # fmt: skip
        assert first == ["skip", 0]
        wanted = "a[href], summary, audio"
        count = page.evaluate(f"document.querySelectorAll('{wanted}').length")
        reached: set[str] = set()
        page.evaluate(f"document.querySelectorAll('{wanted}').forEach((e, i) => e.dataset.n = i)")
        for _ in range(20 * count + 50):  # an audio player alone has several stops
            now = page.evaluate("document.activeElement.dataset.n ?? ''")
            if now:
                reached.add(now)
            if len(reached) == count:
                break
            page.keyboard.press("Tab")
        hidden = page.evaluate(
            f"[...document.querySelectorAll('{wanted}')].filter(e => !e.checkVisibility()).length"
        )
        assert len(reached) >= count - hidden, name
        page.context.close()


def test_folds_open_and_sound_is_there(served: Served, opened: Any) -> None:
    for name in served.pages():
        page = opened(name)
        folds = page.locator("details:not([open]) > summary")
        if folds.count():
            folds.first.focus()
            closed = folds.count()
            page.keyboard.press("Enter")
            assert folds.count() == closed - 1
        lengths = page.evaluate("""() => Promise.all([...document.querySelectorAll('audio')].map(
          a => new Promise(done => {
            if (a.readyState) return done(a.duration);
            a.onloadedmetadata = () => done(a.duration);
            a.onerror = () => done(0);
            a.load();
          })))""")
        assert all(seconds > 0 for seconds in lengths), name
        page.context.close()
