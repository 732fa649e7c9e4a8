"""The lab's page in a real browser: on a phone and a desk, in the dark and in print, and without any script."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from pipeline.lab.report import page as report
from pipeline.lab.report.results import Report
from tests.fixtures import browsers, labruns
from tests.fixtures.browsers import CONTRAST_AA, Opened, chromium

WIDTHS = [360, 768, 1280]  # pixels: a phone, a tablet, a desk


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def opened(browser: Browser, run: Report, where: Path, width: int = 360, **more: Any) -> Opened:
    return browsers.opened(browser, report.write(run, where), width, **more)


def crowded() -> Report:
    """Names and addresses as long as can be, and many guests: what would be the first to leave a narrow page."""
    long = "a_name_that_goes_on_and_on_without_any_place_to_break_it_" * 2
    base = labruns.fullnat()
    servers = [
        labruns.guest(
            f"{long}{number}",
            "server",
            "realserver",
            labruns.card(f"{long}{number % 4}", long, number, f"{'fd00:' * 7}1/64"),
        )
        for number in range(8)
    ]
    rows = tuple(
        row.model_copy(update={"source": long + str(n % 5), "text": long * 3}) for n, row in enumerate(base.sequence)
    )
    checks = tuple(check.model_copy(update={"found": long * 4, "name": long}) for check in base.checks)
    update = {
        "guests": (*base.guests, *servers),
        "sequence": rows,
        "checks": checks,
        "name": long,
        "why": long,
        "captures": {long: long},
    }
    return labruns.report(base.model_copy(update=update), labruns.broken()).model_copy(update={"snapshot": long * 2})


RUNS = {"usual": labruns.report, "crowded": crowded}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, run: str, width: int) -> None:
    shown = opened(browser, RUNS[run](), tmp_path, width)
    shown.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert shown.ask("document.documentElement.scrollWidth") <= width
    wide = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('svg') || e.matches('svg.sheet'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert shown.ask(wide) == []


TEXTS = """() => [...document.querySelectorAll('svg.sheet')].map(svg => {
    const edge = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => {
        const box = t.getBoundingClientRect();
        return {text: t.textContent, left: box.left - edge.left, right: box.right - edge.left,
                top: box.top - edge.top, bottom: box.bottom - edge.top, width: edge.width, height: edge.height};
    });
})"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", RUNS)
def test_texts_of_a_drawing_are_inside_it_and_apart(browser: Browser, tmp_path: Path, run: str, width: int) -> None:
    drawings = opened(browser, RUNS[run](), tmp_path, width).ask(TEXTS)
    assert len(drawings) >= 6 and all(drawings)
    for texts in drawings:
        for number, one in enumerate(texts):
            assert one["left"] >= -1 and one["right"] <= one["width"] + 1 and one["bottom"] <= one["height"] + 5, one
            for two in texts[number + 1 :]:
                beside = one["right"] <= two["left"] + 1 or two["right"] <= one["left"] + 1
                # A line's box has room above and below its letters: a fifth of it may be shared.
                height = one["bottom"] - one["top"]
                assert beside or abs(one["top"] - two["top"]) >= 0.8 * height, (one, two)


