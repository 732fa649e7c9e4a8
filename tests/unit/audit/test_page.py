"""The page of an audit: findings and what they are about lead to each other, whatever strangers call things."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import page
from pipeline.audit.findings import Finding, Result
from pipeline.errors import HostLacks
from tests.fixtures import labruns
from tests.fixtures.audits import KERNEL, SNAPSHOT, STEP, examined

STRANGE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e" + "A" * 2000


class Page(HTMLParser):
    """The ids, links and elements of a page, and its text without its own style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements = ["html"]
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.elements.append(tag)
        self.ids += [str(known["id"])] if "id" in known else []
        self.links += [str(known["href"])] if "href" in known else []
        assert not [name for name in known if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data if self.elements[-1] not in ("style", "script") else ""


def rows(text: str) -> dict[str, str]:
    """The page's table rows by id."""
    return dict(re.findall(r'<tr id="([^"]+)">(.*?)</tr>', text, re.DOTALL))


def test_a_finding_leads_to_what_it_is_about_and_that_leads_back(tmp_path: Path) -> None:
    package, role = Finding("package", KERNEL, Result.FAIL, "changed"), Finding("role", KERNEL, Result.PASS, "fine")
    text = page.render(examined(package, role, Finding("role", "stock", Result.PASS, "fine")), tmp_path)
    found = rows(text)
    (target,) = re.findall(r'href="#(part-\d+)"', found["finding-0"])
    assert KERNEL in found[target] and 'href="#finding-0"' in found[target]
    assert re.search(r'href="#proof-\d+"', found["finding-1"]), "the proof of the package's role"
    assert 'href="#roles"' in found["finding-2"], "a set has no place of its own"
    shown = Page(text)
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    assert len(shown.ids) == len(set(shown.ids))


def test_findings_that_are_alike_have_one_link_with_their_number(tmp_path: Path) -> None:
    signed = [Finding("repository metadata", name, Result.PASS, "signed") for name in ("director", "stock")]
    text = page.render(examined(*signed), tmp_path)
    assert "2 repository metadata</a>" in text and text.count('href="#finding-0"') == 1


@pytest.mark.parametrize("check", ["package", "source", "statement", "patches", "role", "freshness", STRANGE])
def test_whatever_a_stranger_says_is_text(tmp_path: Path, check: str) -> None:
    text = page.render(examined(Finding(check, STRANGE, Result.FAIL, STRANGE), evidence=STRANGE), tmp_path)
    shown = Page(text)
    assert shown.elements.count("script") == 1 and "img" not in shown.elements
    assert "<script>alert(1)</script>" in shown.text
    assert not {"\x1b", "\u202e"} & set(text)
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)


def test_a_snapshot_of_a_thousand_packages_has_a_row_for_each(tmp_path: Path) -> None:
    many = [Finding("package", f"more-{number}-1.noarch.rpm", Result.PASS, "fine") for number in range(999)]
    shown = Page(page.render(examined(*many, packages=1000), tmp_path))
    assert len([each for each in shown.ids if each.startswith("part-")]) == 1000
    assert len(shown.ids) == len(set(shown.ids))


def test_the_labs_runs_are_shown_with_scenarios_and_checks_and_a_damaged_report_is_named(tmp_path: Path) -> None:
    for name, scenarios in (("one", (labruns.fullnat(), labruns.left_out())), ("two", (labruns.passed(),))):
        (tmp_path / name).mkdir()
        labruns.recorded(tmp_path / name, *scenarios, snapshot=SNAPSHOT)
    (tmp_path / "two" / "report.json").write_text("{")
    (tmp_path / "other").mkdir()
    labruns.recorded(tmp_path / "other", labruns.passed("other"), snapshot="b" * 32)
    text = Page(page.render(examined(), tmp_path)).text
    for wanted in ("0 of 1 scenarios passed", "server-two sees the client", "el6 has no ipip module", "emulated"):
        assert wanted in text
    assert "report.json cannot be read" in text
    assert str(tmp_path / "other") not in text, "another snapshot's"
    assert "No run of this snapshot is known here." in Page(page.render(examined(), tmp_path / "none")).text


def leaves(value: Any) -> Iterator[str]:
    """The texts in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)


def test_the_json_beside_the_page_has_what_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "lab" / "run").mkdir(parents=True)
    labruns.recorded(tmp_path / "lab" / "run", labruns.fullnat(), snapshot=SNAPSHOT)
    finding = Finding("role", KERNEL, Result.FAIL, "another one")
    beside = page.write(tmp_path / "audit.html", examined(finding, told=True), tmp_path / "lab")
    assert beside == tmp_path / "audit.json"
    found, shown = json.loads(beside.read_text()), Page((tmp_path / "audit.html").read_text())
    assert set(found) == {
        "format", "facts", "findings", "statements", "steps", "patches", "roles", "bill", "lab",
    }  # fmt: skip
    assert (found["facts"]["verdict"], found["facts"]["snapshot"]) == ("fail", SNAPSHOT)
    [series] = found["patches"]
    [file] = series["patches"][0]["files"]
    assert file["hunks"] == [{"number": 1, "line": 3, "offset": 0}, {"number": 2, "line": 9, "offset": 3}]
    assert "2 hunks, no fuzz; hunk 2 by +3 lines" in shown.text
    assert found["steps"][0]["step"] == STEP and found["steps"][0]["packages"] == [KERNEL]
    assert {row["size"] for row in found["bill"]["packages"]} == {1024}
    billed = [{**row, "nevra": ""} for rows in found["bill"].values() for row in rows]
    assert [text for text in leaves([found["findings"], found["roles"], billed]) if text not in shown.text] == []
    for check in found["lab"][0]["scenarios"][0]["checks"]:
        assert check["name"] in shown.text and check["found"] in shown.text


def test_a_page_whose_json_cannot_be_written_is_not_written_either(tmp_path: Path) -> None:
    (tmp_path / "audit.html").write_text("the one before")
    (tmp_path / "audit.json").mkdir()
    with pytest.raises(HostLacks, match=r"audit\.json: a directory; expected a file"):
        page.write(tmp_path / "audit.html", examined(), tmp_path / "none")
    assert (tmp_path / "audit.html").read_text() == "the one before"
    assert {path.name for path in tmp_path.iterdir()} == {"audit.html", "audit.json"}


def test_a_disk_that_is_full_leaves_page_and_json_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.write(tmp_path / "audit.html", examined(), tmp_path / "none")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.core.fs.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        page.write(tmp_path / "audit.html", examined(told=True), tmp_path / "none")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
