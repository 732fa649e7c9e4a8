"""The verb `cves` on records and a build as they lie on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExitCode
from pipeline.packaging import compiled_sources, step_record
from pipeline.packaging.compiled_sources import CompiledSources, SourceTree
from pipeline.packaging.step_record import Phase, Record
from tests.fixtures.commandline import Inv

XMIT = "net/netfilter/ipvs/ip_vs_xmit.c"
FIXED = [
    {"version": "0", "lessThan": "4.7", "status": "unaffected", "versionType": "semver"},
    {"version": "6.1.200", "lessThanOrEqual": "6.1.*", "status": "unaffected", "versionType": "semver"},
]


def step(inv: Inv, name: str, number: int, files: tuple[str, ...], **parameters: Any) -> None:
    """Keeps the finished run of a step that compiled `files`."""
    key = f"{number:020}"
    place = inv.artifacts / "steps/lts61" / name.replace(":", "-") / key
    (place / "out").mkdir(parents=True)
    tree = SourceTree(dict.fromkeys(files, "0" * 64), {}, ())
    compiled_sources.write(place / "out", CompiledSources(1, name, 1, 0, {"linux-6.1": tree}))
    known = Record("lts61", name, key, Phase.DONE, float(number), 1, inputs={"parameters": json.dumps(parameters)})
    replace(known, made=step_record.scan(place, [])).write(place)


@pytest.fixture
def inv(tmp_path: Path) -> Inv:
    """A host with a small kernel of lts61 built twice, and modules for it."""
    made = Inv(tmp_path)
    kernel = {"version": "6.1.187", "uname": "6.1.187-1.lts61.small.x86_64", "small": True}
    step(made, "kernel:stock", 1, ("old.c",), **kernel)
    step(made, "kernel:stock", 2, ("net/core/dev.c",), **kernel)
    step(made, "package:kmod-lvs-fullnat", 3, (XMIT,), uname=kernel["uname"])
    step(made, "package:other", 4, ("other.c",), uname="6.1.186-1.lts61.x86_64")
    return made


def record(place: Path, *files: str, name: str = "CVE-2026-45917") -> Path:
    rows = [{"vendor": "Linux", "product": "Linux", "defaultStatus": "affected", "versions": FIXED}]
    cna = {"title": "ipvs: \x1b[31ma fix", "affected": [{**rows[0], "programFiles": list(files)}]}
    place.mkdir(exist_ok=True)
    path = place / f"{name}.json"
    path.write_text(json.dumps({"cveMetadata": {"cveId": name}, "containers": {"cna": cna}}))
    return path


def test_kernel_and_modules_count_as_one_build_of_the_newest_run(inv: Inv, tmp_path: Path) -> None:
    record(tmp_path / "cve", XMIT)
    record(tmp_path / "cve", "old.c", name="CVE-2026-0002")
    document = inv("cves", "lts61", tmp_path / "cve", "--kernel-config", "small", "--offline", "--json").json
    assert (document["version"], document["vendor"], document["compiled"]) == ("6.1.187", False, 2)
    assert document["steps"] == {"kernel:stock": f"{2:020}", "package:kmod-lvs-fullnat": f"{3:020}"}
    other, found = document["findings"]
    assert (found["id"], found["verdict"], found["why"]) == ("CVE-2026-45917", "concerns", "fixed in 6.1.200")
    assert other["verdict"] == "undecided", "without the source its names are not known"
    assert "not known" in document["notes"][0]


def test_the_text_says_the_same_and_what_is_not_known(inv: Inv, tmp_path: Path) -> None:
    (record(tmp_path / "cve", XMIT).parent / "broken.json").write_text("{")
    out = inv("cves", "lts61", tmp_path / "cve", "--kernel-config", "small", "--offline").out
    for text in (
        "1 concern 6.1.187, by its version and by files that were compiled", XMIT, "fixed in 6.1.200",
        "not known: files of the source and hunks of the line's patches are not known",
        "broken.json: no CVE record", "1 records of the kernel: 1 concerns; 0 of other products, 1 skipped",
    ):  # fmt: skip
        assert text in out, out
    assert "\x1b" not in out


def test_a_line_without_such_a_build_is_refused_with_the_command_that_makes_one(inv: Inv, tmp_path: Path) -> None:
    path = record(tmp_path / "cve", XMIT)
    err = inv("cves", "lts61", path, "--offline", expect=ExitCode.USAGE).err
    assert "no full kernel whose compiled sources are recorded" in err
    assert "next: ./inv build kernel --line lts61 --kernel-config full" in err


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("missing", ExitCode.USAGE, "no CVE record of the Linux kernel"),
        ("empty", ExitCode.USAGE, "no file whose name ends with .json"),
        ("broken.json", ExitCode.REFUSED, "no CVE record can be read"),
    ],
)
def test_a_wrong_path_is_refused(inv: Inv, tmp_path: Path, name: str, code: ExitCode, text: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[" * 100_000)
    assert text in inv("cves", "lts61", tmp_path / name, "--kernel-config", "small", "--offline", expect=code).err
