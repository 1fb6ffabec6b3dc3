"""Checks the site that build.py built: its links, and, if there is a browser, how each page looks to it.

With `--pictures` it also takes a picture of each, into target/site-pictures.
"""

import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urldefrag, urlsplit

SITE = Path(__file__).parents[2] / "target" / "site"
PICTURES = SITE.with_name("site-pictures")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = {"phone": 390, "desk": 1280}


class Page(HTMLParser):
    """What a page links to, and what can be linked to on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's addresses and its id."""
        self.ids.update(value for name, value in attrs if name in ("id", "name") and value)
        self.links.update(value for name, value in attrs if name in ("href", "src") and value)


def check_links() -> Iterator[str]:
    """Return each link within the site that leads nowhere."""
    page_at = functools.cache(Page)
    for path in sorted(SITE.rglob("*.html")):
        if path.name == "404.html":  # its links begin at the root of wherever the site is
            continue
        for link in sorted(page_at(path).links):
            address, anchor = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{path.relative_to(SITE)}: {link} does not exist"
            elif anchor and target.suffix == ".html" and unquote(anchor) not in page_at(target).ids:
                yield f"{path.relative_to(SITE)}: {link} has no such anchor"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served() -> Iterator[str]:
    """Serve the site, and return its address."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def check_in_browser(chromium: str, take_pictures: bool) -> Iterator[str]:
    """Open every page, light and dark, on a phone and on a desk; return what is wrong."""
    from playwright.sync_api import Request, Response, sync_playwright  # only where there is a browser

    seen: list[str] = []

    def see_request(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            seen.append(f"asks another host: {request.url}")

    def see_response(response: Response) -> None:
        if response.status >= 400:
            seen.append(f"{response.status}: {response.url}")

    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in SCHEMES:
            page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")
            page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: seen.append(str(error)))
            page.on("request", see_request)
            page.on("requestfailed", lambda request: seen.append(f"failed: {request.url}"))
            page.on("response", see_response)
            for path in sorted(SITE.rglob("*.html")):
                name = path.relative_to(SITE).as_posix()
                page.goto(address + name, wait_until="networkidle")
                for device, width in WIDTHS.items():
                    page.set_viewport_size({"width": width, "height": 900})
                    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                        seen.append(f"wider than a {device} of {width} pixels")
                    if take_pictures:
                        page.screenshot(path=PICTURES / f"{name.replace('/', '-')}-{scheme}-{device}.png")
                yield from (f"{name}, {scheme}: {what}" for what in seen)
                seen.clear()
        browser.close()


def main() -> None:
    """Check the site."""
    wrong = list(check_links())
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("no Chromium is installed: no page was opened in a browser")
    else:
        wrong += check_in_browser(chromium, "--pictures" in sys.argv)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print("links are right" + (", and every page in a browser, light and dark, wide and narrow" if chromium else ""))


if __name__ == "__main__":
    main()