def test_texts_of_drawings_can_be_read_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    shown = opened(browser, labruns.report(), tmp_path)
    shown.ask("document.querySelector('pre').scrollIntoView()")
    shown.page.screenshot()  # the browser decides what is in sight when it draws
    heights = shown.ask("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert min(heights) >= 12  # pixels of a line: letters of about 11


def test_the_page_asks_for_nothing_but_itself_and_runs_no_script(browser: Browser, tmp_path: Path) -> None:
    attack = "</pre></svg><script>document.title='run'</script><img src='https://example.com/x' onerror='1'>"
    guest = labruns.guest(attack, "client", attack, labruns.card(attack, "eth0", 1, attack), console=attack)
    run = labruns.report(labruns.broken().model_copy(update={"guests": (guest,), "why": attack}))
    shown = opened(browser, run, tmp_path)
    assert shown.asked == [(tmp_path / "report.html").as_uri()]
    page = browser.new_page()  # scripts allowed: there are none to run, and the page forbids them
    page.goto((tmp_path / "report.html").as_uri())
    assert page.title().startswith("Lab of el6: ")
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0


def test_a_console_opens_and_a_finding_is_reached_by_its_link(browser: Browser, tmp_path: Path) -> None:
    shown = opened(browser, labruns.report(labruns.broken()), tmp_path)
    mark = shown.page.locator("mark")
    shown.page.get_by_role("link", name="line 64").click()
    assert mark.is_visible() and labruns.TRACE.splitlines()[0] in mark.inner_text()
    assert 0 <= shown.ask("document.querySelector('mark').getBoundingClientRect().top") < 740
    console = shown.page.locator(".consoles details").nth(1)
    assert console.get_attribute("open") is None
    console.locator("summary").click()
    assert console.get_by_text("No output.").is_visible()


def test_a_mebibyte_of_console_is_laid_out_only_where_it_is_looked_at(browser: Browser, tmp_path: Path) -> None:
    text = "".join(f"[{number:8}.000000] something or other was said here by a driver\n" for number in range(17_000))
    assert len(text) > 1 << 20
    guest = labruns.guest("talker", "client", "stock", console=text)
    shown = opened(browser, labruns.report(labruns.passed().model_copy(update={"guests": (guest,)})), tmp_path)
    shown.page.get_by_role("link", name="boot", exact=True).click()
    shown.page.locator(".consoles summary").click()
    shown.ask("document.querySelector('pre').scrollIntoView()")
    shown.page.screenshot()  # the browser decides what is in sight when it draws
    heights = shown.ask("[...document.querySelectorAll('pre > span')].map(s => s.getBoundingClientRect().height)")
    # Not laid out is what has the height that the style sheet says instead; in sight is the first piece alone.
    assert len(heights) == 43 and heights[0] != 7000 and heights[1:].count(7000) >= 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, tmp_path: Path, scheme: str) -> None:
    shown = opened(browser, labruns.report(), tmp_path, color_scheme=scheme)
    assert shown.is_light is (scheme == "light")
    least, element = shown.least_contrast
    assert least >= CONTRAST_AA, element


def test_headings_go_down_one_level_at_a_time_and_pictures_have_words(browser: Browser, tmp_path: Path) -> None:
    shown = opened(browser, labruns.report(), tmp_path)
    levels = shown.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    unnamed = "[...document.querySelectorAll('svg')].filter(s => !s.closest('[aria-hidden], [aria-label]')).length"
    assert shown.ask(unnamed) == 0
    assert shown.page.get_by_role("row", name="fullnat").inner_text().split() == [
        "fullnat",
        "✗",
        "failed",
        "2/3",
        "21.4",
        "s",
    ]


def test_in_print_the_packages_are_there_and_no_line_is_lost(browser: Browser, tmp_path: Path) -> None:
    shown = opened(browser, labruns.report(), tmp_path, width=794)
    shown.page.emulate_media(media="print")
    assert shown.page.get_by_text("f" * 64).is_visible()
    assert shown.page.locator("mark").is_visible()
    assert shown.ask("getComputedStyle(document.querySelector('details[open] pre')).maxHeight") == "none"
    assert shown.page.pdf().startswith(b"%PDF")


def test_a_folded_scenario_opens_by_its_link_and_by_its_headline(browser: Browser, tmp_path: Path) -> None:
    shown = opened(browser, labruns.report(), tmp_path)
    check = shown.page.get_by_text("right release")
    assert not check.is_visible() and shown.page.get_by_text("-Ln shows FullNat").is_visible()
    shown.page.get_by_role("link", name="boot", exact=True).click()
    assert (
        check.is_visible() and 0 <= shown.ask("document.querySelector('.scenario').getBoundingClientRect().top") < 740
    )
    shown.page.locator(".scenario > summary").first.click()
    assert not check.is_visible()
    shown.page.emulate_media(media="print")
    assert check.is_visible()
