"""The page of an audit: findings and what they are about lead to each other, whatever strangers call things."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.audit import page
from pipeline.audit.audit import Audit, Examined
from pipeline.audit.findings import Finding, Result
from pipeline.audit.identity import Evidence, Identity, Kind, Role
from pipeline.audit.snapshot_checks import Audited
from pipeline.inspect.module_facts import Interface
from pipeline.publish.snapshot_contents import Document, MadeBy, Row, Signer
from tests.fixtures import labruns

SNAPSHOT = "a" * 32
STRANGE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e" + "A" * 2000
KERNEL = "kernel-6.1.0-1.x86_64.rpm"


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


def examined(*findings: Finding, packages: int = 1, evidence: str = "IPVS without FULLNAT") -> Examined:
    """An audit with these findings, of a snapshot with a kernel and more packages."""
    names = [KERNEL, *(f"more-{number}-1.noarch.rpm" for number in range(packages - 1))]
    row = Row("kernel-0:6.1.0-1.x86_64", "b" * 64, (), (), "c" * 64, 1024, "d" * 64)
    document = Document(
        2, SNAPSHOT, "toy", "toy", "", False, "", "", Signer("own", "", "A" * 40, False), None, 0,
        MadeBy("", "", ""), {"stock": tuple(names)}, dict.fromkeys(names, row),
    )  # fmt: skip
    identity = Identity(
        KERNEL, "kernel", Kind.KERNEL, Role.STOCK, (), "6.1.0", Interface.NONE, (), None, (), "modules",
        (Evidence("role", evidence, "/ip_vs.ko", "module's content"),), (), (),
    )  # fmt: skip
    verdict = max((row.result for row in findings), key=list(Result).index, default=Result.PASS)
    result = Audit(SNAPSHOT, Path("/there"), "toy", "e" * 64, "", "", verdict, findings, {})
    return Examined(result, Audited(Path("/there"), document, None), {}, {KERNEL: identity}, 0)


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
