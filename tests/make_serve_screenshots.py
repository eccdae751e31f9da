"""Draws the pictures of docs/serve.md: the search page over the handbook, in both colours, by a real Chromium.

    python tests/make_serve_screenshots.py

Needs the packages of the extra `dev` and an installed Chromium.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from edgecolbert import Index
from edgecolbert.serve.server import SearchServer

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "serve"
# By words in the names of the files.
TOPICS = {
    "bicycle": "bicycle brakes chain tyre",
    "garden": "compost houseplant prune slugs tomato",
    "health": "burn choking heat nosebleed sprained tick",
    "kitchen": "bread cast jam rice sourdough sharpen",
    "outdoors": "find knot tent water-purify",
    "paper and files": "letter lost photo laptop moving",
    "car": "car",
}


def topic(name: str) -> str:
    return next((topic for topic, words in TOPICS.items() if any(word in name for word in words.split())), "house")


def record(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    kind = topic(path.stem)
    metadata = {
        "path": f"handbook/{kind}/{path.name}",
        "topic": kind,
        "tags": ["tools"] if any(word in text for word in ("screw", "spanner", "drill", "saw")) else ["by hand"],
    }
    return {"id": path.name, "text": text, "metadata": metadata}


def picture(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.eval_on_selector_all(".narrowing", "all => all.forEach(one => one.scrollTo(0, 0))")
    # Playwright itself writes no WebP.
    session = page.context.new_cdp_session(page)
    taken = session.send("Page.captureScreenshot", {"format": "webp", "quality": 82})
    path = FOLDER / name
    path.write_bytes(base64.b64decode(taken["data"]))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        database = Path(scratch, "handbook.db")
        with Index.open(database) as index:
            index.add([record(path) for path in sorted((ROOT / "examples" / "handbook").glob("*.md"))])
        browser = playwright.chromium.launch(executable_path=installed, args=arguments)
        with SearchServer(database) as server:
            for scheme in ("light", "dark"):
                page = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 800}).new_page()
                page.goto(server.url)
                page.wait_for_selector("#facets details >> nth=1")
                page.click("#facets button:has-text('house')")
                page.wait_for_selector("#facets button[aria-pressed=true]")
                page.fill("#query", "water keeps dripping at night")
                page.wait_for_selector(".hit:nth-child(9) mark")
                page.wait_for_timeout(1_000)
                picture(page, f"results-{scheme}.webp")
                page.click("#chips button")
                page.wait_for_selector(".hit:nth-child(10)")
                page.keyboard.press("ArrowDown")
                page.keyboard.press("Enter")
                page.wait_for_selector("#document:not([hidden]) mark")
                page.wait_for_timeout(1_000)
                picture(page, f"document-{scheme}.webp")
                if scheme == "light":
                    page.goto(f"{server.access.url.rstrip('/')}{page.get_attribute('#why', 'href')}")
                    page.wait_for_selector("table.heat")
                    picture(page, "why.webp")
        browser.close()


if __name__ == "__main__":
    main()
