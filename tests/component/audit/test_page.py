"""The page of an audit in a real browser: in light and dark colours, and in print, where everything is unfolded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pipeline.audit import page
from pipeline.audit.findings import Finding, Result
from tests.fixtures import labruns
from tests.fixtures.audits import KERNEL, SNAPSHOT, examined
from tests.fixtures.browsers import CONTRAST_AA, chromium, opened

PAPER = 794  # pixels: A4


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a finding of each result, every part, and runs of the lab that passed, failed and were left out."""
    place = tmp_path_factory.mktemp("page")
    for name, scenarios in (("one", (labruns.fullnat(), labruns.left_out())), ("two", (labruns.passed(),))):
        (place / "lab" / name).mkdir(parents=True)
        labruns.recorded(place / "lab" / name, *scenarios, snapshot=SNAPSHOT)
    findings = (
        Finding("package", KERNEL, Result.FAIL, "its digest is another"),
        Finding("release key", "A" * 40, Result.WARN, "no policy names keys"),
        Finding("role", KERNEL, Result.PASS, "the role by its content"),
    )
    page.write(place / "audit.html", examined(*findings, told=True), place / "lab")
    return place / "audit.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, file: Path, scheme: str) -> None:
    shown = opened(browser, file, color_scheme=scheme)
    assert shown.is_light is (scheme == "light")
    shown.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    least, element = shown.least_contrast
    assert least >= CONTRAST_AA, element


FOLDED = ("the role by its content", "net/a.c", "IPVS without FULLNAT", "right release")


def test_in_print_everything_is_unfolded_and_no_part_is_wider_than_the_paper(browser: Browser, file: Path) -> None:
    shown = opened(browser, file, PAPER)
    for text in FOLDED:
        assert not shown.page.get_by_text(text).first.is_visible(), f"{text} is folded on the screen"
    shown.page.emulate_media(media="print")
    for text in (*FOLDED, "its digest is another"):
        assert shown.page.get_by_text(text).first.is_visible(), text
    assert not shown.page.locator("#search").is_visible()
    assert shown.ask("document.documentElement.scrollWidth") <= PAPER
    assert shown.page.pdf().startswith(b"%PDF")


def test_in_print_colours_are_those_of_paper_whatever_the_screen_has(browser: Browser, file: Path) -> None:
    shown = opened(browser, file, PAPER, color_scheme="dark")
    shown.page.emulate_media(media="print")
    least, element = shown.least_contrast
    assert least >= CONTRAST_AA, element
