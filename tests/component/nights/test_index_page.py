"""The page of all nights in a real browser: it asks for nothing, fits a telephone, and can be read in both colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pipeline.nights import index, record
from pipeline.nights.record import SourceState, Upstream, Verdict
from tests.fixtures.browsers import CONTRAST_AA, chromium, opened
from tests.unit.nights.test_record import line, night, written


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with nights of every verdict, an update and an alarm."""
    nights = record.root(tmp_path_factory.mktemp("nights"))
    alarm = SourceState("tools", Upstream.ALARM, "", "", "", "the pinned file changed")
    green = replace(line(Verdict.GREEN, "a" * 32, released=True), seconds={"build": 61.0}, packages=3, bytes=4096)
    rows = [green, replace(green, upstream=(alarm,)), *(line(verdict) for verdict in Verdict)]
    written(nights, *(night(number, row) for number, row in enumerate(rows, 1)))
    return index.write(nights)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Browser, file: Path, scheme: str) -> None:
    shown = opened(browser, file, color_scheme=scheme)
    assert shown.is_light is (scheme == "light")
    shown.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    least, element = shown.least_contrast
    assert least >= CONTRAST_AA, element


def test_the_page_asks_for_nothing_but_itself_and_fits_a_telephone(browser: Browser, file: Path) -> None:
    shown = opened(browser, file)
    assert shown.asked == [file.as_uri()]
    assert shown.ask("document.documentElement.scrollWidth") <= 360
    assert shown.page.get_by_text("the pinned file changed").first.is_visible()
