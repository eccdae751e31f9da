"""The search page in a real Chromium without a window: typing, highlights, keys, colours, and what it never does."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecolbert import Index
from edgecolbert.serve.server import SearchServer

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="the package playwright is not installed, so no browser can be driven"
)
for package in ("starlette", "uvicorn"):
    pytest.importorskip(package, reason=f"the package {package} is not installed; the extra edgecolbert[dev] has it")

HANDBOOK = Path(__file__).parent.parent / "examples" / "handbook"
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=\'broken\'"><script>alert(1)</script> a zebra'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

Open = Callable[..., Any]


def records() -> list[dict[str, Any]]:
    notes = [
        {
            "id": path.name,
            "text": path.read_text(encoding="utf-8"),
            "metadata": {
                "path": f"notes/{'house' if number % 2 else 'garden/beds'}/{path.name}",
                "year": 2020 + number % 3,
            },
        }
        for number, path in enumerate(sorted(HANDBOOK.glob("*.md")))
    ]
    return [
        *notes,
        {
            "id": "hostile/..?#%",
            "text": HOSTILE,
            "metadata": {"title": "<b>Bold</b>\u202e title", "path": "notes/x.txt"},
        },
        {
            "id": "emoji",
            "text": "\U0001f600\U0001f600 An aardvark \U0001f600 sleeps.",
            "metadata": {"path": "notes/e.txt"},
        },
        {
            "id": "long",
            "text": "Nothing but filling. " * 11_000 + "One quagga at the end.",
            "metadata": {"path": "notes/l.txt"},
        },
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        installed = next(filter(None, map(shutil.which, BROWSERS)), None)
        own = Path(playwright.chromium.executable_path)
        if installed is None and not own.exists():
            pytest.skip("no Chromium is installed: neither the system's nor one of `playwright install chromium`")
        # Chromium's sandbox does not work for root, which is who runs tests in containers.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=None if own.exists() else installed, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchServer]:
    path = tmp_path_factory.mktemp("page") / "handbook.db"
    with Index.open(path) as index:
        index.add(records())
    with SearchServer(path) as running:
        yield running


@pytest.fixture
def open_page(browser: Any, server: SearchServer) -> Iterator[Open]:
    """Open the page with some options of the browser; afterwards it must have said and asked for nothing unseemly."""
    contexts, said, asked = [], [], []

    def opened(address: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        context.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        page.wait_for_selector("#count:has-text('documents')")
        if address:
            page.goto(f"{server.access.url}{address}")
        return page

    yield opened
    # A violated policy is an error in the console. That a half written filter was refused, the browser says, too.
    complaints = [text for text in said if "status of 400" not in text]
    for context in contexts:
        context.close()
    assert complaints == []
    assert asked
    assert {re.match(r"\w+://[^/]*/", url)[0] for url in asked} == {server.access.url}  # type: ignore[index]


def settled(page: Any, query: str, *, first: str | None = None) -> None:
    """Type a query and wait until its results are there."""
    page.fill("#query", "")
    page.type("#query", query, delay=15)
    page.wait_for_selector(f"#status:has-text('{query}')", state="attached")
    if first is not None:
        page.wait_for_selector(f".hit:first-child:has-text('{first}')")


def focused(page: Any) -> str:
    return str(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))


def test_results_and_highlights_come_while_one_types(open_page: Open) -> None:
    page = open_page()
    assert focused(page) == "query"
    page.keyboard.type("water keeps dripping", delay=15)
    page.wait_for_selector(".hit:first-child h2:has-text('A dripping tap') mark:has-text('dripping')")
    assert page.title() == "water keeps dripping · edgecolbert"
    assert re.fullmatch(r"\d+ ms", page.inner_text("#took"))
    # The heading of the text is not said twice.
    assert "# A dripping tap" not in page.inner_text(".hit:first-child")
    marked = page.eval_on_selector_all(".hit:first-child mark", "marks => marks.map(mark => mark.textContent)")
    assert "water" in {text.lower() for text in marked}
    # The count is read out, once it has stood for a moment.
    page.wait_for_selector("#status:has-text('results for water keeps dripping')", state="attached")
    assert page.get_attribute("#status", "aria-live") == "polite"


def test_the_token_does_not_stay_in_the_address(open_page: Open, server: SearchServer) -> None:
    page = open_page()
    assert page.url.partition("#")[0] == server.access.url
    assert server.access.token not in page.content()
    assert "edgecolbert" not in page.evaluate("() => document.cookie")
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_only_the_last_of_many_queries_is_shown(open_page: Open) -> None:
    page = open_page()
    for query in ("bread", "tick bite", "a knot", "slugs"):
        page.fill("#query", query)
    page.wait_for_selector("#status:has-text('for slugs')", state="attached")
    assert page.inner_text(".hit:first-child h2") == "Keeping slugs off lettuce"


def test_the_keyboard_is_enough(open_page: Open) -> None:
    page = open_page()
    settled(page, "water keeps dripping", first="A dripping tap")
    page.keyboard.press("ArrowDown")
    assert focused(page) == page.inner_text(".hit:nth-child(1) h2")
    page.keyboard.press("ArrowDown")
    second = page.inner_text(".hit:nth-child(2) h2")
    assert focused(page) == second
    page.keyboard.press("Enter")
    page.wait_for_selector("#document:not([hidden])")
    assert page.inner_text("#document-title") == second
    assert focused(page) == "document-title"
    page.keyboard.press("n")
    assert page.inner_text("#match-place").startswith("match 1 of ")
    page.keyboard.press("Escape")
    page.wait_for_selector("#document", state="hidden")
    assert focused(page) == second
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert focused(page) == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("/")
    assert focused(page) == "query"
    assert page.input_value("#query") == "water keeps dripping"
    page.keyboard.press("Escape")
    assert page.input_value("#query") == ""
    page.wait_for_selector("#empty:has-text('Type to search')")


def test_a_document_is_opened_with_its_matches(open_page: Open) -> None:
    page = open_page()
    settled(page, "water keeps dripping", first="A dripping tap")
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document-text .passage mark.m3")
    assert page.text_content("#document-text") == (HANDBOOK / "dripping-tap.md").read_text(encoding="utf-8")
    assert "notes/" in page.inner_text("#document-data")
    # Another query marks what matches that one.
    settled(page, "ceramic cartridge", first="A dripping tap")
    page.wait_for_selector("#document-text mark:has-text('cartridge')")
    with page.context.expect_page() as opened:
        page.click("#why")
    heat_map = opened.value
    heat_map.wait_for_selector("table.heat td.won")
    assert (
        heat_map.evaluate("() => getComputedStyle(document.querySelector('table.heat')).borderCollapse") == "collapse"
    )
    assert heat_map.url.startswith(page.url.partition("#")[0] + "why?")


def test_what_a_document_says_is_shown_as_it_is(open_page: Open) -> None:
    page = open_page()
    settled(page, "zebra alert", first="<b>Bold</b>")
    assert page.query_selector("#hits img, #hits script, #hits b") is None
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document:not([hidden]) #document-text mark:has-text('zebra')")
    assert page.text_content("#document-text") == HOSTILE
    assert page.query_selector("#document img, #document script, #document b") is None
    assert page.title() == "zebra alert · edgecolbert"


def test_characters_of_two_units_do_not_shift_the_marks(open_page: Open) -> None:
    page = open_page()
    settled(page, "aardvark", first="emoji")
    assert page.eval_on_selector_all(".hit:first-child mark", "marks => marks.map(mark => mark.textContent)") == [
        "aardvark"
    ]


def test_a_long_document_opens_where_it_matched(open_page: Open) -> None:
    page = open_page()
    settled(page, "quagga", first="long")
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document-text .passage mark:has-text('quagga')")
    page.wait_for_function("() => document.querySelector('#document-body').scrollTop > 0")
    page.click("#earlier")
    page.wait_for_selector("#later:not([hidden])")
    assert "quagga" not in page.text_content("#document-text")


def test_modes_are_chosen_by_arrow_keys(open_page: Open) -> None:
    page = open_page()
    settled(page, "faucet")
    page.focus("#modes input[value=hybrid]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".hit:first-child .ranks:text-matches('^meaning 1$')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#empty:has-text('Search by meaning instead')")


def test_filters_facets_and_folders_narrow_what_is_found(open_page: Open) -> None:
    page = open_page()
    page.fill("#filter", "year >=")
    page.wait_for_selector("#filter[aria-invalid=true]")
    assert "expected a value" in page.inner_text("#filter-note")
    page.fill("#filter", "year >= 2021")
    page.wait_for_selector("#filter-note:has-text('26 documents selected')")
    assert page.get_attribute("#filter", "aria-invalid") is None
    # Without a query, what is selected is listed.
    page.wait_for_selector("#count:text-is('26 documents')")
    page.click("#facets button:has-text('2022')")
    page.wait_for_selector("#count:text-is('13 documents')")
    page.wait_for_selector("#facets button[aria-pressed=true]:has-text('2022')")
    page.click("#folders button.turn")
    page.click("#folders .tree .tree button:has-text('beds')")
    page.wait_for_selector("#chips:has-text('notes/garden/beds/')")
    page.wait_for_selector("#count:text-matches('^[67] documents$')")
    settled(page, "water")
    places = page.eval_on_selector_all(".about > span:first-child", "all => all.map(one => one.textContent)")
    assert places
    assert all(place.startswith("notes/garden/beds/") for place in places)
    # Everything is in the address, behind the #, and comes back from there.
    page.wait_for_function("() => location.hash.includes('facets') && location.hash.includes('q=water')")
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("#chips li:nth-child(2)")
    again.wait_for_selector(".hit")
    assert again.input_value("#query") == "water"
    assert again.input_value("#filter") == "year >= 2021"
    again.click("#chips button >> nth=0")
    again.click("#chips button")
    again.wait_for_selector("#chips:empty", state="attached")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_colours_follow_the_system_until_others_are_chosen(open_page: Open, system: str) -> None:
    page = open_page(color_scheme=system)
    paper = "() => getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(245, 246, 248)", "dark": "rgb(17, 19, 24)"}
    other = "light" if system == "dark" else "dark"
    pressed = {"light": "false", "dark": "true"}
    assert page.evaluate(paper) == colours[system]
    assert page.get_attribute("#scheme", "aria-pressed") == pressed[system]
    page.click("#scheme")
    assert page.evaluate(paper) == colours[other]
    assert page.get_attribute("#scheme", "aria-pressed") == pressed[other]
    page.reload()
    page.wait_for_selector("#count:has-text('documents')")
    assert page.evaluate(paper) == colours[other]
    # What is explained opens in the same colours.
    settled(page, "water keeps dripping", first="A dripping tap")
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document:not([hidden])")
    assert page.get_attribute("#why", "href").endswith(f"scheme={other}")
    page.click("#scheme")
    assert page.evaluate(paper) == colours[system]


def test_a_screen_reader_finds_its_way(open_page: Open) -> None:
    page = open_page()
    settled(page, "water keeps dripping", first="A dripping tap")
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document:not([hidden])")
    tree = page.locator("body").aria_snapshot()
    for expected in (
        r"- banner:",
        r'- search "Documents":',
        r'- searchbox "Search"',
        r'- group "Search by":',
        r'- radio "Both" \[checked\]',
        r'- button "Dark mode"( \[pressed\])?:?',
        r'- complementary "Filters":',
        r'- textbox "Filter"',
        r'- heading "Folders" \[level=2\]',
        r'- main "Results":',
        r'- heading "Best 10 results" \[level=1\]',
        r'- list "Results":',
        r'- heading "A dripping tap" \[level=2\]',
        r'- link "A dripping tap":',
        r"- mark: dripping",
        r'- complementary "A dripping tap":',
        r'- button "Close document"',
        r'- link "Why it matched":',
        r'- region "Text of the document":',
        r"- contentinfo",
    ):
        assert re.search(expected, tree), f"{expected} is not in:\n{tree}"
    # Everything that can be used has a name, and no id stands twice.
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('a, button, input')].filter(element => element.checkVisibility() &&
        !(element.getAttribute('aria-label') || element.textContent.trim() || element.labels?.length)).length"""
    )
    assert nameless == 0
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    assert page.get_attribute("html", "lang") == "en"


