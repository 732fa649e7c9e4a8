"""CVE records of the kernel's CNA: read as they are, judged for a kernel, and named where they are broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import cve_records
from pipeline.audit.cve_records import CveRecord, RecordSet, Status, numbers
from pipeline.audit.cve_report import KernelBuild, OurHunks, Verdict, claimed, judge, report
from pipeline.errors import Refused, UsageError

XMIT, CTL = "net/netfilter/ipvs/ip_vs_xmit.c", "net/netfilter/ipvs/ip_vs_ctl.c"
# As vulns.git has it, shortened: a range of commits, and one of versions of mainline and of each stable branch.
GIT = {"version": "39b972231536", "lessThan": "3dd428039e06", "status": "affected", "versionType": "git"}
VERSIONS = [
    {"version": "4.7", "status": "affected"},
    {"version": "0", "lessThan": "4.7", "status": "unaffected", "versionType": "semver"},
    {"version": "6.1.100", "lessThanOrEqual": "6.1.*", "status": "unaffected", "versionType": "semver"},
    {"version": "6.6.44", "lessThanOrEqual": "6.6.*", "status": "unaffected", "versionType": "semver"},
    {"version": "6.11", "lessThanOrEqual": "*", "status": "unaffected", "versionType": "original_commit_for_fix"},
]


def affected(default: str, versions: list[Any], **more: Any) -> dict[str, Any]:
    linux = {"vendor": "Linux", "product": "Linux", "programFiles": [XMIT]}
    return {**linux, "defaultStatus": default, "versions": versions, **more}


def text(*products: dict[str, Any], name: str = "CVE-2024-42322", state: str = "PUBLISHED") -> Any:
    rows = list(products) or [affected("unaffected", [GIT]), affected("affected", VERSIONS)]
    return {
        "dataType": "CVE_RECORD",
        "cveMetadata": {"cveId": name, "state": state, "assignerShortName": "Linux"},
        "containers": {"cna": {"title": "ipvs: a fix", "affected": rows}},
    }


def parsed(*products: dict[str, Any], **more: str) -> CveRecord:
    found = cve_records.parse(json.dumps(text(*products, **more)).encode())
    assert found is not None
    return found


def build(version: str = "6.1.90", **more: Any) -> KernelBuild:
    tree = frozenset({XMIT, CTL, "net/core/dev.c"})
    ours = {XMIT: (OurHunks("director", "fullnat-0006", XMIT, (1, 2)),)}
    given = {"line": "lts61", "uname": version, "steps": {"kernel:stock": "k"}, "compiled": frozenset({XMIT})}
    return KernelBuild(version=version, **(given | {"tree": tree, "patches": ours, "claims": None} | more))


@pytest.mark.parametrize(
    ("version", "status", "why"),
    [
        ("4.6.9", Status.UNAFFECTED, "came with 4.7"),
        ("4.7", Status.AFFECTED, ""),
        ("4.7.0", Status.AFFECTED, ""),
        ("6.1.99", Status.AFFECTED, ""),
        ("6.1.100", Status.UNAFFECTED, "fixed in 6.1.100"),
        ("6.1.187", Status.UNAFFECTED, "fixed in 6.1.100"),
        ("6.2.1", Status.AFFECTED, ""),
        ("6.11", Status.UNAFFECTED, "fixed in 6.11"),
        ("7.0", Status.UNAFFECTED, "fixed in 6.11"),
    ],
)
def test_the_range_that_holds_a_version_decides(version: str, status: Status, why: str) -> None:
    record = parsed()
    assert record.status(numbers(version)) is status
    if why:
        assert record.why_unaffected(numbers(version)) == why


def test_a_stable_branch_that_got_the_mistake_later_is_affected() -> None:
    """The second object knows mainline alone: 4.14 had the mistake from 4.14.224 to 4.14.307."""
    own = {"version": "4.14.224", "lessThan": "4.14.308", "status": "affected", "versionType": "semver"}
    mainline = [{"version": "0", "lessThan": "5.12", "status": "unaffected", "versionType": "semver"}]
    record = parsed(affected("unaffected", [GIT, own]), affected("affected", mainline))
    found = [record.status(numbers(version)) for version in ("4.14.223", "4.14.224", "4.14.307", "4.14.308", "5.12")]
    assert found == [Status.UNAFFECTED, Status.AFFECTED, Status.AFFECTED, Status.UNAFFECTED, Status.AFFECTED]


def test_the_fixes_that_a_kernel_lacks_are_named_in_order() -> None:
    assert parsed().fixes(numbers("6.1.90")) == ("6.1.100", "6.6.44", "6.11")
    assert parsed().fixes(numbers("6.6.1")) == ("6.6.44", "6.11")


def test_a_record_concerns_a_kernel_by_its_version_and_by_a_compiled_file() -> None:
    found = judge(parsed(), build())
    assert (found.verdict, found.why, found.compiled) == (Verdict.CONCERNS, "fixed in 6.1.100", (XMIT,))
    assert [(row.patch, row.hunks) for row in found.hunks] == [("fullnat-0006", (1, 2))]
    assert judge(parsed(), build("6.2.1")).why == "no fix in 6.2"


@pytest.mark.parametrize(
    ("record", "verdict", "why"),
    [
        (parsed(state="REJECTED"), Verdict.NOISE, "its state is REJECTED"),
        (parsed(affected("affected", VERSIONS, programFiles=[CTL])), Verdict.NOISE, "none of its files was compiled"),
        (
            parsed(affected("affected", VERSIONS, programFiles=["fs/smb/client/dfs.c"])),
            Verdict.UNDECIDED,
            "this source has no fs/smb/client/dfs.c: it may have another name here",
        ),
        (parsed(affected("affected", VERSIONS, programFiles=[])), Verdict.UNDECIDED, "it names no files"),
        (parsed(affected("unaffected", [GIT])), Verdict.UNDECIDED, "it has no range of versions"),
        (
            parsed(affected("unaffected", [GIT], programFiles=[CTL])),
            Verdict.NOISE,
            "none of its files was compiled",
        ),
    ],
)
def test_what_does_not_concern_it_says_why(record: CveRecord, verdict: Verdict, why: str) -> None:
    found = judge(record, build())
    assert (found.verdict, found.why) == (verdict, why)


def test_a_match_of_headers_alone_is_marked() -> None:
    record = parsed(affected("affected", VERSIONS, programFiles=["include/net/ip_vs.h", CTL]))
    assert judge(record, build(compiled=frozenset({"include/net/ip_vs.h"}))).why == "fixed in 6.1.100; only headers"


def test_without_the_names_of_the_source_nothing_is_noise_for_its_files() -> None:
    record = parsed(affected("affected", VERSIONS, programFiles=[CTL]))
    assert judge(record, build(tree=None)).verdict is Verdict.UNDECIDED


def test_of_a_vendors_kernel_only_the_changelog_tells() -> None:
    named, other = parsed(), parsed(name="CVE-2024-0001")
    vendor = build("2.6.32", claims=frozenset({named.id, "CVE-2010-0002"}))
    found = report(RecordSet((other, named), 0, ()), vendor, ())
    assert [(row.id, row.verdict) for row in found.findings] == [
        ("CVE-2024-0001", Verdict.NOT_CLAIMED), (named.id, Verdict.CLAIMED_FIXED),
    ]  # fmt: skip
    assert found.claims == ("CVE-2010-0002", named.id) and found.vendor
    assert found.findings[0].hunks, "where our hunks lie is a fact all the same"


@pytest.mark.parametrize(
    ("entries", "claims", "reverted"),
    [
        (["- [net] a (A Person) [12 34] {CVE-2012-0001}"], ["CVE-2012-0001"], []),
        (["- Revert: [fs] a (B) [1] {CVE-2012-0001}", "- [fs] a (A) [1] {CVE-2012-0001}"], [], ["CVE-2012-0001"]),
        (["- [fs] Revert: a (B) [1] {CVE-2012-0001}", "- [fs] a (A) [1] {CVE-2012-0001}"], [], ["CVE-2012-0001"]),
        (['- [fs] Revert "a" (B) [1]', "- [fs] a (A) [1 2] {CVE-2012-0001}"], [], ["CVE-2012-0001"]),
        # once more after that
        (
            ["- [fs] a (A) {CVE-2012-0001}", "- Revert: [fs] a (A) {CVE-2012-0001}", "- [fs] a (A) {CVE-2012-0001}"],
            ["CVE-2012-0001"],
            [],
        ),
        # a mistake that is taken back is the fix, whether its own entry is there or not
        (['- [fs] Revert "proc: b" (B) [1] {CVE-2012-0002}', "- [fs] proc: b (A) [1]"], ["CVE-2012-0002"], []),
        (["- Revert: [fs] c (B) [1] {CVE-2012-0003}"], ["CVE-2012-0003"], []),
        (["- [kernel] failure to revert d (A) {CVE-2012-0004 CVE-2012-0005}"], ["CVE-2012-0004", "CVE-2012-0005"], []),
        (["no entry, CVE-2012-0006"], ["CVE-2012-0006"], []),
    ],
)
def test_a_changelog_claims_what_it_does_not_revert(entries: list[str], claims: list[str], reverted: list[str]) -> None:
    assert [sorted(found) for found in claimed("\n".join(entries))] == [claims, reverted]


def test_a_record_whose_fix_was_reverted_is_not_claimed_and_says_why() -> None:
    record = parsed()
    found = report(RecordSet((record,), 0, ()), build(claims=frozenset(), reverted=frozenset({record.id})), ())
    assert (found.findings[0].verdict, found.reverted) == (Verdict.NOT_CLAIMED, (record.id,))
    assert "reverts the change" in found.findings[0].why


def test_a_record_of_another_product_is_none_of_the_kernels() -> None:
    assert cve_records.parse(json.dumps(text(affected("affected", [], vendor="X", product="Y"))).encode()) is None


def spoilt(change: Callable[[Any], object]) -> bytes:
    whole = copy.deepcopy(text())
    change(whole)
    return json.dumps(whole).encode()


def product(whole: Any) -> Any:
    return whole["containers"]["cna"]["affected"][1]


BROKEN: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "Expecting property name"),
    "deep nesting": (b"[" * 200_000 + b"]" * 200_000, "recursion"),
    "a number of many digits": (b'{"cveMetadata": ' + b"9" * 5000 + b"}", "digits"),
    "no text": (b'{"\xff": 1}', "decode"),
    "a list": (b"[]", "the file: expected an object, got list"),
    "nothing": (b"", "Expecting value"),
    "no id": (spoilt(lambda whole: whole["cveMetadata"].pop("cveId")), "cveId: expected text, got NoneType"),
    "an id that is a path": (
        spoilt(lambda whole: whole["cveMetadata"].update(cveId="../../etc")),
        "expected CVE-YEAR-NUMBER",
    ),
    "files that are a text": (
        spoilt(lambda whole: product(whole).update(programFiles=XMIT)),
        "programFiles: expected a list, got str",
    ),
    "a file that is a number": (
        spoilt(lambda whole: product(whole).update(programFiles=[1])),
        "programFiles: expected text, got int",
    ),
    "a path without end": (
        spoilt(lambda whole: product(whole).update(programFiles=["a" * 5000])),
        "programFiles: expected a path of at most 4096 characters, got 5000",
    ),
    "files without number": (
        spoilt(lambda whole: product(whole).update(programFiles=[f"{n}.c" for n in range(10_001)])),
        "programFiles: expected at most 10000",
    ),
    "ranges without number": (
        spoilt(lambda whole: product(whole).update(versions=[GIT] * 10_001)),
        "versions: expected at most 10000",
    ),
    "a version that is a word": (
        spoilt(lambda whole: product(whole)["versions"][0].update(version="next")),
        "versions.version: expected numbers and dots, got 'next'",
    ),
    "a status that is none": (
        spoilt(lambda whole: product(whole)["versions"][0].update(status="maybe")),
        "status: expected affected, unaffected or unknown, got 'maybe'",
    ),
    "versions that are one": (
        spoilt(lambda whole: product(whole).update(versions={})),
        "versions: expected a list, got dict",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_named_and_passed_over(tmp_path: Path, kind: str) -> None:
    data, why = BROKEN[kind]
    (tmp_path / "CVE-2024-1.json").write_bytes(data)
    (tmp_path / "CVE-2024-42322.json").write_text(json.dumps(text()))
    found = cve_records.read(tmp_path)
    assert [record.id for record in found.records] == ["CVE-2024-42322"]
    [skipped] = found.skipped
    assert skipped.path.name == "CVE-2024-1.json" and why in skipped.why and len(skipped.why) < 300
    with pytest.raises(Refused, match="no CVE record can be read"):
        cve_records.read(tmp_path / "CVE-2024-1.json")


def test_links_fifos_and_huge_files_are_passed_over(tmp_path: Path) -> None:
    import os

    (tmp_path / "good.json").write_text(json.dumps(text()))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "device.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "huge.json").write_bytes(b"")
    os.truncate(tmp_path / "huge.json", 1 << 40)
    found = cve_records.read(tmp_path)
    assert len(found.records) == 1
    assert sorted(row.path.name for row in found.skipped) == ["device.json", "fifo.json", "huge.json"]


def test_records_of_both_repositories_are_read(tmp_path: Path) -> None:
    """cvelistV5 has directories by number; vulns.git has rejected records in one of their own, under another key."""
    old = text(name="CVE-2023-0002")
    old["cveMetadata"]["cveID"] = old["cveMetadata"].pop("cveId")
    for name, data in {
        "cves/2024/42xxx/a.json": text(),
        "cve/rejected/2023/b.json": old,
        "cve/published/c.json": text(),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(data))
    (tmp_path / "README").write_text("no record")
    found = cve_records.read(tmp_path)
    assert [(row.id, row.rejected) for row in found.records] == [
        ("CVE-2023-0002", "it lies in a directory rejected"), ("CVE-2024-42322", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["missing", ".", "other.json"])
def test_a_place_without_records_is_refused(tmp_path: Path, name: str) -> None:
    if name == "other.json":
        (tmp_path / name).write_text(json.dumps(text(affected("affected", [], vendor="X"))))
    with pytest.raises(UsageError, match="no CVE record of the Linux kernel") as refused:
        cve_records.read(tmp_path / name, "lts61")
    assert refused.value.hint.endswith("; then ./inv cves lts61 vulns/cve"), "as the verb's help has it"
