"""The README in Chinese is the README: the same sections, commands, names and links, in other words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
PAGE, TRANSLATED = "README.md", "README.zh-CN.md"


def sections(name: str) -> list[str]:
    return re.split(r"(?m)^## ", FENCED.sub("", (ROOT / name).read_text()))


def spans(text: str) -> Counter[str]:
    """Commands, options and names in a text."""
    return Counter(re.findall(r"`([^`\n]+)`", text))


def links(text: str) -> Counter[str]:
    return Counter(re.findall(r"\]\(([^)\s]+)\)", text))


def test_every_block_of_commands_and_output_is_the_same() -> None:
    page, translated = (FENCED.findall((ROOT / name).read_text()) for name in (PAGE, TRANSLATED))
    assert translated == page
    assert len(page) > 5


def test_every_section_names_the_same_commands_and_links_to_the_same_places() -> None:
    page, translated = sections(PAGE), sections(TRANSLATED)
    assert len(translated) == len(page)
    assert spans("".join(page)).total() > 40
    other = {PAGE: TRANSLATED}
    for ours, theirs in zip(page, translated, strict=True):
        place = ours.partition("\n")[0]
        assert spans(theirs) == spans(ours), place
        assert Counter({other.get(name, name): n for name, n in links(theirs).items()}) == links(ours), place


def test_every_row_of_a_table_has_its_row() -> None:
    counts = [[text.count("\n| ") for text in sections(name)] for name in (PAGE, TRANSLATED)]
    assert counts[0] == counts[1]


def test_each_links_to_the_other() -> None:
    for name, other in ((PAGE, TRANSLATED), (TRANSLATED, PAGE)):
        assert f"]({other})" in (ROOT / name).read_text().split("\n## ")[0]