def test_text_stands_out_from_its_ground(open_page: Open) -> None:
    """The contrast that WCAG asks for, 4.5 to 1, between all colours that texts have on what they stand on."""
    for system in ("light", "dark"):
        page = open_page(color_scheme=system)
        settled(page, "water keeps dripping", first="A dripping tap")
        page.click("#facets button >> nth=0")
        page.wait_for_selector("#facets button[aria-pressed=true]")
        page.wait_for_selector(".hit")
        page.click(".hit:first-child h2 a")
        page.wait_for_selector("#document:not([hidden])")
        weak = page.evaluate(
            """() => {
              const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v =>
                v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) =>
                sum + v * [0.2126, 0.7152, 0.0722][i], 0);
              const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
              const ground = element => {
                for (let at = element; at; at = at.parentElement) {
                  const found = numbers(getComputedStyle(at).backgroundColor);
                  if (found.length === 3 || found[3] === 1) return found;
                }
                return [255, 255, 255];
              };
              const weak = new Set();
              const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
              while (walker.nextNode()) {
                const element = walker.currentNode.parentElement;
                if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
                if (element.closest('.unseen, noscript, .skip')) continue;
                const [one, two] = [luminance(numbers(getComputedStyle(element).color)), luminance(ground(element))];
                const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
                if (contrast < 4.5) weak.add(`${element.tagName}.${element.className}: ${contrast.toFixed(2)}`);
              }
              return [...weak];
            }"""
        )
        assert weak == []


def test_a_small_window_has_everything(open_page: Open) -> None:
    page = open_page()
    page.set_viewport_size({"width": 380, "height": 740})
    settled(page, "water keeps dripping", first="A dripping tap")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert not page.is_visible("#filter")
    page.click("#narrow")
    assert page.is_visible("#filter")
    assert page.get_attribute("#narrow", "aria-expanded") == "true"
    page.click(".hit:first-child h2 a")
    page.wait_for_selector("#document:not([hidden])")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_a_server_that_was_stopped_is_noticed(browser: Any, tmp_path: Path) -> None:
    with Index.open(tmp_path / "one.db") as index:
        index.add(["A kettle."])
    context = browser.new_context()
    try:
        page = context.new_page()
        with SearchServer(tmp_path / "one.db") as server:
            page.goto(server.url)
            page.wait_for_selector("#count:text-is('1 document')")
        page.fill("#query", "kettle")
        page.wait_for_selector("#alert:has-text('The server does not answer')")
    finally:
        context.close()
